package rtt

import (
	"net"
	"time"
)

// MinRTT returns the kernel's least round trip of a TCP connection (TCP_INFO, tcpi_min_rtt: the minimum of the last
// five minutes), for [Mesh.Observe]. It is right even in the middle of a download that fills every queue. It returns
// false where there is none: a system other than Linux, a connection that is not TCP, or one that has not acknowledged
// anything. A *tls.Conn must be unwrapped with its NetConn method.
func MinRTT(c net.Conn) (time.Duration, bool) { return minRTT(c) }
