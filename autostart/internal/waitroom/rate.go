package waitroom

import (
	"math"
	"time"
)

const (
	// rateOver is the time over which the rate is taken: long enough for work of some seconds, and
	// short enough to follow a machine more or less.
	rateOver = 30 * time.Second
	// rateKnown is for how long some must have waited while others were served until the rate is
	// known.
	rateKnown = 5 * time.Second
	// parkedMin may wait at any rate: a few that wait in vain cost little.
	parkedMin = 16
)

// Rate measures how many of those who wait are served in a second. Only the time counts in which
// some wait while others are served: a boot says nothing about what comes after it. Both counts
// fade, so that the rate is that of the last half minute or so. The zero value has seen nothing. It
// is not safe for concurrent use.
type Rate struct {
	served float64
	busy   float64 // seconds
	at     time.Time
	open   bool // somebody has been served, and others wait since
}

// pass lets time pass.
func (r *Rate) pass(now time.Time) {
	d := now.Sub(r.at)
	if r.at = now; d <= 0 { // or the clock has been set back
		return
	}
	keep := math.Exp(-d.Seconds() / rateOver.Seconds())
	r.served *= keep
	r.busy *= keep
	if r.open {
		r.busy += rateOver.Seconds() * (1 - keep) // all of d, of which the older part has faded
	}
}

// Gave notes that one was served, and whether others wait still.
func (r *Rate) Gave(now time.Time, wait bool) {
	r.pass(now)
	r.served++
	r.open = wait
}

// Stop notes that nobody waits any more.
func (r *Rate) Stop(now time.Time) {
	if r.open {
		r.pass(now)
		r.open = false
	}
}

// PerSecond returns how many are served in a second; false when that is not known.
func (r *Rate) PerSecond(now time.Time) (float64, bool) {
	r.pass(now)
	if r.busy < rateKnown.Seconds() {
		return 0, false
	}
	return r.served / r.busy, true
}

// Drain returns how long it takes to serve n, and no more than an hour; 0 when that is not known.
func (r *Rate) Drain(now time.Time, n int) time.Duration {
	s, ok := r.PerSecond(now)
	if !ok {
		return 0
	}
	return time.Duration(min(float64(n)/max(s, 1e-9), time.Hour.Seconds()) * float64(time.Second))
}

// Within returns how many are served within that time, at least parkedMin and at most limit; limit
// when the rate is not known.
func (r *Rate) Within(now time.Time, d time.Duration, limit int) int {
	s, ok := r.PerSecond(now)
	if !ok {
		return limit
	}
	n := max(s*d.Seconds(), parkedMin)
	if n >= float64(limit) {
		return limit
	}
	return int(n)
}

const (
	// planGap and planShare keep planning from eating a core when every request asks for it: that
	// much time, and that many times what the last decision took, are the price of a decision for
	// one app.
	planGap, planShare = 2 * time.Millisecond, 10
	// planBurst is how many decisions that do nothing may be made on credit: after one there is no
	// gap, and who comes right after it is planned for at once.
	planBurst = 16
)

// Pace says when an app may be planned for again. The zero value may at once.
type Pace struct {
	Next time.Time // not before
	paid time.Time // until when the decisions so far are paid for
}

// Decided notes a decision at time now that took so long. One that acts is followed by a gap, in
// which those who come meanwhile are gathered for the next; one that does nothing only when many
// came before it.
func (p *Pace) Decided(now time.Time, took time.Duration, acts bool) {
	price := max(planGap, planShare*took)
	if acts {
		p.paid = now.Add(price)
		p.Next = p.paid
		return
	}
	if p.paid.Before(now) || p.paid.Sub(now) > planBurst*planGap { // or the clock has been set back
		p.paid = now
	}
	p.paid = p.paid.Add(price)
	p.Next = p.paid.Add(-planBurst * planGap)
}
