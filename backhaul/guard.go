package backhaul

import (
	"net"
	"time"
)

// silence is how long an established connection may be dead before it is given up.
const silence = 5 * time.Second

// guard makes the kernel find out that the other end is gone: after 3 unanswered probes, one a second, where nothing is
// under way; and on Linux, where data is, when none of it was acknowledged for 5 s. HTTP/2 to owners has pings besides.
// What is not TCP, or hides it, stays as it is: then the request's own deadline is what bounds the wait.
func guard(c net.Conn) {
	for {
		if t, ok := c.(*net.TCPConn); ok {
			t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3})
			userTimeout(t, silence)
			return
		}
		inner, ok := c.(interface{ NetConn() net.Conn }) // as tls.Conn has it
		if !ok {
			return
		}
		c = inner.NetConn()
	}
}
