//go:build unix

package oslimit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

func TestLimitsAreToldApart(t *testing.T) {
	dial := func(e syscall.Errno) error {
		return fmt.Errorf("dialing: %w", &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", e)})
	}
	fork := func(e syscall.Errno) error {
		return &exec.Error{Name: "check", Err: os.NewSyscallError("fork/exec", e)}
	}
	for _, tt := range []struct {
		err                error
		reached, noProcess bool
	}{
		{nil, false, false},
		{io.EOF, false, false},
		{context.DeadlineExceeded, false, false},
		{errors.New("too many open files"), false, false}, // words are no proof
		{dial(syscall.ECONNREFUSED), false, false},
		{dial(syscall.ECONNRESET), false, false},
		{dial(syscall.ETIMEDOUT), false, false},
		{dial(syscall.EMFILE), true, true},
		{dial(syscall.ENFILE), true, true},
		{dial(syscall.ENOBUFS), true, true},
		{dial(syscall.ENOMEM), true, true},
		{dial(syscall.EADDRNOTAVAIL), true, true},
		{fork(syscall.EMFILE), true, true},
		{fork(syscall.EAGAIN), false, true},
		{fork(syscall.ENOENT), false, false},
	} {
		if got := Reached(tt.err); got != tt.reached {
			t.Errorf("Reached(%v) = %v", tt.err, got)
		}
		if got := NoProcess(tt.err); got != tt.noProcess {
			t.Errorf("NoProcess(%v) = %v", tt.err, got)
		}
	}
}
