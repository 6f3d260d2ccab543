package hop

import (
	"time"
)

// Budget bounds the failed tries of all requests together: when a region is lost, retries must not
// double the load on the rest. Each request earns a part of a try, each second earns a few, and
// tries not used within 10 s expire. Bounces cost nothing, because they are answers.
type Budget struct {
	Ratio  float64 // tries earned by a request; negative means no bound
	Floor  float64 // tries earned in a second
	tokens float64
	most   float64 // earned in the last 10 s or so
	last   time.Time
}

// budgetTime is how long unused tries live, as in Finagle: long enough for a burst, too short to
// save up for a disaster.
const budgetTime = 10 * time.Second

// pass advances the time to now.
func (b *Budget) pass(now time.Time) {
	if b.last.IsZero() {
		b.last, b.tokens = now, b.Floor*budgetTime.Seconds()
		return
	}
	d := now.Sub(b.last)
	if d <= 0 {
		return
	}
	b.last = now
	// What requests earned fades; the floor comes in.
	fade := max(0, 1-d.Seconds()/budgetTime.Seconds())
	b.most *= fade
	b.tokens = min(b.tokens+b.Floor*d.Seconds(), b.most+b.Floor*budgetTime.Seconds())
}

// Earn records a request.
func (b *Budget) Earn(now time.Time) {
	if b.Ratio < 0 {
		return
	}
	b.pass(now)
	b.tokens += b.Ratio
	b.most += b.Ratio
}

// Spend asks for one more try after a failed one.
func (b *Budget) Spend(now time.Time) bool {
	if b.Ratio < 0 {
		return true
	}
	b.pass(now)
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
