//go:build unix

package town

import (
	"os"
	"syscall"
)

func attributes() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setpgid: true} // this process handles Ctrl-C, and ends the others
	bind(a)
	return a
}

func pause(p *os.Process) error { return p.Signal(syscall.SIGSTOP) }

func resume(p *os.Process) error { return p.Signal(syscall.SIGCONT) }

func terminate(p *os.Process) error { return p.Signal(syscall.SIGTERM) }
