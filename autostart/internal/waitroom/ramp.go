package waitroom

import "time"

// Ramp lets those who wait to a machine that has just become ready in waves: a quarter of what it takes, half of it after a
// step, all after another.
type Ramp struct {
	Epoch uint64 // of the run it is for
	began time.Time
	whole int // what the machine takes
	given int
}

// Over reports whether nothing is held back any more.
func (r *Ramp) Over(now time.Time, step time.Duration) bool {
	return !r.began.IsZero() && now.Sub(r.began) >= 2*step
}

// Full reports whether the present wave is over.
func (r *Ramp) Full(now time.Time, step time.Duration) bool {
	if r.began.IsZero() || r.Over(now, step) {
		return false
	}
	wave := max(1, r.whole/4)
	if now.Sub(r.began) >= step {
		wave *= 2
	}
	return r.given >= wave
}

// Give counts one who has been let in, of as many as wait. whole is what the machine takes, 0 when that is not limited.
func (r *Ramp) Give(now time.Time, whole, waiting int) {
	if r.began.IsZero() {
		r.began = now
		if r.whole = whole; whole == 0 {
			r.whole = waiting
		}
	}
	r.given++
}
