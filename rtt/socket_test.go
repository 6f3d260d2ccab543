package rtt

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"
)

// Without kernel timestamps, as on systems other than Linux, a mesh works in user space and reports
// so.
func TestPlainUDPIsMarked(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	news := make(chan struct{}, 100)
	var peers []Node
	var a *Mesh
	for _, id := range []string{"b", "a"} {
		c := Config{ID: id, Region: id, Key: secretA, Listen: "127.0.0.1:0", Peers: fixed(peers)}
		if id == "a" {
			c.Trace = Trace{Sample: func(string, time.Duration) {
				select {
				case news <- struct{}{}:
				default:
				}
			}}
		}
		m, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		m.sock = plainUDP{m.cfg.Conn.(*net.UDPConn)}
		peers, a = append(peers, m.Self()), m
		go func() { done <- m.Run(ctx) }()
	}
	for range 3 {
		select {
		case <-news:
		case <-time.After(time.Minute):
			t.Fatal("no sample")
		}
	}
	cancel()
	<-done
	<-done
	a.publish(time.Now().Add(time.Minute))
	if s, _ := a.Table().To("b"); s.Kernel || s.Base <= 0 {
		t.Errorf("%+v: marked as the kernel's, but there are no stamps", s)
	}
}

type stringAddr string

func (stringAddr) Network() string  { return "test" }
func (a stringAddr) String() string { return string(a) }

func TestAddrPort(t *testing.T) {
	want := netip.MustParseAddrPort("1.2.3.4:5")
	for _, a := range []net.Addr{
		&net.UDPAddr{IP: net.ParseIP("1.2.3.4"), Port: 5}, // 16 bytes long: the IPv6 form
		net.UDPAddrFromAddrPort(want), stringAddr("1.2.3.4:5"), stringAddr("[::ffff:1.2.3.4]:5"),
	} {
		if got := addrPort(a); got != want {
			t.Errorf("%v: %v, want %v", a, got, want)
		}
	}
	if got := addrPort(stringAddr("pipe")); got.IsValid() {
		t.Errorf("pipe: %v", got)
	}
	if got := unmap(netip.AddrPort{}); got.IsValid() || got != (netip.AddrPort{}) {
		t.Errorf("no address: %v", got)
	}
}
