package balance

import (
	"fmt"
	"math/rand/v2"
)

// Pick chooses a machine for r and counts the request in. On success the caller owes one
// [Reservation.Release]. The error matches [ErrNoApp], [ErrFull] or [ErrNoMachine]. It never waits.
func (b *Balancer) Pick(r Request) (Reservation, error) {
	ab := b.only.Load()
	if ab == nil || ab.id != r.App {
		ab = (*b.apps.Load())[r.App]
	}
	if ab == nil {
		return Reservation{}, fmt.Errorf("%w: %q: put it into the fleet with PutApp", ErrNoApp, r.App)
	}
	if r.Rand == 0 {
		r.Rand = rand.Uint64()
	}
	if b.trace.Picked != nil && b.trace.samples(r.Rand) {
		return b.traced(ab, &r)
	}
	if r.Prefer == nil {
		if m, slot := b.reserve(ab, &r); m != nil {
			return Reservation{b: b, row: m, ticket: slot}, nil
		}
		return b.insist(ab, &r)
	}
	return b.pick(ab, &r)
}

func (b *Balancer) pick(ab *appBalance, r *Request) (Reservation, error) {
	if !r.Prefer.Empty() {
		r.first = r.Prefer
		if m, slot := b.reserve(ab, r); m != nil {
			return Reservation{b: b, row: m, ticket: slot}, nil
		}
		r.first = nil
	}
	if m, slot := b.reserve(ab, r); m != nil {
		return Reservation{b: b, row: m, ticket: slot}, nil
	}
	return b.insist(ab, r)
}

// insist ends a pick that has found nothing: it tries once more for a request that cannot wait.
func (b *Balancer) insist(ab *appBalance, r *Request) (Reservation, error) {
	view := ab.view.Load()
	if r.Insist {
		for range attempts {
			s, ok := view.lastResort(r)
			if !ok {
				break
			}
			if m := view.row(s); m.enter(view.order[s.region].rows) {
				return Reservation{b: b, row: m}, nil
			}
		}
	}
	return Reservation{}, view.whyNone(r)
}

// attempts bounds how often a pick looks again because what it chose was taken between look and
// act, or the row of a machine has changed while its score was read.
const attempts = 16

func (b *Balancer) reserve(ab *appBalance, r *Request) (m *row, slot ticket) {
	for range attempts {
		view := ab.view.Load()
		s, ok := choose(view.strategy(b), view, r)
		if !ok {
			return nil, ticket{}
		}
		if m := view.row(s); m != nil && m.tier < tiers && m.enter(view.order[s.region].rows) {
			if est(m.cell.est.Load())&grantMask == 0 {
				return m, ticket{}
			}
			if slot, ok := m.cell.remember().granted().take(m.cell); ok {
				return m, slot
			}
			m.cell.leave() // somebody of this node took the last grant
		}
		r.Rand = mix(r.Rand, 1)
	}
	return nil, ticket{}
}

// choose calls the strategy; the usual one without copying the request.
func choose(s Strategy, v *View, r *Request) (Slot, bool) {
	if c, ok := s.(Closest); ok {
		return c.pick(v, r)
	}
	return s.Pick(v, *r)
}

// Reservation is one request of this node counted in at one machine. It is a handle: pass it by
// pointer and release it once; copying it is misuse.
type Reservation struct {
	b      *Balancer
	row    *row
	ticket ticket // of a granted slot; token 0 without one
	shown  bool   // the token may have left this process
	lost   bool   // it has not after all
	full   bool   // the owner has said so
	away   bool   // the owner has said that the machine does not run
}

// Machine returns the row that was picked. It is valid while the reservation is.
func (r *Reservation) Machine() *Machine { return r.row.machine() }

// Incarnation returns which start of the machine's owner the picked row is from: a later one is
// another process, and nothing that was agreed with an earlier one holds. It is valid while the
// reservation is.
func (r *Reservation) Incarnation() uint64 { return r.row.shared.incarnation }

// Gate returns the gate of the machine when this process owns it, else nil.
func (r *Reservation) Gate() *Gate { return r.row.cell.gate }

// Busy reports whether the machine, this request included, is above its soft limit: the signal to
// start another.
func (r *Reservation) Busy() bool {
	_, all, _ := r.row.cell.inFlight()
	return overSoft(all, r.row.shared.limits.Soft)
}

// Failing reports whether the machine was picked only because there was nothing better: its checks
// fail, or this node holds it for an outlier. Then the request is no sign that the app is served.
func (r *Reservation) Failing() bool { return r.row.tier == TierFailing }

// Observe takes in what the owner said in a reply or a bounce. Call it while the reservation is
// held; it is O(1) and does not allocate. Stale loads are ignored.
func (r *Reservation) Observe(l Load) {
	c := r.row.cell
	if l.Epoch != 0 && l.Epoch < c.row.Load().epoch ||
		r.row.shared.incarnation < c.row.Load().shared.incarnation {
		return // of a run that is over
	}
	r.away = l.State != StateStarted
	r.full = l.Limits.Hard > 0 && l.InFlight >= l.Limits.Hard
	if c.observe(l, 0, true) && (l.Limits.Hard == 0 || l.InFlight < l.Limits.Hard) {
		r.b.signal(r.row.shared.app)
	}
}

// Release counts the request out and notes how it ended. The handle is zeroed; a second Release
// panics.
func (r *Reservation) Release(o Outcome) {
	if r.row == nil {
		panic("balance: Reservation released twice")
	}
	if r.ticket.token != 0 && (!r.shown || r.lost) {
		r.giveBack()
	}
	b, m, full, away := r.b, r.row, r.full, r.away
	*r = Reservation{}
	c := m.cell
	if o == OutcomeError && m.epoch < c.row.Load().epoch {
		o = OutcomeUnserved // the run that failed is over
	}
	switch o {
	case OutcomeError:
		c.remember().fails.Add(1)
		usual := c.usualFailures()
		c.update(func(e est) est { return e.failed(usual) })
	case OutcomeDone:
		if est(c.est.Load())&(penaltyMask|failsMask|probeBit) != 0 {
			usual := c.usualFailures()
			c.update(func(e est) est { return e.succeeded(usual) })
		}
	default:
		c.remember().void.Add(1)
		switch {
		case o != OutcomeBounced:
		case away:
			c.away()
		case full:
			c.refuse()
		}
	}
	c.leave()
	b.signal(m.shared.app)
}

// Explain says where a request would go now and why. It counts nothing in. The error matches
// [ErrNoApp] for an unknown app; when nothing is usable the explanation says so.
func (b *Balancer) Explain(r Request) (Explanation, error) {
	ab, ok := (*b.apps.Load())[r.App]
	if !ok {
		return Explanation{}, fmt.Errorf("%w: %q: put it into the fleet with PutApp", ErrNoApp, r.App)
	}
	if r.Rand == 0 {
		r.Rand = 1
	}
	v := ab.view.Load()
	x := v.explain(&r, v.strategy(b))
	s := v.strategy(b)
	if !r.Prefer.Empty() {
		r.first = r.Prefer
		if slot, ok := s.Pick(v, r); ok {
			x.chose(v, slot, "what the request prefers has room; ")
			return x, nil
		}
		r.first = nil
	}
	slot, ok := s.Pick(v, r)
	if !ok || v.row(slot) == nil {
		x.Err = v.whyNone(&r)
		x.Why = "no machine can be used"
		return x, nil
	}
	x.chose(v, slot, "")
	return x, nil
}

// traced picks, and tells the hook what was seen before.
func (b *Balancer) traced(ab *appBalance, r *Request) (Reservation, error) {
	v := ab.view.Load()
	x := v.explain(r, v.strategy(b))
	res, err := b.pick(ab, r)
	if err != nil {
		x.Err, x.Why = err, "no machine can be used"
	} else if s, ok := v.slotOf(res.row); ok {
		x.chose(v, s, "")
	} else {
		x.Picked, x.Why = *res.Machine(), "the view changed while the pick was made"
	}
	b.trace.Picked(x)
	return res, err
}
