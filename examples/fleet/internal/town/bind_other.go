//go:build unix && !linux

package town

import "syscall"

// bind does nothing: children see that their standard input ends.
func bind(*syscall.SysProcAttr) {}
