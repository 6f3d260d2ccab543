package balance

import (
	"fmt"
	"slices"
	"strings"
)

// Outcome is how a request ended for the machine that it was sent to.
type Outcome uint8

// The outcomes. Only Done and Errored say anything about the machine's health.
const (
	Done     Outcome = iota // answered
	Bounced                 // refused by the owner
	Errored                 // the machine or the way to it failed, or it answered that it failed
	Canceled                // the client left, or the request's time was up
	Unserved                // no machine got it: none was found, or this node could not send it
)

var outcomeNames = [...]string{"done", "bounced", "errored", "canceled", "unserved"}

// String returns the outcome's name as it stands in logs, JSON and metrics.
func (o Outcome) String() string { return name(outcomeNames[:], uint8(o), "outcome") }

// MarshalText returns the outcome's name.
func (o Outcome) MarshalText() ([]byte, error) {
	if int(o) >= len(outcomeNames) {
		return nil, fmt.Errorf("balance: %v has no name", o)
	}
	return []byte(o.String()), nil
}

// UnmarshalText is the inverse of [Outcome.MarshalText].
func (o *Outcome) UnmarshalText(text []byte) error {
	i := slices.Index(outcomeNames[:], string(text))
	if i < 0 {
		return fmt.Errorf("balance: unknown outcome %q: want one of %s", text, strings.Join(outcomeNames[:], ", "))
	}
	*o = Outcome(i)
	return nil
}

// Reservation is one request of this node counted in at one machine. It is a handle: pass it by pointer and release it
// once; copying it is misuse.
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

// Incarnation returns which start of the machine's owner the picked row is from: a later one is another process, and
// nothing that was agreed with an earlier one holds. It is valid while the reservation is.
func (r *Reservation) Incarnation() uint64 { return r.row.shared.incarnation }

// Gate returns the gate of the machine when this process owns it, else nil.
func (r *Reservation) Gate() *Gate { return r.row.cell.gate }

// Busy reports whether the machine, this request included, is above its soft limit: the signal to start another.
func (r *Reservation) Busy() bool {
	m := r.row
	soft := m.shared.limits.Soft
	if soft == 0 {
		return false
	}
	if g := m.cell.gate; g != nil {
		return max(m.cell.own(), g.InFlight()) > soft
	}
	return float32(m.cell.own())+est(m.cell.est.Load()).others() > float32(soft)
}

// Failing reports whether the machine was picked only because there was nothing better: its checks
// fail, or this node holds it for an outlier. Then the request is no sign that the app is served.
func (r *Reservation) Failing() bool { return r.row.tier == TierFailing }

// Observe takes in what the owner said in a reply or a bounce. Call it while the reservation is held; it is O(1) and does
// not allocate. What is older than what is known is dropped.
func (r *Reservation) Observe(l Load) {
	c := r.row.cell
	if l.Epoch != 0 && l.Epoch < c.row.Load().epoch ||
		r.row.shared.incarnation < c.row.Load().shared.incarnation {
		return // of a run that is over
	}
	r.away = l.State != Started
	r.full = l.Limits.Hard > 0 && l.InFlight >= l.Limits.Hard
	if c.observe(l, 0, true) && (l.Limits.Hard == 0 || l.InFlight < l.Limits.Hard) {
		r.b.signal(r.row.shared.app)
	}
}

// Release counts the request out and notes how it ended. The handle is zeroed; a second Release panics.
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
	if o == Errored && m.epoch < c.row.Load().epoch {
		o = Unserved // the run that failed is over
	}
	switch o {
	case Errored:
		c.remember().fails.Add(1)
		usual := c.usualFailures()
		c.update(func(e est) est { return e.failed(usual) })
	case Done:
		if est(c.est.Load())&(penaltyMask|failsMask|probeBit) != 0 {
			usual := c.usualFailures()
			c.update(func(e est) est { return e.succeeded(usual) })
		}
	default:
		c.remember().void.Add(1)
		switch {
		case o != Bounced:
		case away:
			c.away()
		case full:
			c.refuse()
		}
	}
	c.leave()
	b.signal(m.shared.app)
}
