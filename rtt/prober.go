package rtt

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// outbox sends the probes that are due. It is used by drive's goroutine only.
type outbox struct {
	m     *Mesh
	keys  *[][]byte
	codec *codec
	buf   [packetSize]byte
	batch []outgoing
}

type outgoing struct {
	p     *peer
	way   Source
	seq   uint64
	nonce uint64
	node  Node
	base  time.Duration
}

func newOutbox(m *Mesh) *outbox { return &outbox{m: m} }

// maxBatch is how many probes are sent before the table gets its turn.
const maxBatch = 64

// round gives up what is overdue, sends what is due, and returns when there is more to do, zero for never.
func (s *outbox) round(ctx context.Context, wg *sync.WaitGroup, now time.Time) time.Time {
	m := s.m
	if keys := m.keys.Load(); keys != s.keys {
		s.keys, s.codec = keys, newCodec(*keys)
	}
	s.batch = s.batch[:0]
	var next time.Time
	m.mu.Lock()
	for {
		key, at, ok := m.agenda.first()
		if !ok || at.After(now) || len(s.batch) == maxBatch {
			next = at
			break
		}
		p := m.peers[key]
		m.giveUp(p, now, now.Sub(at))
		if !p.pace.next.After(now) {
			// Without a token all wait: who has been due for longest comes first, so a full agenda starves nobody.
			if ok, at := m.bucket.take(now); !ok {
				m.agenda.set(key, p.due())
				next = at
				break
			}
			s.plan(p, now)
		}
		m.agenda.set(key, p.due())
	}
	m.mu.Unlock()
	for i := range s.batch {
		s.send(ctx, wg, &s.batch[i])
	}
	return next
}

// due returns when something is to be done about p.
func (p *peer) due() time.Time {
	at := p.pace.next
	for i := range p.flying {
		if d := p.flying[i].deadline; !d.IsZero() && d.Before(at) {
			at = d
		}
	}
	return at
}

// giveUp counts the probes of p that should have been answered by now. When this round comes late, then so did the
// goroutine that reads: its answers may be waiting in the socket, so the probes get as much longer, once.
func (m *Mesh) giveUp(p *peer, now time.Time, late time.Duration) {
	for i := range p.flying {
		f := &p.flying[i]
		if f.deadline.IsZero() || f.deadline.After(now) {
			continue
		}
		if late > 20*time.Millisecond && !f.put {
			f.put = true
			f.deadline = now.Add(min(late, time.Second))
			continue
		}
		f.deadline = time.Time{}
		m.miss(p, now, SourceUDP)
	}
}

// miss takes in that a probe of p was not answered. m.mu is held.
func (m *Mesh) miss(p *peer, now time.Time, way Source) {
	before := p.est.State(now)
	p.est.Miss()
	p.ladder.result(now, way, false)
	m.dirty = true
	if before == StateFresh || before == StateStale {
		p.pace.missed(now)
		if p.est.State(now) == StateLost {
			m.urgent = true
		}
	}
}

// plan notes the next probe of p in the batch. m.mu is held.
func (s *outbox) plan(p *peer, now time.Time) {
	p.pace.sent(now, rand.Uint64())
	way := p.ladder.next(now, p.node.Addr.IsValid(), p.node.TCP.IsValid(), p.node.HTTP != "")
	if way == SourceNone || way != SourceUDP && p.busy {
		return
	}
	base, ok := p.est.Base()
	o := outgoing{p: p, way: way, node: p.node, base: base}
	if way == SourceUDP {
		p.seq++
		o.seq, o.nonce = p.seq, rand.Uint64()
		f := &p.flying[o.seq%uint64(len(p.flying))]
		if !f.deadline.IsZero() { // eight probes under way, and the oldest is neither answered nor given up
			s.m.miss(p, now, SourceUDP)
		}
		*f = probe{seq: o.seq, nonce: o.nonce, to: p.node.Addr, sent: now, deadline: now.Add(timeout(base, ok))}
	} else {
		p.busy = true
	}
	s.batch = append(s.batch, o)
}

// send sends one probe. The time is taken last, after the MAC.
func (s *outbox) send(ctx context.Context, wg *sync.WaitGroup, o *outgoing) {
	m := s.m
	m.count.sent.Add(1)
	if o.way != SourceUDP {
		o := *o
		wg.Go(func() { m.fallback(ctx, o) })
		return
	}
	s.codec.seal(&s.buf, &packet{kind: typeProbe, prober: m.session, seq: o.seq, nonce: o.nonce})
	m.mu.Lock()
	if f := &o.p.flying[o.seq%uint64(len(o.p.flying))]; f.seq == o.seq {
		f.sent = time.Now()
	}
	m.mu.Unlock()
	if err := m.sock.write(s.buf[:], o.node.Addr); err != nil {
		m.count.sendErrors.Add(1) // it will be given up like any other
	}
}

// arrival is one datagram with its stamps.
type arrival struct {
	from    netip.AddrPort
	now     time.Time
	stamped bool          // by the kernel, and the clock is steady
	queued  time.Duration // between that and now
}

// reply takes in an authenticated reply.
func (m *Mesh) reply(a *arrival, k *packet) drop {
	if k.prober != m.session {
		return dropUnasked
	}
	m.mu.Lock()
	p := m.byHash[uint32(k.answerer>>32)]
	if p == nil {
		m.mu.Unlock()
		return dropStranger
	}
	f := &p.flying[k.seq%uint64(len(p.flying))]
	if f.seq != k.seq || k.seq == 0 || f.nonce != k.nonce || f.to != a.from || a.now.Sub(f.sent) > answerable {
		m.mu.Unlock()
		return dropUnasked
	}
	late := f.deadline.IsZero()
	sent := f.sent
	*f = probe{}
	if p.far != k.answerer {
		if p.far != 0 {
			p.est.Restart() // another life of the peer; maybe it moved
		}
		p.far = k.answerer
	}
	p.est.dir.reply(k.answerer, k.seq, k.count)
	base, _ := p.est.Base()
	user := a.now.Sub(sent)
	x := exchange{
		user: user, queued: a.queued, stamped: a.stamped,
		drift:     wall(a.now) - wall(sent) - user,
		residence: time.Duration(k.sent - k.received), farStamped: k.flags&flagKernel != 0,
	}
	s, ok := x.sample(base)
	s.Late = late
	m.accept(p, a.now, s, ok)
	id := p.node.ID
	m.mu.Unlock()
	if ok && m.cfg.Trace.Sample != nil {
		m.cfg.Trace.Sample(id, s)
	}
	return dropNone
}

// accept gives a sample to the estimator of p. m.mu is held.
func (m *Mesh) accept(p *peer, now time.Time, s Sample, ok bool) {
	before := p.est.State(now)
	if !ok || !p.est.Observe(now, s) {
		return
	}
	p.ladder.result(now, s.Source, true)
	m.dirty = true
	if before != StateFresh || p.est.n <= quickProbes {
		m.urgent = true
		m.nudge()
	}
}
