package oslimit

import (
	"errors"
	"syscall"
)

// The numbers of Windows Sockets, which package syscall does not name.
const (
	wsaEMFILE        syscall.Errno = 10024
	wsaEADDRNOTAVAIL syscall.Errno = 10049
	wsaENOBUFS       syscall.Errno = 10055

	errorTooManyOpenFiles syscall.Errno = 4
	errorNotEnoughMemory  syscall.Errno = 8
)

func reached(err error) bool {
	var e syscall.Errno
	if !errors.As(err, &e) {
		return false
	}
	switch e {
	case wsaEMFILE, wsaEADDRNOTAVAIL, wsaENOBUFS, errorTooManyOpenFiles, errorNotEnoughMemory:
		return true
	}
	return false
}

func noProcess(error) bool { return false }
