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
	node  *Node
	base  time.Duration
}

func newOutbox(m *Mesh) *outbox { return &outbox{m: m} }

// maxBatch is how many probes are sent before the table gets its turn.
const maxBatch = 64

// round counts what is overdue or lost, sends what is due, and returns when there is more to do, zero for never.
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
				m.agenda.set(key, p.due(now))
				next = at
				break
			}
			s.plan(p, now)
		}
		m.agenda.set(key, p.due(now))
	}
	m.mu.Unlock()
	for i := range s.batch {
		s.send(ctx, wg, &s.batch[i])
	}
	return next
}

// due returns when something is to be done about p.
func (p *peer) due(now time.Time) time.Time {
	if d, ok := p.flying.due(); ok {
		if at := now.Add(d - mono(now)); at.Before(p.pace.next) {
			return at
		}
	}
	return p.pace.next
}

// giveUp counts the probes of p that should have been answered by now, and those that will not be any more. This round
// comes late by so much.
func (m *Mesh) giveUp(p *peer, now time.Time, late time.Duration) {
	missed, lost := p.flying.expire(mono(now), late)
	for range missed {
		m.miss(p, now, SourceUDP)
	}
	for range lost {
		m.lose(p)
	}
}

// lose takes in that a probe of p will not be answered any more. m.mu is held.
func (m *Mesh) lose(p *peer) {
	p.est.Lose()
	m.touch()
}

// miss takes in that a probe of p was not answered in time. m.mu is held.
func (m *Mesh) miss(p *peer, now time.Time, way Source) {
	before := p.est.State(now)
	p.est.Miss()
	p.ladder.result(now, way, false)
	m.touch()
	if before == StateFresh || before == StateStale {
		if p.flying.under() <= len(p.flying)/2 { // else it is a long way, on which they only come late
			p.pace.missed(now)
		}
		if p.est.State(now) == StateLost {
			m.urgent = true
		}
	}
}

// plan notes the next probe of p in the batch. m.mu is held.
func (s *outbox) plan(p *peer, now time.Time) {
	m := s.m
	p.pace.sent(now, rand.Uint64())
	way := p.ladder.next(now, p.node.Addr.IsValid(), p.node.TCP.IsValid(), p.node.HTTP != "", p.busy)
	if way == SourceNone || way != SourceUDP && p.busy || way == SourceUDP && !p.flying.room(mono(now)) {
		return
	}
	base, ok := p.est.Base()
	o := outgoing{p: p, way: way, node: p.node, base: base}
	if way == SourceUDP {
		p.seq++
		// The runtime's generator is seeded by the system and cannot be predicted by a peer.
		o.seq, o.nonce = p.seq, rand.Uint64()
		missed, lost := p.flying.launch(o.seq, o.nonce, mono(now), timeout(base, ok), p.path)
		if missed {
			m.miss(p, now, SourceUDP)
		}
		if lost {
			m.lose(p)
		}
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
	at := time.Now()
	o.p.flying.stamp(o.seq, mono(at), wall(at))
	m.mu.Unlock()
	if err := m.sock.write(s.buf[:], o.node.Addr); err != nil {
		m.count.sendErrors.Add(1) // it will be missed like any other
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
	path := p.path
	if a.from != p.node.Addr {
		path++ // none of its probes went there
	}
	f, ok := p.flying.land(k.seq, k.nonce, mono(a.now), path)
	if !ok {
		m.mu.Unlock()
		return dropUnasked
	}
	if p.far != k.answerer {
		if p.far != 0 {
			p.est.Restart() // another life of the peer; maybe it moved
		}
		p.far = k.answerer
	}
	p.est.dir.reply(k.answerer, k.seq, k.count)
	base, _ := p.est.Base()
	user := mono(a.now) - f.sent
	x := exchange{
		user: user, queued: a.queued, stamped: a.stamped,
		drift:     wall(a.now) - f.wall - user,
		residence: time.Duration(k.sent - k.received), farStamped: k.flags&flagKernel != 0,
	}
	s, ok := x.sample(base)
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
	m.touch()
	if before != StateFresh || p.est.n <= quickProbes {
		m.urgent = true
		m.nudge()
	}
}
