//go:build linux && (386 || s390x)

package rtt

import (
	"syscall"
	"unsafe"
)

// tcpInfo is not available: these two multiplex their socket calls.
func tcpInfo(uintptr, unsafe.Pointer, *uint32) syscall.Errno { return syscall.ENOSYS }
