//go:build unix

package oslimit

import (
	"errors"
	"syscall"
)

func reached(err error) bool {
	var e syscall.Errno
	if !errors.As(err, &e) {
		return false
	}
	switch e {
	case syscall.EMFILE, syscall.ENFILE, // descriptors: of the process, of the host
		syscall.ENOBUFS, syscall.ENOMEM,
		syscall.EADDRNOTAVAIL: // of a connect: no port is left on our side
		return true
	}
	return false
}

func noProcess(err error) bool { return errors.Is(err, syscall.EAGAIN) }
