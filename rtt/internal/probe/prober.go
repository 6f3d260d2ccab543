package probe

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/ebbkit/ebb/rtt/internal/estimate"
)

// Config configures a [Prober].
type Config struct {
	Session uint64        // of this node, see [Session]
	Born    time.Time     // the origin of monotonic readings; no time that is passed in is earlier
	Near    time.Duration // between probes of a near peer
	Far     time.Duration // between those of another
	Budget  int           // probes per second at most
	Random  func() uint64 // bits that no peer can predict
}

// Prober decides which peers are probed when and how, and what follows from answers and silence.
// Its caller steps it, passes the time in and does what it says:
//
//	Due -> send each probe, then Sent or Done
//	a packet arrives -> Reply
//	Wake, or the time that Due or TableDue returned -> Due and TableDue again
//
// It is not safe for concurrent use.
type Prober struct {
	cfg    Config
	byID   map[string]*peer
	byHash map[uint32]*peer // by idHash, see there
	agenda agenda
	bucket bucket

	made   time.Time // when the last rows were taken
	dirty  bool      // something changed since then
	urgent bool      // and it is the first measurement of a peer
	wake   bool      // the caller should look before the time that it was given
}

// NewProber returns a Prober without peers.
func NewProber(c Config) *Prober {
	return &Prober{
		cfg:    c,
		byID:   make(map[string]*peer),
		byHash: make(map[uint32]*peer),
		bucket: bucket{rate: float64(c.Budget), burst: float64(max(c.Budget/5, 8))},
	}
}

// mono returns a monotonic reading.
func (r *Prober) mono(t time.Time) time.Duration { return t.Sub(r.cfg.Born) }

// wall returns a reading of the wall clock.
func wall(t time.Time) time.Duration { return time.Duration(t.UnixNano()) }

// SetPeers makes nodes, which have distinct IDs, the peers. A peer that stays keeps what is known
// of it; one whose address changed is measured anew.
func (r *Prober) SetPeers(now time.Time, nodes []Node) {
	keep := make(map[string]bool, len(nodes))
	for _, n := range nodes {
		keep[n.ID] = true
		p := r.byID[n.ID]
		if p == nil {
			r.add(now, n)
			continue
		}
		if *p.node == n {
			continue
		}
		if p.node.Addr != n.Addr {
			p.path++
			p.inflight = inflight{} // what went to the old address says nothing of the new one
			p.est.Restart()
			p.fallback = fallback{}
			p.pace.begin(now, r.cfg.Random())
			r.agenda.set(p, p.pace.next)
		}
		p.node = &n
		r.dirty = true
	}
	for id, p := range r.byID {
		if !keep[id] {
			r.agenda.remove(p)
			delete(r.byID, id)
			if h := idHash(id); r.byHash[h] == p {
				delete(r.byHash, h)
			}
			r.dirty = true
		}
	}
}

func (r *Prober) add(now time.Time, n Node) {
	// A peer that was forgotten and is back still remembers this node's sequences, and takes lower
	// ones for replays. No peer is probed once a millisecond, so the time since Born is above all
	// that were used.
	p := &peer{node: &n, index: -1, seq: uint64(r.mono(now) / time.Millisecond)}
	p.pace.every = r.cfg.Near
	p.pace.begin(now, r.cfg.Random())
	r.byID[n.ID] = p
	r.byHash[idHash(n.ID)] = p
	r.agenda.set(p, p.pace.next)
	r.dirty = true
}

// Probe is a probe that is to be sent now.
type Probe struct {
	Node   *Node
	Way    estimate.Source
	Packet Packet // what to send, by UDP

	peer *peer
}

// maxBatch is how many probes are sent before the table gets its turn.
const maxBatch = 64

// Due counts overdue and lost probes, appends the probes that are due to batch, and returns when
// there is more to do; zero means never.
func (r *Prober) Due(now time.Time, batch []Probe) ([]Probe, time.Time) {
	for {
		if len(r.agenda) == 0 {
			return batch, time.Time{}
		}
		p := r.agenda[0]
		if p.at.After(now) || len(batch) == maxBatch {
			return batch, p.at
		}
		r.giveUp(p, now, now.Sub(p.at))
		if !p.pace.next.After(now) {
			// Without a token all peers wait. The one that has been due for longest comes first, so
			// a full agenda starves nobody.
			if ok, at := r.bucket.take(now); !ok {
				r.agenda.set(p, p.due(now, r.mono(now)))
				return batch, at
			}
			if o, ok := r.plan(p, now); ok {
				batch = append(batch, o)
			}
		}
		r.agenda.set(p, p.due(now, r.mono(now)))
	}
}

// plan returns the next probe of p; false when it is not to be probed now.
func (r *Prober) plan(p *peer, now time.Time) (Probe, bool) {
	p.pace.sent(now, r.cfg.Random())
	n := p.node
	way := p.fallback.next(now, n.Addr.IsValid(), n.TCP.IsValid(), n.HTTP != "", p.busy)
	o := Probe{Node: n, Way: way, peer: p}
	if way != estimate.SourceUDP {
		if way == estimate.SourceNone || p.busy {
			return Probe{}, false
		}
		p.busy = true
		return o, true
	}
	if !p.inflight.room(r.mono(now)) {
		return Probe{}, false
	}
	p.seq++
	o.Packet = NewProbe(r.cfg.Session, p.seq, r.cfg.Random())
	base, ok := p.est.Base()
	missed, lost := p.inflight.add(p.seq, o.Packet.nonce, r.mono(now), timeout(base, ok), p.path)
	if missed {
		r.miss(p, now, estimate.SourceUDP)
	}
	if lost {
		r.lose(p)
	}
	return o, true
}

// Sent sets the time at which a UDP probe was sent: the last moment before the write.
func (r *Prober) Sent(o *Probe, at time.Time) {
	o.peer.inflight.stamp(o.Packet.seq, r.mono(at), wall(at))
}

// Done takes in the result of a probe that was not UDP: its sample, or that it failed. It reports
// whether the peer is still a peer.
func (r *Prober) Done(o *Probe, now time.Time, s estimate.Sample, ok bool) bool {
	o.peer.busy = false
	if r.byID[o.Node.ID] != o.peer {
		return false
	}
	if ok {
		r.accept(o.peer, now, s)
	} else {
		r.miss(o.peer, now, o.Way)
		r.lose(o.peer)
	}
	return true
}

// Arrival is a datagram with its timestamps.
type Arrival struct {
	From    netip.AddrPort
	Now     time.Time
	Stamped bool          // by the kernel, and the clock is steady
	Queued  time.Duration // between that and Now
}

// Answer is the content of a reply.
type Answer struct {
	Peer     string
	Sample   estimate.Sample
	Believed bool // there is a sample
}

// Reply takes in an authenticated reply.
func (r *Prober) Reply(a *Arrival, k *Packet) (Answer, Drop) {
	if k.prober != r.cfg.Session {
		return Answer{}, DropUnasked
	}
	p := r.byHash[uint32(k.answerer>>32)]
	if p == nil {
		return Answer{}, DropStranger
	}
	path := p.path
	if a.From != p.node.Addr {
		path++ // none of its probes went there
	}
	mono := r.mono(a.Now)
	f, ok := p.inflight.answer(k.seq, k.nonce, mono, path)
	if !ok {
		return Answer{}, DropUnasked
	}
	if p.far != k.answerer {
		if p.far != 0 {
			p.est.Restart() // the peer was restarted; maybe it moved
		}
		p.far = k.answerer
	}
	p.est.Answered(k.answerer, k.seq, k.count)
	base, _ := p.est.Base()
	user := mono - f.sent
	x := estimate.Stamps{
		User: user, Queued: a.Queued, Stamped: a.Stamped, Drift: wall(a.Now) - f.wall - user,
		Residence: time.Duration(k.sent - k.received), FarStamped: k.flags&flagKernel != 0,
	}
	s, ok := x.Sample(base)
	if ok {
		r.accept(p, a.Now, s)
	}
	return Answer{p.node.ID, s, ok}, DropNone
}

// Observe takes in a round trip to a peer that was measured on other traffic, and reports whether
// it was accepted.
func (r *Prober) Observe(now time.Time, id string, s estimate.Sample) bool {
	p := r.byID[id]
	if p == nil || !p.est.Observe(now, s) {
		return false
	}
	r.touch()
	return true
}

// accept gives a sample to the estimator of p.
func (r *Prober) accept(p *peer, now time.Time, s estimate.Sample) {
	before := p.est.State(now)
	if !p.est.Observe(now, s) {
		return
	}
	p.fallback.result(now, s.Source, true)
	r.touch()
	if before != estimate.StateFresh || p.est.Accepted() <= quickProbes {
		r.urgent, r.wake = true, true
	}
}

// giveUp counts the probes of p that should have been answered by now, and those that will not be
// any more. late is by how much the caller comes late.
func (r *Prober) giveUp(p *peer, now time.Time, late time.Duration) {
	missed, lost := p.inflight.expire(r.mono(now), late)
	for range missed {
		r.miss(p, now, estimate.SourceUDP)
	}
	for range lost {
		r.lose(p)
	}
}

// lose takes in that a probe of p will not be answered any more.
func (r *Prober) lose(p *peer) {
	p.est.Lose()
	r.touch()
}

// miss takes in that a probe of p was not answered in time.
func (r *Prober) miss(p *peer, now time.Time, way estimate.Source) {
	before := p.est.State(now)
	p.est.Miss()
	p.fallback.result(now, way, false)
	r.touch()
	if before == estimate.StateFresh || before == estimate.StateStale {
		// Otherwise the path is long, and its answers are only late.
		if p.inflight.len() <= len(p.inflight)/2 {
			p.pace.missed(now)
		}
		if p.est.State(now) == estimate.StateLost {
			r.urgent = true
		}
	}
}

// touch records that the last rows are out of date.
func (r *Prober) touch() {
	if !r.dirty {
		r.dirty, r.wake = true, true
	}
}

// Wake reports, once, whether something happened that the caller should look at now.
func (r *Prober) Wake() bool {
	w := r.wake
	r.wake = false
	return w
}

const (
	tableEvery  = 200 * time.Millisecond // when something changed
	tableRest   = time.Second            // when nothing did: ages and holds go on
	urgentAfter = 5 * time.Millisecond   // after the first measurement of a peer
)

// TableDue returns when the next table is to be made.
func (r *Prober) TableDue() time.Time {
	r.wake = false
	switch {
	case r.made.IsZero():
		return r.made
	case r.urgent:
		return r.made.Add(urgentAfter)
	case r.dirty:
		return r.made.Add(tableEvery)
	}
	return r.made.Add(tableRest)
}

// Rows returns what is known of every peer, by ID, for a table.
func (r *Prober) Rows(now time.Time) []Row {
	r.dirty, r.urgent, r.made = false, false, now
	rows := make([]Row, 0, len(r.byID))
	for _, p := range r.byID {
		s := p.est.Stat(now)
		rows = append(rows, Row{p.node, s, s.State == estimate.StateLost})
	}
	slices.SortFunc(rows, func(a, b Row) int { return strings.Compare(a.Node.ID, b.Node.ID) })
	return rows
}

// Pace sets how often each peer is probed from now on; near holds those that matter to the order.
func (r *Prober) Pace(near map[string]bool) {
	n, f := intervals(len(near), len(r.byID)-len(near), r.cfg.Near, r.cfg.Far,
		float64(r.cfg.Budget))
	for id, p := range r.byID {
		p.pace.every = f
		if near[id] {
			p.pace.every = n
		}
		p.est.Expect(p.pace.every)
	}
}
