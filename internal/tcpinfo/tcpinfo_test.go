package tcpinfo

import (
	"crypto/tls"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/ebbkit/ebb/internal/nettest"
)

func rawOf(t *testing.T, c *net.TCPConn) syscall.RawConn {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestTCPLooksBeneath(t *testing.T) {
	a, _ := nettest.Pair(t)
	if TCP(a) != a || TCP(tls.Client(a, nil)) != a {
		t.Error("a TCP connection was not found")
	}
	p, q := net.Pipe()
	defer p.Close()
	defer q.Close()
	if TCP(p) != nil || Watchable(p) || PeerClosed(p) {
		t.Error("a pipe is no TCP connection")
	}
}

func TestInfo(t *testing.T) {
	a, b := nettest.Pair(t)
	raw := rawOf(t, a)
	var r Reader
	i, ok := r.Info(raw)
	if !ok {
		if runtime.GOOS == "linux" && runtime.GOARCH != "386" && runtime.GOARCH != "s390x" {
			t.Fatal("the kernel does not answer")
		}
		t.Skip("no answers on this system")
	}
	if !i.Established || i.Closed || i.Received != 0 {
		t.Errorf("a new connection: %+v", i)
	}
	if d, ok := r.MinRTT(raw); !ok || d <= 0 || d > 10*time.Second {
		t.Errorf("its round trip: %v, %v", d, ok)
	}
	if _, err := b.Write([]byte("four")); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Read(make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	if i, ok := r.Info(raw); !ok || i.Received != 4 || i.Segments == 0 {
		t.Errorf("after four bytes: %+v, %v", i, ok)
	}
	if n := testing.AllocsPerRun(1000, func() { r.Info(raw); r.MinRTT(raw) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	a.Close()
	if _, ok := r.Info(raw); ok {
		t.Error("a connection that is closed here has an answer")
	}
	if _, ok := r.MinRTT(raw); ok {
		t.Error("a connection that is closed here has a round trip")
	}
}

func TestPeerClosed(t *testing.T) {
	a, b := nettest.Pair(t)
	if !Watchable(a) {
		t.Skip("not to be told on this system")
	}
	if PeerClosed(a) || PeerClosed(tls.Client(a, nil)) {
		t.Error("an open connection counts as closed")
	}
	b.CloseWrite()
	if _, err := a.Read(make([]byte, 1)); err == nil { // its end has arrived
		t.Fatal("read something")
	}
	if !PeerClosed(a) || !PeerClosed(tls.Client(a, nil)) {
		t.Error("the peer's end is not seen")
	}
	a.Close()
	if !PeerClosed(a) {
		t.Error("a connection that is closed here counts as open")
	}
}
