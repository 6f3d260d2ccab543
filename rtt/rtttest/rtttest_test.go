package rtttest_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebbkit/ebb/internal/delay"
	"github.com/ebbkit/ebb/rtt"
	"github.com/ebbkit/ebb/rtt/rtttest"
)

var key = []byte("a secret of the whole test mesh")

// until returns a Trace, and a func that waits for a table that satisfies ok and returns it.
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
		links := &delay.Links{}
		t.Cleanup(func() { links.Close() })
		ends := map[string]context.CancelFunc{} // of the links
		var peers []rtt.Node
		for region, way := range truth {
			m, err := rtt.New(rtt.Config{ID: region, Region: region, Key: key, Listen: "127.0.0.1:0"})
			if err != nil {
				t.Fatal(err)
			}
			run(t, m)
			links.Set(own, region, way)
			ctx, cancel := context.WithCancel(t.Context())
			ends[region] = cancel
			addr, err := links.RelayUDP(ctx, own, region, m.Addr())
			if err != nil {
				t.Fatal(err)
			}
			peers = append(peers, rtt.Node{ID: region, Region: region, Addr: addr})
		}
		trace, wait := until()
		m, err := rtt.New(rtt.Config{
			ID: "me", Region: own, Key: key, Peers: func() []rtt.Node { return peers }, Listen: "127.0.0.1:0",
			Interval: 50 * time.Millisecond, Trace: trace,
		})
		if err != nil {
			t.Fatal(err)
		}
		run(t, m)
		// The suite reads a table of the mesh instead of the mesh, whose next table may show that a
		// busy host does not deliver in time.
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
			ends[lost]()
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

// snapshot answers from a table, as a Mesh does from its own.
type snapshot struct{ atomic.Pointer[rtt.Table] }

func (s *snapshot) RTT(region string) (time.Duration, bool) { return s.Load().RTT(region) }

// fixed is the simplest possible distance source.
type fixed map[string]time.Duration

func (f fixed) RTT(region string) (time.Duration, bool) { d, ok := f[region]; return d, ok }

func TestFixed(t *testing.T) {
	rtttest.TestDistance(
		t,
		func(_ *testing.T, own string, truth map[string]time.Duration) rtttest.Source {
			f := fixed{own: 0}
			for r, d := range truth {
				f[r] = d
			}
			return rtttest.Source{Distance: f, Lose: func(region string) { delete(f, region) }}
		},
	)
}
