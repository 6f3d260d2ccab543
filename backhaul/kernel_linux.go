//go:build linux && !386 && !s390x

package backhaul

import (
	"encoding/binary"
	"net"
	"syscall"
	"unsafe"
)

// Of struct tcp_info, which is part of the kernel's interface and only ever grows: the state, and how many bytes have been
// received (since Linux 4.1); the end counts as one.
const (
	tcpEstablished = 1
	receivedAt     = 128
)

// kernel asks the kernel what a TCP connection has received. To peek for waiting bytes would not do: another goroutine may
// have taken them and not have said so yet, while this count only grows. It is not safe for concurrent use.
type kernel struct {
	raw  syscall.RawConn // nil: no answer
	ask  func(fd uintptr)
	info [receivedAt + 8]byte
	ok   bool
	base int64 // received before we came: a preface of the dialer's, perhaps
}

func (k *kernel) watch(c net.Conn) {
	tcp, ok := c.(*net.TCPConn) // of what TLS reads ahead the kernel knows nothing
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	k.raw, k.ask = raw, k.read
	n, _, ok := k.received()
	if !ok {
		k.raw = nil
	}
	k.base = n
}

func (k *kernel) read(fd uintptr) {
	size := uint32(len(k.info))
	_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, syscall.IPPROTO_TCP, syscall.TCP_INFO,
		uintptr(unsafe.Pointer(&k.info)), uintptr(unsafe.Pointer(&size)), 0)
	k.ok = errno == 0 && size == uint32(len(k.info))
}

func (k *kernel) received() (n int64, established, ok bool) {
	if err := k.raw.Control(k.ask); err != nil || !k.ok {
		return 0, false, false
	}
	return int64(binary.NativeEndian.Uint64(k.info[receivedAt:])), k.info[0] == tcpEstablished, true
}

// holds reports whether the peer has sent more than the got bytes that were read, or has ended the connection.
func (k *kernel) holds(got int64) bool {
	if k.raw == nil {
		return false
	}
	n, established, ok := k.received()
	return ok && (!established || n-k.base > got)
}
