//go:build linux || darwin

package process

import (
	"os"
	"syscall"
)

const (
	canSuspend = true
	sigStop    = syscall.SIGSTOP
	sigCont    = syscall.SIGCONT
)

// killedName is how a death by SIGKILL reads in an Exit.
var killedName = syscall.SIGKILL.String()

// signalGroup sends s to the group that p leads. p must not have been waited for.
func signalGroup(p *os.Process, s syscall.Signal) error { return syscall.Kill(-p.Pid, s) }

// killGroup kills the group that p leads.
func killGroup(p *os.Process) error { return signalGroup(p, syscall.SIGKILL) }

// outcome returns the exit code, or -1 and the signal's name.
func outcome(s *os.ProcessState) (code int, signal string) {
	if s == nil {
		return -1, "unknown" // somebody else in this process has waited for it
	}
	if ws, ok := s.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return -1, ws.Signal().String()
	}
	return s.ExitCode(), ""
}
