package rtt

import (
	"net"
	"syscall"
	"time"

	"github.com/ebbkit/ebb/internal/tcpinfo"
)

// MinRTT returns the kernel's least round trip of a TCP connection (TCP_INFO, tcpi_min_rtt: the minimum of the last
// five minutes), for [Mesh.Observe]. It is right even in the middle of a download that fills every queue. It returns
// false where there is none: a system other than Linux, a connection that is not TCP, or one that has not acknowledged
// anything. A *tls.Conn must be unwrapped with its NetConn method.
func MinRTT(c net.Conn) (time.Duration, bool) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return 0, false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0, false
	}
	var r tcpinfo.Reader
	return r.MinRTT(raw)
}
