//go:build unix

package chaos

import (
	"bytes"
	"fmt"
	"os"
	"syscall"
)

const (
	kill   = syscall.SIGKILL
	stop   = syscall.SIGSTOP
	resume = syscall.SIGCONT
)

func signal(pid int, s syscall.Signal) error { return syscall.Kill(pid, s) }

// of reports whether a process is a machine of this run; false if the system cannot tell.
func of(pid int, record string) bool {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return err == nil && bytes.Contains(env, []byte("="+record+"\x00"))
}
