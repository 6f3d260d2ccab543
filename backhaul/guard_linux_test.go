package backhaul

import (
	"crypto/tls"
	"net"
	"syscall"
	"testing"
)

// The kernel is told to probe, through TLS as well.
func TestConnectionsAreGuarded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	guard(tls.Client(c, &tls.Config{ServerName: "owner"}))
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		for _, tt := range []struct{ level, option, want int }{
			{syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1},
			{syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, 2},
			{syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL, 1},
			{syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT, 3},
		} {
			if got, err := syscall.GetsockoptInt(int(fd), tt.level, tt.option); got != tt.want || err != nil {
				t.Errorf("option %d is %d, %v; want %d", tt.option, got, err, tt.want)
			}
		}
	})
	a, b := net.Pipe() // nothing to guard
	guard(a)
	a.Close()
	b.Close()
}
