package waitroom

import (
	"math"
	"time"
)

const (
	// rateOver is the time over which the rate is measured: long enough for work of some seconds, and
	// short enough to follow a change in the number of machines.
	rateOver = 30 * time.Second
	// rateKnown is how long requests must have waited while others were served before the rate counts
	// as known.
	rateKnown = 5 * time.Second
	// parkedMin may wait at any rate: a few that wait in vain cost little.
	parkedMin = 16
)

// Rate measures how many waiting requests are served per second. It counts only time in which some
// wait while others are served: a boot says nothing about the rate after it. Both counts fade, so
// that the rate is that of about the last half minute. The zero value has seen nothing. It is not
// safe for concurrent use.
type Rate struct {
	served float64
	busy   float64 // seconds
	at     time.Time
	open   bool // somebody has been served, and others wait since
}

// pass advances the time.
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

// Gave records that one was served, and whether others still wait.
func (r *Rate) Gave(now time.Time, wait bool) {
	r.pass(now)
	r.served++
	r.open = wait
}

// Stop records that nobody waits any more.
func (r *Rate) Stop(now time.Time) {
	if r.open {
		r.pass(now)
		r.open = false
	}
}

// PerSecond returns how many are served per second; false if that is not known.
func (r *Rate) PerSecond(now time.Time) (float64, bool) {
	r.pass(now)
	if r.busy < rateKnown.Seconds() {
		return 0, false
	}
	return r.served / r.busy, true
}

// Drain returns how long it takes to serve n, at most an hour; 0 if that is not known.
func (r *Rate) Drain(now time.Time, n int) time.Duration {
	s, ok := r.PerSecond(now)
	if !ok {
		return 0
	}
	return time.Duration(min(float64(n)/max(s, 1e-9), time.Hour.Seconds()) * float64(time.Second))
}

// Within returns how many are served within that time, at least parkedMin and at most limit; limit
// if the rate is not known.
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
	// planGap and planShare keep planning from using a whole core when every request asks for it: a
	// decision for one app costs that much time, or that many times what the last one took.
	planGap, planShare = 2 * time.Millisecond, 10
	// planBurst is how many decisions without an effect may be made on credit: no gap follows one, and
	// a request right after it is planned for at once.
	planBurst = 16
)

// Pace says when an app may be planned for again. The zero value may at once.
type Pace struct {
	Next time.Time // not before
	paid time.Time // the time until which the decisions so far are paid for
}

// Decided records a decision at time now that took so long. A decision that acts is followed by a
// gap, which gathers requests for the next; one without an effect only after many others.
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
