package rtt

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Mesh measures the way to its peers and answers their probes. Make one with [New] and run it with [Mesh.Run]. All
// methods are safe for concurrent use; those that read (RTT, Table, Counters) take no lock.
type Mesh struct {
	cfg     Config
	sock    socket
	session uint64
	born    time.Time
	count   counters
	keys    atomic.Pointer[[][]byte]
	table   atomic.Pointer[Table]
	wake    chan struct{} // one waiting token: something changed that Run should see now
	ran     atomic.Bool
	refresh atomic.Bool // peers are to be asked for now
	ways    fallbacks

	mu     sync.Mutex
	peers  []*peer // by key; nil where free
	byID   map[string]*peer
	byHash map[uint32]*peer // by idHash; of two that collide (1 in 10^4 meshes of 1000 nodes) one is never answered
	agenda agenda
	bucket bucket
	dirty  bool // something changed since the last table
	urgent bool // and it is the first news of a peer

	// owned by Run
	builder builder
	made    time.Time // of the last table
	asked   time.Time // of the last list of peers
}

// peer is what the shell keeps of one node.
type peer struct {
	node   *Node // never changed in place: tables share it
	key    int32
	path   uint8 // rises when the address changes
	busy   bool  // a fallback probe is under way
	est    Estimator
	pace   pace
	ladder ladder
	seq    uint64
	far    uint64 // session that answered last
	flying flights
}

// New makes a Mesh and binds its socket, so that [Mesh.Addr] is known before it runs. It starts nothing.
func New(c Config) (*Mesh, error) {
	c, err := c.resolve()
	if err != nil {
		return nil, err
	}
	if c.Conn == nil {
		listen := c.Listen
		if listen == "" {
			listen = ":0"
		}
		if c.Conn, err = net.ListenPacket("udp", listen); err != nil {
			return nil, fmt.Errorf("rtt: Config.Listen is %q: %w", listen, err)
		}
	}
	now := time.Now()
	if c.Incarnation == 0 {
		c.Incarnation = uint64(max(now.UnixNano(), 1))
	}
	m := &Mesh{
		cfg:     c,
		sock:    newSocket(c.Conn),
		session: session(c.Self.ID, c.Incarnation),
		born:    now,
		wake:    make(chan struct{}, 1),
		byID:    make(map[string]*peer),
		byHash:  make(map[uint32]*peer),
		bucket:  bucket{rate: float64(c.Budget), burst: float64(max(c.Budget/5, 8))},
		builder: builder{self: c.Self},
	}
	m.ways.init()
	m.keys.Store(new(copyKeys(c.Key, c.Accept)))
	m.table.Store(m.builder.build(now, nil))
	return m, nil
}

func copyKeys(key []byte, accept [][]byte) [][]byte {
	out := [][]byte{slices.Clone(key)}
	for _, k := range accept {
		out = append(out, slices.Clone(k))
	}
	return out
}

// Addr returns the address the Mesh is bound to, invalid when its Conn has none of IP and port. Unless it was bound
// to one, the IP is unspecified.
func (m *Mesh) Addr() netip.AddrPort { return addrPort(m.sock.addr()) }

// Self returns the node this Mesh is, with Addr set to the bound address when it was given none.
func (m *Mesh) Self() Node {
	n := m.cfg.Self
	if !n.Addr.IsValid() {
		n.Addr = m.Addr()
	}
	return n
}

// Table returns the current snapshot. It is never nil.
func (m *Mesh) Table() *Table { return m.table.Load() }

// RTT returns the base round trip to the nearest node of a region, see [Table.RTT]: the own region is 0 and true,
// unknown is 0 and false. It is the distance package balance asks for.
func (m *Mesh) RTT(region string) (time.Duration, bool) { return m.table.Load().RTT(region) }

// SetKeys replaces Config.Key and Config.Accept.
func (m *Mesh) SetKeys(key []byte, accept ...[]byte) error {
	if err := checkKeys(key, accept); err != nil {
		return err
	}
	m.keys.Store(new(copyKeys(key, accept)))
	return nil
}

// Refresh makes Run ask for its peers now instead of within a second.
func (m *Mesh) Refresh() {
	m.refresh.Store(true)
	m.nudge()
}

// touch notes that the table is out of date. m.mu is held.
func (m *Mesh) touch() {
	if !m.dirty {
		m.dirty = true
		m.nudge()
	}
}

func (m *Mesh) nudge() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Observe takes in a round trip to a peer that was measured in passing, for example [MinRTT] of a connection to it,
// and reports whether it was believed. Report only what moved since the last report: a sample says the peer is alive.
// A zero s.Source means SourcePassive. It returns false for a node that is no peer.
func (m *Mesh) Observe(id string, s Sample) bool {
	if s.Source == SourceNone {
		s.Source = SourcePassive
	}
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.byID[id]
	if p == nil || !p.est.Observe(now, s) {
		return false
	}
	m.touch()
	return true
}

// Close releases the socket of a Mesh that was never run. After Run it does nothing.
func (m *Mesh) Close() error {
	if m.ran.Swap(true) {
		return nil
	}
	return m.sock.close()
}

// errRan is returned by a second Run.
var errRan = errors.New("rtt: Mesh.Run was called before, or Close: make another mesh with New")

// Run probes and answers until ctx ends or the socket fails. It then closes the socket, waits for everything it
// started, and returns nil, or the socket's error. A Mesh runs once: another call returns an error, as one after Close does.
func (m *Mesh) Run(ctx context.Context) error {
	if m.ran.Swap(true) {
		return errRan
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	var broken error // read after wg.Wait
	wg.Go(func() {
		broken = m.serve(ctx)
		cancel()
	})
	m.drive(ctx, &wg)
	_ = m.sock.close() // ends serve
	m.ways.close()
	wg.Wait()
	return broken
}

const (
	peersEvery  = time.Second
	tableEvery  = 200 * time.Millisecond // when something changed
	tableRest   = time.Second            // when nothing did: ages and holds go on
	urgentAfter = 5 * time.Millisecond   // the first news of a peer
)

// drive is the loop that owns the schedule and the table.
func (m *Mesh) drive(ctx context.Context, wg *sync.WaitGroup) {
	m.nudge() // the first round is due at once
	timer := time.NewTimer(peersEvery)
	defer timer.Stop()
	out := newOutbox(m)
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-m.wake:
		}
		now := time.Now()
		if m.refresh.Swap(false) || m.asked.IsZero() || now.Sub(m.asked) >= peersEvery {
			m.asked = now
			m.setPeers(now, choose(m.cfg.Self.ID, m.cfg.Peers.Peers(), m.cfg.MaxPeers))
		}
		next := out.round(ctx, wg, now)
		next = earlier(next, m.publish(now))
		next = earlier(next, m.asked.Add(peersEvery))
		timer.Reset(max(0, time.Until(next)))
	}
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// setPeers makes nodes, which have distinct IDs, the peers. A peer that stays keeps what is known of it; one whose
// address changed is asked anew.
func (m *Mesh) setPeers(now time.Time, nodes []Node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	keep := make(map[string]bool, len(nodes))
	for _, n := range nodes {
		keep[n.ID] = true
		n.Addr, n.TCP = unmap(n.Addr), unmap(n.TCP)
		p := m.byID[n.ID]
		if p == nil {
			m.add(now, n)
			continue
		}
		if *p.node == n {
			continue
		}
		if p.node.Addr != n.Addr {
			p.path++
			p.flying = flights{} // what went to the old address says nothing of the new one
			p.est.Restart()
			p.ladder = ladder{}
			p.pace.begin(now, rand.Uint64())
			m.agenda.set(p.key, p.pace.next)
		}
		p.node = &n
		m.dirty = true
	}
	for id, p := range m.byID {
		if !keep[id] {
			m.agenda.remove(p.key)
			m.peers[p.key] = nil
			delete(m.byID, id)
			if h := idHash(id); m.byHash[h] == p {
				delete(m.byHash, h)
			}
			m.dirty = true
		}
	}
}

func (m *Mesh) add(now time.Time, n Node) {
	key := slices.Index(m.peers, nil)
	if key < 0 {
		key = len(m.peers)
		m.peers = append(m.peers, nil)
	}
	// A peer that was forgotten and is back still remembers our sequences, and takes lower ones for replays. No peer is
	// asked once a millisecond, so the time since New is above all that were used.
	p := &peer{node: &n, key: int32(key), seq: uint64(now.Sub(m.born) / time.Millisecond)}
	p.pace.every = m.cfg.Interval
	p.pace.begin(now, rand.Uint64())
	m.peers[key] = p
	m.byID[n.ID] = p
	m.byHash[idHash(n.ID)] = p
	m.agenda.set(p.key, p.pace.next)
	m.dirty = true
}
