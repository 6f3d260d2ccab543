package autostart

import (
	"encoding/binary"
	"net"
	"syscall"
)

// The states of a TCP connection that the other side has closed, as in the kernel's tcp_states.h.
const (
	tcpClose     = 7
	tcpCloseWait = 8
	tcpLastAck   = 9
)

// watchable reports whether gone can tell anything of c.
func watchable(c net.Conn) bool {
	_, ok := bare(c).(*net.TCPConn)
	return ok
}

// gone reports whether the other side of c has closed it.
func gone(c net.Conn) bool {
	tcp, ok := bare(c).(*net.TCPConn)
	if !ok {
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return true // closed on this side
	}
	var state byte
	err = raw.Control(func(fd uintptr) {
		// The state is the first byte of tcp_info; the kernel writes as much of it as there is room for.
		v, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO)
		if err == nil {
			var first [4]byte
			binary.NativeEndian.PutUint32(first[:], uint32(v))
			state = first[0]
		}
	})
	return err != nil || state == tcpClose || state == tcpCloseWait || state == tcpLastAck
}
