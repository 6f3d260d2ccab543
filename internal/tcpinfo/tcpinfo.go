// Package tcpinfo asks the kernel what it knows about a TCP connection (TCP_INFO). On Linux it
// answers; elsewhere, and where a question is newer than the kernel, it says that there is no
// answer. What is unsafe in that stands in one function of it.
package tcpinfo

import (
	"net"
	"time"
)

// Info is what the kernel has counted of a connection.
type Info struct {
	Established bool
	Closed      bool // in both directions

	Unacked  uint32 // segments that were sent and not acknowledged
	Unsent   uint32 // bytes that wait to be sent
	Probes   uint8  // of a closed window, or of an idle connection: in a row, without an answer
	Resent   uint32 // segments that were sent again, ever
	Segments uint32 // received, ever
	Received uint64 // bytes, ever; the end of the stream counts as one

	LastSent  time.Duration // since data was sent last; a probe has none
	LastHeard time.Duration // since anything was received
}

// TCP returns the TCP connection that c is, or has beneath it, as [crypto/tls.Conn] has. It returns
// nil where there is none to be seen.
func TCP(c net.Conn) *net.TCPConn {
	for {
		if t, ok := c.(*net.TCPConn); ok {
			return t
		}
		inner, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		c = inner.NetConn()
	}
}
