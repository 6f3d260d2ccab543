//go:build linux && !386 && !s390x

package tcpinfo

import (
	"syscall"
	"unsafe"
)

// getsockopt writes TCP_INFO into b, and sets size to the number of bytes that it has.
func getsockopt(fd uintptr, b *[bufferSize]byte, size *uint32) syscall.Errno {
	_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, syscall.IPPROTO_TCP,
		syscall.TCP_INFO, uintptr(unsafe.Pointer(b)), uintptr(unsafe.Pointer(size)), 0)
	return errno
}
