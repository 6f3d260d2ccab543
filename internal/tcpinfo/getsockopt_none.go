//go:build linux && (386 || s390x)

package tcpinfo

import "syscall"

// getsockopt is not available: these two multiplex their socket calls.
func getsockopt(uintptr, *[bufferSize]byte, *uint32) syscall.Errno { return syscall.ENOSYS }
