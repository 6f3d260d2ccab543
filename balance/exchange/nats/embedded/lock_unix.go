//go:build unix

package embedded

import (
	"os"
	"syscall"
)

// lock locks the file until it is closed or the process ends.
func lock(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }
