package tcp

import (
	"crypto/tls"
	"io"
	"net"
	"runtime"
	"syscall"
	"testing"

	"github.com/ebbkit/ebb/internal/nettest"
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
	KeepAlive(tls.Client(c, &tls.Config{ServerName: "owner"}))
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
	KeepAlive(a)
	a.Close()
	b.Close()
}

// awaitClosed waits until the kernel has a connection closed.
func awaitClosed(t *testing.T, c *net.TCPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var info tcpinfo.Reader
	for {
		if i, ok := info.Info(raw); ok && i.Closed {
			return
		}
		runtime.Gosched()
	}
}

// A connection that both sides have ended was not reset.
func TestAConnectionThatBothSidesEndEndsWell(t *testing.T) {
	a, b := nettest.Pair(t)
	b.CloseWrite()
	io.Copy(io.Discard, a)
	a.CloseWrite()
	io.Copy(io.Discard, b)
	awaitClosed(t, a)
	if err := EndOf(a, true); err != nil {
		t.Error(err)
	}
}

// A connection is looked at for as long as somebody is about to write to it: what he writes is
// under way after the look.
func TestAWriteThatIsAboutToHappenIsLookedAt(t *testing.T) {
	a, _ := nettest.Pair(t)
	g := &Guards{Every: 1 << 40} // looks are the test's
	var c Guarded
	if !c.Watch(g, a) {
		t.Skip("the kernel cannot be asked")
	}
	c.Begin()
	if g.Look(); len(g.List) != 1 {
		t.Error("nobody looks at a connection that is being written to")
	}
	c.End()
	if g.Look(); len(g.List) != 0 || g.Timer != nil {
		t.Error("a connection is looked at on which nothing is under way")
	}
}

// Only an error becomes the news that the peer is gone.
func TestAConnectionThatWasGivenUpSaysSo(t *testing.T) {
	var c Guarded
	if err := c.Err(io.EOF); err != io.EOF {
		t.Errorf("before: %v", err)
	}
	c.given.Store(true)
	if err := c.Err(io.EOF); err != ErrSilent {
		t.Errorf("an error: %v", err)
	}
	if err := c.Err(nil); err != nil {
		t.Errorf("no error: %v", err)
	}
}
