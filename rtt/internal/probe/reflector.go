package probe

import "time"

// Reflector decides which probes are answered. It remembers a sender only after the MAC was
// checked, so a stranger cannot make it remember anything. It is not safe for concurrent use.
type Reflector struct {
	session  uint64
	rate     float64 // answers per second to one sender
	burst    float64
	max      int // senders remembered
	senders  map[uint64]*sender
	lastTidy time.Time
}

// sender is the state kept about one run of one prober.
type sender struct {
	high   uint64 // highest sequence seen
	seen   uint64 // bit i: high-i was seen
	count  uint64 // probes accepted
	tokens float64
	last   time.Time
}

// senderIdle is how long a silent sender is remembered, far longer than the slowest interval of
// probes. After that a recorded probe is answered once more, by a packet of the same size that no
// prober accepts.
const senderIdle = 2 * time.Minute

func NewReflector(session uint64, rate float64, burst, max int) *Reflector {
	return &Reflector{
		session: session, rate: rate, burst: float64(burst), max: max,
		senders: make(map[uint64]*sender),
	}
}

// Answer turns p, an authenticated probe, into its reply (all but the timestamps), or says why
// there is none. A probe of this node itself that has come back counts as replayed.
func (r *Reflector) Answer(now time.Time, p *Packet) Drop {
	if p.prober == r.session {
		return DropReplayed
	}
	s := r.senders[p.prober]
	if s == nil {
		s = r.admit(now)
		r.senders[p.prober] = s
	}
	s.tokens = min(r.burst, s.tokens+max(0, now.Sub(s.last).Seconds())*r.rate)
	s.last = now
	if s.tokens < 1 {
		return DropLimited
	}
	if !s.accept(p.seq) {
		return DropReplayed
	}
	s.tokens--
	s.count++
	p.kind, p.flags, p.count, p.answerer, p.hint = typeReply, 0, s.count, r.session, 0
	p.received, p.sent = 0, 0
	return DropNone
}

func (r *Reflector) admit(now time.Time) *sender {
	if len(r.senders) >= r.max || now.Sub(r.lastTidy) > senderIdle {
		r.lastTidy = now
		var oldest uint64
		var at time.Time
		for id, s := range r.senders {
			if now.Sub(s.last) > senderIdle {
				delete(r.senders, id)
			} else if at.IsZero() || s.last.Before(at) {
				oldest, at = id, s.last
			}
		}
		if len(r.senders) >= r.max {
			delete(r.senders, oldest)
		}
	}
	return &sender{tokens: r.burst, last: now}
}

// accept reports whether seq was not seen before, and marks it. A sequence more than 63 behind the
// highest is refused, because nothing is known about it.
func (s *sender) accept(seq uint64) bool {
	switch {
	case seq == 0:
		return false
	case seq > s.high:
		if d := seq - s.high; d < 64 {
			s.seen = s.seen<<d | 1
		} else {
			s.seen = 1
		}
		s.high = seq
		return true
	case s.high-seq >= 64:
		return false
	}
	bit := uint64(1) << (s.high - seq)
	if s.seen&bit != 0 {
		return false
	}
	s.seen |= bit
	return true
}
