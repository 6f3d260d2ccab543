package rtt

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ebbkit/ebb/internal/nettest"
)

const ms = time.Millisecond

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

var (
	secretA = []byte("sixteen bytes, A")
	secretB = []byte("sixteen bytes, B")
)

// The types of packets, in byte 4.
const (
	typeProbe = 1
	typeReply = 2
)

func simAddr(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 7)
}

// cluster is a mesh on a network in memory.
type cluster struct {
	t     *testing.T
	net   *nettest.Datagrams
	mu    sync.Mutex
	nodes []Node
	stops []func()
}

func newCluster(t *testing.T) *cluster { return &cluster{t: t, net: nettest.NewDatagrams(nil)} }

func (w *cluster) Peers() []Node {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.nodes)
}

// fixed returns a list of peers that does not change.
func fixed(nodes []Node) func() []Node { return func() []Node { return nodes } }

// replace puts n in the place of the entry with its ID.
func (w *cluster) replace(n Node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nodes = append(slices.DeleteFunc(w.nodes, func(x Node) bool { return x.ID == n.ID }), n)
}

// start runs a node at an address and returns it with a func that stops it. From then on it is a
// peer of all others.
func (w *cluster) start(id, region string, at int, edit func(*Config)) (*Mesh, func()) {
	w.t.Helper()
	n := Node{ID: id, Region: region, Addr: simAddr(at)}
	c := Config{ID: id, Region: region, Key: secretA, Peers: w.Peers, Conn: w.net.Listen(n.Addr)}
	if edit != nil {
		edit(&c)
	}
	m, err := New(c)
	if err != nil {
		w.t.Fatal(err)
	}
	w.replace(n)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("Run of %s: %v", id, err)
		}
	})
	w.stops = append(w.stops, stop)
	return m, stop
}

// stop ends all nodes. It must be deferred inside the bubble.
func (w *cluster) stop() {
	for _, s := range w.stops {
		s()
	}
	w.net.Wait()
}
