package health

import "time"

const (
	// PlainTries is how often the driver is called for one start while it returns ordinary errors: if
	// an interface fails one call in twenty, four in a row fail once in 160,000. The pauses between
	// them begin with plainMin and triple, so that a lasting error is reported after some 1.3 s.
	PlainTries = 4
	plainMin   = 100 * time.Millisecond
	// passMin doubles with each passing error in a row up to passMax, where the driver does not say
	// when to come back.
	passMin, passMax = 250 * time.Millisecond, 5 * time.Second
	// HeldMax is how long a start is held that does not reach the driver, or that the driver asks to
	// try again. Then it is given back, and whoever still wants the machine asks again.
	HeldMax = 30 * time.Second
	// AfterMax is the longest pause that a driver may ask for. Nobody waits longer than that for a
	// start.
	AfterMax = 3 * time.Minute
)

// Retries says when the driver is called again after its Start has failed, for one start. The zero
// value has seen no failure.
type Retries struct {
	plain   int // ordinary errors
	passing int // in a row
}

// Again returns how long to wait before the next call; it reports false when there is no next call
// and the start has failed. The caller bounds the time for passing errors.
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
