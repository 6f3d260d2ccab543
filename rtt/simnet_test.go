package rtt

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"
)

const ms = time.Millisecond

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

var (
	secretA = []byte("sixteen bytes, A")
	secretB = []byte("sixteen bytes, B")
)

// The types of packets, which stand in byte 4.
const (
	typeProbe = 1
	typeReply = 2
)

// simnet is a network in memory, for synctest bubbles: packets take virtual time.
type simnet struct {
	// link says what becomes of a packet: when its copies arrive, none for a lost one. It may change
	// b. Nil means at once. It is called with mu held.
	link func(from, to netip.AddrPort, b []byte) []time.Duration

	mu    sync.Mutex
	conns map[netip.AddrPort]*simconn
	bytes map[netip.AddrPort]int // sent, by sender

	flying sync.WaitGroup // packets
}

type simconn struct {
	net    *simnet
	self   netip.AddrPort
	in     chan simpacket
	closed chan struct{}
	once   sync.Once
}

type simpacket struct {
	from netip.AddrPort
	b    []byte
}

func newSimnet() *simnet {
	return &simnet{conns: make(map[netip.AddrPort]*simconn), bytes: make(map[netip.AddrPort]int)}
}

func simAddr(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 7)
}

func (n *simnet) listen(self netip.AddrPort) *simconn {
	c := &simconn{net: n, self: self, in: make(chan simpacket, 4096), closed: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conns[self] = c
	return c
}

func (n *simnet) setLink(f func(from, to netip.AddrPort, b []byte) []time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.link = f
}

func (n *simnet) send(from, to netip.AddrPort, b []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.bytes[from] += len(b)
	b = slices.Clone(b)
	after := []time.Duration{0}
	if n.link != nil {
		after = n.link(from, to, b)
	}
	for _, d := range after {
		if d == 0 {
			n.deliver(from, to, b)
			continue
		}
		// Not time.AfterFunc: the race detector sometimes crashes where a timer of a bubble starts a
		// goroutine.
		n.flying.Go(func() {
			time.Sleep(d)
			n.mu.Lock()
			defer n.mu.Unlock()
			n.deliver(from, to, b)
		})
	}
}

func (n *simnet) deliver(from, to netip.AddrPort, b []byte) {
	c := n.conns[to]
	if c == nil {
		return
	}
	select {
	case c.in <- simpacket{from, b}:
	default: // its buffer is full
	}
}

func (c *simconn) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case p := <-c.in:
		return copy(b, p.b), net.UDPAddrFromAddrPort(p.from), nil
	case <-c.closed:
		return 0, nil, net.ErrClosed
	}
}

func (c *simconn) WriteTo(b []byte, to net.Addr) (int, error) {
	select {
	case <-c.closed:
		return 0, net.ErrClosed
	default:
	}
	c.net.send(c.self, addrPort(to), b)
	return len(b), nil
}

func (c *simconn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.net.mu.Lock()
		defer c.net.mu.Unlock()
		if c.net.conns[c.self] == c {
			delete(c.net.conns, c.self)
		}
	})
	return nil
}

func (c *simconn) LocalAddr() net.Addr              { return net.UDPAddrFromAddrPort(c.self) }
func (c *simconn) SetDeadline(time.Time) error      { return nil }
func (c *simconn) SetReadDeadline(time.Time) error  { return nil }
func (c *simconn) SetWriteDeadline(time.Time) error { return nil }

// cluster is a mesh on a simnet.
type cluster struct {
	t     *testing.T
	net   *simnet
	mu    sync.Mutex
	nodes []Node
	stops []func()
}

func newCluster(t *testing.T) *cluster { return &cluster{t: t, net: newSimnet()} }

func (w *cluster) Peers() []Node {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.nodes)
}

// fixed returns a list of peers that does not change.
func fixed(nodes []Node) func() []Node { return func() []Node { return nodes } }

// replace makes n the entry of its ID.
func (w *cluster) replace(n Node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nodes = append(slices.DeleteFunc(w.nodes, func(x Node) bool { return x.ID == n.ID }), n)
}

// start runs a node at an address and returns it with a func that stops it. It is a peer of all
// others from now on.
func (w *cluster) start(id, region string, at int, edit func(*Config)) (*Mesh, func()) {
	w.t.Helper()
	n := Node{ID: id, Region: region, Addr: simAddr(at)}
	c := Config{ID: id, Region: region, Key: secretA, Peers: w.Peers, Conn: w.net.listen(n.Addr)}
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
	w.net.flying.Wait() // in a bubble no time passes after the test
}
