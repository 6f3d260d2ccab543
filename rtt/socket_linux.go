package rtt

import (
	"net"
	"net/netip"
	"syscall"
	"unsafe"
)

// udpSocket reads datagrams together with the time the kernel received them (SO_TIMESTAMPNS).
type udpSocket struct {
	c       *net.UDPConn
	control [16]uint64 // 8-byte aligned room for the control messages
}

func newUDPSocket(c *net.UDPConn) socket {
	raw, err := c.SyscallConn()
	if err != nil {
		return plainUDP{c}
	}
	var opt error
	err = raw.Control(func(fd uintptr) {
		opt = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_TIMESTAMPNS, 1)
	})
	if err != nil || opt != nil {
		return plainUDP{c}
	}
	return &udpSocket{c: c}
}

// read is called from one goroutine.
func (s *udpSocket) read(b []byte) (int, netip.AddrPort, int64, error) {
	oob := unsafe.Slice((*byte)(unsafe.Pointer(&s.control)), unsafe.Sizeof(s.control))
	n, oobn, _, from, err := s.c.ReadMsgUDPAddrPort(b, oob)
	if err != nil {
		return n, netip.AddrPort{}, 0, err
	}
	return n, unmap(from), stampOf(oob[:oobn]), nil
}

// stampOf finds the receive stamp among control messages. It is syscall.ParseSocketControlMessage
// without its allocation, for one message whose place in oob is aligned.
func stampOf(oob []byte) int64 {
	const head = syscall.SizeofCmsghdr
	const align = unsafe.Sizeof(uintptr(0)) - 1
	for len(oob) >= head {
		h := (*syscall.Cmsghdr)(unsafe.Pointer(&oob[0]))
		size := uint64(h.Len)
		if size < head || size > uint64(len(oob)) {
			return 0
		}
		if h.Level == syscall.SOL_SOCKET && h.Type == syscall.SO_TIMESTAMPNS &&
			size >= uint64(head+unsafe.Sizeof(syscall.Timespec{})) {
			return (*syscall.Timespec)(unsafe.Pointer(&oob[head])).Nano()
		}
		next := (uintptr(size) + align) &^ align
		if next >= uintptr(len(oob)) {
			return 0
		}
		oob = oob[next:]
	}
	return 0
}

func (s *udpSocket) write(b []byte, to netip.AddrPort) error {
	_, err := s.c.WriteToUDPAddrPort(b, to)
	return err
}

func (s *udpSocket) addr() net.Addr { return s.c.LocalAddr() }
func (s *udpSocket) close() error   { return s.c.Close() }
