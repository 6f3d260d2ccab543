package health

import "time"

const (
	// PlainTries is how often the driver is called for one start while it answers with an ordinary
	// error: of an interface that fails one call in twenty, four in a row are one in 160,000. The
	// pauses between them begin with plainMin and triple, so that an error that stays is told after
	// some 1.3 s.
	PlainTries = 4
	plainMin   = 100 * time.Millisecond
	// passMin doubles with each passing error in a row up to passMax, where the driver does not say
	// when to come back.
	passMin, passMax = 250 * time.Millisecond, 5 * time.Second
	// HeldMax is how long a start is held that does not get to the driver, or that this asks to try
	// again: then it is given back, and whoever still wants it asks again.
	HeldMax = 30 * time.Second
	// AfterMax is the longest pause that a driver may ask for. Nobody waits for a start that comes
	// later than that.
	AfterMax = 3 * time.Minute
)

// Retries says when a driver is called again whose Start has failed, for one start. The zero value
// has seen no failure.
type Retries struct {
	plain   int // ordinary errors
	passing int // in a row
}

// Again returns how long to wait before the next call; false when there is none and the start has
// failed. Passing errors are bounded by whoever waits, not here.
func (r *Retries) Again(passing bool, after time.Duration, bits uint64) (time.Duration, bool) {
	part := float64(bits>>11) / (1 << 53)
	if passing && after <= AfterMax {
		base := max(after, min(passMin<<min(r.passing, 10), passMax))
		r.passing++
		chance := time.Duration(part * float64(max(base/2, passMin)))
		return base + chance, true // never before after
	}
	r.passing = 0
	if r.plain++; passing || r.plain >= PlainTries {
		return 0, false
	}
	base := plainMin
	for range r.plain - 1 {
		base *= 3
	}
	return base*4/5 + time.Duration(part*0.4*float64(base)), true
}
