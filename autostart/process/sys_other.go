//go:build !linux && !darwin

package process

import (
	"os"
	"syscall"
)

const (
	canSuspend = false
	sigStop    = syscall.Signal(0)
	sigCont    = syscall.Signal(0)
	killedName = "killed"
)

// attributes returns nil: nothing special.
func attributes() *syscall.SysProcAttr { return nil }

// awaitExit reports false: the end is seen when the process is waited for.
func awaitExit(int) bool { return false }

// seesStopped says that isStopped cannot tell.
const seesStopped = false

// isStopped is not used where nothing can be suspended.
func isStopped(int) bool { return false }

// signalGroup kills p whatever the signal, since no other can be sent on every such system. Signal
// 0 does nothing.
func signalGroup(p *os.Process, s syscall.Signal) error {
	if s == 0 {
		return nil
	}
	return killGroup(p)
}

// killGroup kills p.
func killGroup(p *os.Process) error { return p.Kill() }

// outcome returns the exit code.
func outcome(s *os.ProcessState) (code int, signal string) {
	if s == nil {
		return -1, "unknown"
	}
	return s.ExitCode(), ""
}
