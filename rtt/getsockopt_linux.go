//go:build linux && !386 && !s390x

package rtt

import (
	"syscall"
	"unsafe"
)

func tcpInfo(fd uintptr, info unsafe.Pointer, size *uint32) syscall.Errno {
	_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, syscall.IPPROTO_TCP, syscall.TCP_INFO,
		uintptr(info), uintptr(unsafe.Pointer(size)), 0)
	return errno
}
