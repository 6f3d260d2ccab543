package rtttest_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebbkit/ebb/rtt"
	"github.com/ebbkit/ebb/rtt/rtttest"
)

var key = []byte("a secret of the whole test mesh")

// until returns a Trace and a func that waits for a table that satisfies what is asked, and
// returns it.
func until() (rtt.Trace, func(t *testing.T, ok func(*rtt.Table) bool) *rtt.Table) {
	news := make(chan *rtt.Table, 1)
	trace := rtt.Trace{Table: func(tab *rtt.Table) {
		select {
		case <-news:
		default:
		}
		news <- tab
	}}
	return trace, func(t *testing.T, ok func(*rtt.Table) bool) *rtt.Table {
		t.Helper()
		deadline := time.After(3 * time.Minute)
		for {
			select {
			case tab := <-news:
				if ok(tab) {
					return tab
				}
			case <-deadline:
				t.Fatal("the table never came")
			}
		}
	}
}

func run(t *testing.T, m *rtt.Mesh) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { m.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
}

// The mesh itself, over relays, is the suite's first user.
func TestMesh(t *testing.T) {
	rtttest.TestDistance(t, func(t *testing.T, own string, truth map[string]time.Duration) rtttest.Source {
		relays := map[string]*rtttest.Relay{}
		var peers rtt.PeerList
		for region, way := range truth {
			m, err := rtt.New(rtt.Config{Self: rtt.Node{ID: region, Region: region}, Key: key, Listen: "127.0.0.1:0"})
			if err != nil {
				t.Fatal(err)
			}
			run(t, m)
			r, err := rtttest.NewRelay(m.Addr(), rtttest.Path{Delay: way / 2}, rtttest.Path{Delay: way / 2})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { r.Close() })
			relays[region] = r
			peers = append(peers, rtt.Node{ID: region, Region: region, Addr: r.Addr()})
		}
		trace, wait := until()
		m, err := rtt.New(rtt.Config{
			Self: rtt.Node{ID: "me", Region: own}, Key: key, Peers: peers, Listen: "127.0.0.1:0",
			Interval: 50 * time.Millisecond, Trace: trace,
		})
		if err != nil {
			t.Fatal(err)
		}
		run(t, m)
		// The suite reads a table of the mesh rather than the mesh, whose next table may tell of a host
		// that is too busy to deliver in time.
		s := &snapshot{}
		s.Store(wait(t, func(tab *rtt.Table) bool { // timers of a busy machine may need some tries
			for region, way := range truth {
				if s, _ := tab.To(region); s.Samples < 5 || s.Base > way+way/10+4*time.Millisecond {
					return false
				}
			}
			return true
		}))
		return rtttest.Source{Distance: s, Lose: func(lost string) {
			relays[lost].Set(rtttest.Path{Loss: 1}, rtttest.Path{Loss: 1})
			s.Store(wait(t, func(tab *rtt.Table) bool {
				for region := range truth {
					if s, _ := tab.To(region); (s.State == rtt.StateLost) != (region == lost) {
						return false
					}
				}
				return true
			}))
		}}
	})
}

// snapshot answers from a table as a Mesh does from its own.
type snapshot struct{ atomic.Pointer[rtt.Table] }

func (s *snapshot) RTT(region string) (time.Duration, bool) { return s.Load().RTT(region) }

// fixed is the simplest distance source there is.
type fixed map[string]time.Duration

func (f fixed) RTT(region string) (time.Duration, bool) { d, ok := f[region]; return d, ok }

func TestFixed(t *testing.T) {
	rtttest.TestDistance(t, func(_ *testing.T, own string, truth map[string]time.Duration) rtttest.Source {
		f := fixed{own: 0}
		for r, d := range truth {
			f[r] = d
		}
		return rtttest.Source{Distance: f, Lose: func(region string) { delete(f, region) }}
	})
}

func echo(t *testing.T) netip.AddrPort {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			c.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

func TestRelay(t *testing.T) {
	r, err := rtttest.NewRelay(echo(t), rtttest.Path{}, rtttest.Path{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(r.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	buf := make([]byte, 100)
	ask := func(s string) time.Duration {
		t.Helper()
		begin := time.Now()
		if _, err := c.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
		for {
			n, err := c.Read(buf) // connected: only the relay's own address gets through
			if err != nil {
				t.Fatal(err)
			}
			if string(buf[:n]) == s {
				return time.Since(begin)
			}
		}
	}
	ask("at once")
	r.Set(rtttest.Path{Delay: 20 * time.Millisecond, Jitter: 5 * time.Millisecond}, rtttest.Path{Delay: 10 * time.Millisecond})
	if d := ask("delayed"); d < 30*time.Millisecond {
		t.Errorf("answered after %v, want at least 30ms", d)
	}
	r.Set(rtttest.Path{Loss: 1}, rtttest.Path{})
	if _, err := c.Write([]byte("lost")); err != nil {
		t.Fatal(err)
	}
	r.Set(rtttest.Path{}, rtttest.Path{Duplicate: 1})
	ask("twice") // skips anything else; "lost" must not be among it, but order over UDP proves nothing
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != "twice" {
		t.Errorf("second copy: %q, %v", buf[:n], err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// A node behind a relay looks as far away as the relay says.
func ExampleRelay() {
	trace, news := rtt.Trace{}, make(chan time.Duration, 1)
	trace.Sample = func(_ string, s rtt.Sample) {
		select {
		case news <- s.RTT:
		default:
		}
	}
	far, err := rtt.New(rtt.Config{Self: rtt.Node{ID: "far", Region: "far"}, Key: key, Listen: "127.0.0.1:0"})
	if err != nil {
		panic(err)
	}
	relay, err := rtttest.NewRelay(far.Addr(), rtttest.Path{Delay: 20 * time.Millisecond}, rtttest.Path{Delay: 20 * time.Millisecond})
	if err != nil {
		panic(err)
	}
	defer relay.Close()
	near, err := rtt.New(rtt.Config{
		Self: rtt.Node{ID: "near", Region: "near"}, Key: key, Listen: "127.0.0.1:0", Trace: trace,
		Peers: rtt.PeerList{{ID: "far", Region: "far", Addr: relay.Addr()}},
	})
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { far.Run(ctx) })
	wg.Go(func() { near.Run(ctx) })
	fmt.Println("at least 40ms:", <-news >= 40*time.Millisecond)
	cancel()
	wg.Wait()
	// Output:
	// at least 40ms: true
}
