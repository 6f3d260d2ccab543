package boots

import "time"

const (
	// backoffMin doubles with each failure up to backoffMax: soon enough for a brief fault, rarely
	// enough for a permanent one.
	backoffMin, backoffMax = time.Second, time.Minute
	// BreakerAfter is how many boots in a row must fail before the app, rather than its machines,
	// counts as broken.
	BreakerAfter = 3
)

// Backoff returns how long to wait after the n-th failure in a row, n from 1: 1 s doubling to 60 s,
// plus or minus a fifth by the random bits, so that machines which failed together are not retried
// together.
func Backoff(n int, bits uint64) time.Duration {
	d := backoffMax
	if n < 7 {
		d = min(backoffMin<<max(n-1, 0), backoffMax)
	}
	return d*4/5 + time.Duration(float64(d)*0.4*float64(bits>>11)/(1<<53))
}
