package backhaul

import (
	"crypto/tls"
	"io"
	"net"
	"syscall"
	"testing"

	"github.com/ebbkit/ebb/internal/tcpinfo"
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

// over waits until the kernel has a connection closed.
func over(t *testing.T, c *net.TCPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var info tcpinfo.Reader
	poll(func() bool { i, ok := info.Info(raw); return ok && i.Closed })
}

// A reset that a write has been told of is found, whatever is around the connection.
func TestAResetIsFoundAfterItWasTold(t *testing.T) {
	a, b := tcpPair(t)
	breakOff(b)
	over(t, a)
	if _, err := a.Write([]byte("x")); err == nil {
		t.Fatal("nobody is told of the reset")
	}
	for name, c := range map[string]any{
		"nothing": a, "LimitListener": &limited{Conn: a}, "Server": &greeted{Conn: a}, "Handler": &ownerConn{Conn: a}, "an edge's": &edgeConn{Conn: a},
		"several": &greeted{Conn: &ownerConn{Conn: &limited{Conn: a}}},
	} {
		if err := endOf(c, false); err != errReset {
			t.Errorf("around it %s: %v", name, err)
		}
	}
}

// A connection that both sides have ended was not reset.
func TestAConnectionThatBothSidesEndEndsWell(t *testing.T) {
	a, b := tcpPair(t)
	b.CloseWrite()
	io.Copy(io.Discard, a)
	a.CloseWrite()
	io.Copy(io.Discard, b)
	over(t, a)
	if err := endOf(a, true); err != nil {
		t.Error(err)
	}
}

// A connection is looked at for as long as somebody is about to write to it: what he writes is
// under way after the look.
func TestAWriteThatIsAboutToHappenIsLookedAt(t *testing.T) {
	a, _ := tcpPair(t)
	g := &guards{every: 1 << 40} // looks are the test's
	var c guarded
	if !c.watch(g, a) {
		t.Skip("the kernel cannot be asked")
	}
	c.begin()
	if g.look(); len(g.list) != 1 {
		t.Error("nobody looks at a connection that is being written to")
	}
	c.end()
	if g.look(); len(g.list) != 0 || g.timer != nil {
		t.Error("a connection is looked at on which nothing is under way")
	}
}

// Only an error becomes the news that the peer is gone.
func TestAConnectionThatWasGivenUpSaysSo(t *testing.T) {
	var c guarded
	if err := c.err(io.EOF); err != io.EOF {
		t.Errorf("before: %v", err)
	}
	c.given.Store(true)
	if err := c.err(io.EOF); err != errSilent {
		t.Errorf("an error: %v", err)
	}
	if err := c.err(nil); err != nil {
		t.Errorf("no error: %v", err)
	}
}
