package rtt_test

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/ebbkit/ebb/rtt"
	"github.com/ebbkit/ebb/rtt/rtttest"
)

var testKey = []byte("a secret of the whole test mesh")

// book is the list of nodes of a test mesh, as one of them sees it.
type book struct {
	mu    sync.Mutex
	nodes []rtt.Node
}

func (b *book) Peers() []rtt.Node {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]rtt.Node(nil), b.nodes...)
}

func (b *book) add(n rtt.Node) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.nodes = append(b.nodes, n)
}

// start runs a node of region and returns it; it ends with the test.
func start(t *testing.T, id, region string, edit func(*rtt.Config)) (*rtt.Mesh, *book) {
	t.Helper()
	b := &book{}
	c := rtt.Config{Self: rtt.Node{ID: id, Region: region}, Key: testKey, Peers: b, Listen: "127.0.0.1:0"}
	if edit != nil {
		edit(&c)
	}
	m, err := rtt.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run of %s: %v", id, err)
		}
	})
	return m, b
}

// tables returns a Trace that passes on every table until ok says so, and a func that waits for it.
func tables(t *testing.T, ok func(*rtt.Table) bool) (*rtt.Trace, func()) {
	done := make(chan struct{})
	var once sync.Once
	return &rtt.Trace{Table: func(tab *rtt.Table) {
			if ok(tab) {
				once.Do(func() { close(done) })
			}
		}}, func() {
			t.Helper()
			select {
			case <-done:
			case <-time.After(60 * time.Second):
				t.Fatal("the table never came")
			}
		}
}

func relay(t *testing.T, to netip.AddrPort, way time.Duration) *rtttest.Relay {
	t.Helper()
	r, err := rtttest.NewRelay(to, rtttest.Path{Delay: way / 2}, rtttest.Path{Delay: way / 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// Three nodes on loopback, two of them behind relays: distances, order, the own region, the unknown.
func TestMeshMeasuresThroughRelays(t *testing.T) {
	trace, wait := tables(t, func(tab *rtt.Table) bool {
		a, okA := tab.To("osaka")
		b, okB := tab.To("paris")
		return okA && okB && a.Samples >= 3 && b.Samples >= 3
	})
	tokyo, peers := start(t, "tokyo", "nrt", func(c *rtt.Config) { c.Trace = trace })
	osaka, _ := start(t, "osaka", "kix", nil)
	paris, _ := start(t, "paris", "cdg", nil)

	peers.add(rtt.Node{ID: "osaka", Region: "kix", Addr: relay(t, osaka.Addr(), 10*time.Millisecond).Addr()})
	peers.add(rtt.Node{ID: "paris", Region: "cdg", Addr: relay(t, paris.Addr(), 60*time.Millisecond).Addr()})
	peers.add(rtt.Node{ID: "tokyo", Region: "nrt", Addr: tokyo.Addr()})
	tokyo.Refresh()
	wait()

	tab := tokyo.Table()
	for p := range tab.Pairs() {
		t.Logf("%s -> %s: base %v p90 %v loss %v/%v age %v %v kernel=%v %v %v", p.From, p.To, p.Base, p.P90, p.Loss, p.LossOut, p.Age, p.Source, p.Kernel, p.State, p.Confidence)
	}
	near, ok1 := tokyo.RTT("kix")
	far, ok2 := tokyo.RTT("cdg")
	if !ok1 || !ok2 || near < 10*time.Millisecond || far < 60*time.Millisecond || near >= far {
		t.Errorf("RTT kix %v %v, cdg %v %v: want at least 10ms and 60ms, near first", near, ok1, far, ok2)
	}
	if d, ok := tokyo.RTT("nrt"); d != 0 || !ok {
		t.Errorf("RTT of the own region is %v, %v; want 0, true", d, ok)
	}
	if d, ok := tokyo.RTT("gru"); d != 0 || ok {
		t.Errorf("RTT of an unknown region is %v, %v; want 0, false", d, ok)
	}
	if rs := tab.Regions(); len(rs) != 2 || rs[0].Name != "kix" || rs[1].Name != "cdg" {
		t.Errorf("regions: %v", rs)
	}
	t.Logf("%+v", tokyo.Counters())
}
