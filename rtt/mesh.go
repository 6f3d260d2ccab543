package rtt

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/rtt/internal/estimate"
	"github.com/ebbkit/ebb/rtt/internal/probe"
)

// Mesh measures the way to its peers and answers their probes. Make one with [New] and run it
// with [Mesh.Run]. All methods are safe for concurrent use; those that read (RTT, Table,
// Counters) take no lock.
type Mesh struct {
	cfg     Config
	limits  limits
	sock    socket
	session uint64
	born    time.Time
	count   counters
	keys    atomic.Pointer[[][]byte]
	table   atomic.Pointer[Table]
	wake    chan struct{} // one waiting token: something changed that Run should see now
	ran     atomic.Bool
	refresh atomic.Bool // Run is to ask for peers now

	mu     sync.Mutex
	prober *probe.Prober

	// owned by Run
	ranking probe.Ranking
	asked   time.Time // when the last list of peers came
}

// New makes a Mesh and binds its socket, so that [Mesh.Addr] is known before it runs. It starts
// nothing.
func New(c Config) (*Mesh, error) { return newMesh(c, usual) }

func newMesh(c Config, l limits) (*Mesh, error) {
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
	keys, _ := keysOf(c.Key, nil)
	now := time.Now()
	m := &Mesh{
		cfg:     c,
		limits:  l,
		sock:    newSocket(c.Conn),
		session: probe.Session(c.ID, uint64(now.UnixNano())),
		born:    now,
		wake:    make(chan struct{}, 1),
		ranking: probe.Ranking{Own: c.Region},
	}
	m.prober = probe.NewProber(probe.Config{
		Session: m.session, Born: m.born, Near: c.Interval, Far: max(l.far, c.Interval),
		Budget: l.budget,
		// The runtime's generator is seeded by the system and cannot be predicted by a peer.
		Random: rand.Uint64,
	})
	m.keys.Store(&keys)
	m.table.Store(newTable(c.Region, nil, nil))
	return m, nil
}

// Addr returns the address that the Mesh is bound to; it is invalid when its Conn has no IP address
// and port. Unless the Mesh was bound to a specific IP, the IP is unspecified.
func (m *Mesh) Addr() netip.AddrPort { return addrPort(m.sock.addr()) }

// Self returns this Mesh as a node, as its peers see it if nothing stands between them.
func (m *Mesh) Self() Node { return Node{ID: m.cfg.ID, Region: m.cfg.Region, Addr: m.Addr()} }

// Table returns the current snapshot. It is never nil.
func (m *Mesh) Table() *Table { return m.table.Load() }

// RTT returns the base round trip to the nearest node of a region, see [Table.RTT]: this node's own
// region is 0 and true, unknown is 0 and false. It is the distance that package balance asks for.
func (m *Mesh) RTT(region string) (time.Duration, bool) { return m.table.Load().RTT(region) }

// SetKeys replaces Config.Key. Packets with up to three further keys are accepted too. To change
// the key without a gap, accept the new one everywhere, then use it and accept the old one, then
// drop the old one.
func (m *Mesh) SetKeys(key []byte, accept ...[]byte) error {
	keys, err := keysOf(key, accept)
	if err != nil {
		return err
	}
	m.keys.Store(&keys)
	return nil
}

// Refresh makes Run ask for its peers now instead of within a second.
func (m *Mesh) Refresh() {
	m.refresh.Store(true)
	m.nudge()
}

func (m *Mesh) nudge() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Observe takes in a round trip to a peer that was measured on other traffic, for example [MinRTT]
// of a connection to it, and reports whether it was accepted. It must be a kernel's measurement
// that contains no process time. Report only what has changed since the last report: a sample says
// that the peer is alive. Observe returns false for a node that is not a peer.
func (m *Mesh) Observe(id string, rtt time.Duration) bool {
	now := time.Now()
	x := estimate.Sample{RTT: rtt, Source: estimate.SourcePassive, Kernel: true}
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.look()
	return m.prober.Observe(now, id, x)
}

// look wakes Run if the prober wants it. m.mu is held.
func (m *Mesh) look() {
	if m.prober.Wake() {
		m.nudge()
	}
}

// sampled tells that a probe was answered. No lock is held.
func (m *Mesh) sampled(peer string, s estimate.Sample) {
	if f := m.cfg.Trace.Sample; f != nil {
		f(peer, s.RTT)
	}
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

// Run probes and answers until ctx ends or the socket fails. It then closes the socket, waits for
// everything it started, and returns nil, or the socket's error. A Mesh runs once: another call
// returns an error, as one after Close does.
func (m *Mesh) Run(ctx context.Context) error {
	if m.ran.Swap(true) {
		return errRan
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	var broken error // read after wg.Wait
	wg.Go(func() {
		broken = newResponder(m).serve(ctx)
		cancel()
	})
	s := newSender(m)
	m.drive(ctx, s)
	_ = m.sock.close() // ends serve
	s.close()
	wg.Wait()
	return broken
}

// peersEvery is how often the list of peers is asked for.
const peersEvery = time.Second

// drive is the loop that sends probes and makes tables.
func (m *Mesh) drive(ctx context.Context, s *sender) {
	m.nudge() // the first round is due at once
	timer := time.NewTimer(peersEvery)
	defer timer.Stop()
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
			m.ask(now)
		}
		next := s.round(ctx, now)
		next = earlier(next, m.publish(now))
		next = earlier(next, m.asked.Add(peersEvery))
		if wait := time.Until(next); wait > 0 {
			timer.Reset(wait)
		} else {
			timer.Stop()
			m.nudge()
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// ask asks for the peers and chooses which to probe.
func (m *Mesh) ask(now time.Time) {
	list := m.cfg.Peers()
	nodes := make([]probe.Node, len(list))
	for i, n := range list {
		n.Addr, n.TCP = unmap(n.Addr), unmap(n.TCP)
		nodes[i] = probe.Node(n)
	}
	nodes = probe.Choose(m.cfg.ID, nodes, m.limits.peers)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.prober.SetPeers(now, nodes)
}

// publish makes a new table when it is time and returns when it will be.
func (m *Mesh) publish(now time.Time) time.Time {
	m.mu.Lock()
	if at := m.prober.TableDue(); now.Before(at) {
		m.mu.Unlock()
		return at
	}
	rows := m.prober.Rows(now)
	m.mu.Unlock()

	regions, nodes := m.ranking.Update(now, rows)
	t := newTable(m.cfg.Region, rows, regions)
	old := m.table.Swap(t)
	near := probe.Near(regions, nodes)
	m.mu.Lock()
	m.prober.Pace(near)
	next := m.prober.TableDue()
	m.mu.Unlock()
	m.tell(old, t)
	return next
}

// tell reports the differences between two tables.
func (m *Mesh) tell(old, t *Table) {
	lost, back := t.changes(old)
	for _, r := range lost {
		if f := m.cfg.Trace.Lost; f != nil {
			f(r.Node.ID)
		}
	}
	for _, r := range back {
		if f := m.cfg.Trace.Back; f != nil {
			f(r.Node.ID)
		}
	}
	if f := m.cfg.Trace.Table; f != nil {
		f(t)
	}
}

// counters counts what a Mesh has done.
type counters struct {
	sent, answered, asked, replied, sendErrors atomic.Uint64
	dropped                                    [probe.Drops]atomic.Uint64
}

// Counters is what a Mesh has done so far, in packets.
type Counters struct {
	Sent       uint64 // probes sent, fallbacks included
	Answered   uint64 // of them answered and accepted
	Asked      uint64 // probes of others received and accepted
	Replied    uint64 // of them answered
	SendErrors uint64 // writes the socket refused

	// Dropped in silence:
	Malformed uint64 // wrong size, version or type
	Forged    uint64 // wrong key or MAC
	Replayed  uint64 // probes seen before
	Limited   uint64 // probes beyond the rate of one sender
	Unasked   uint64 // replies nobody waits for, duplicates, and those from another address
	Stranger  uint64 // replies by nodes that are not peers
}

// Counters returns the counts so far.
func (m *Mesh) Counters() Counters {
	c := &m.count
	dropped := func(whys ...probe.Drop) (n uint64) {
		for _, why := range whys {
			n += c.dropped[why].Load()
		}
		return n
	}
	return Counters{
		Sent: c.sent.Load(), Answered: c.answered.Load(), Asked: c.asked.Load(),
		Replied: c.replied.Load(), SendErrors: c.sendErrors.Load(),
		Malformed: dropped(probe.DropSize, probe.DropVersion, probe.DropType),
		Forged:    dropped(probe.DropKey, probe.DropForged),
		Replayed:  dropped(probe.DropReplayed), Limited: dropped(probe.DropLimited),
		Unasked: dropped(probe.DropUnasked), Stranger: dropped(probe.DropStranger),
	}
}
