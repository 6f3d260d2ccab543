package downscale

import (
	"errors"
	"time"
)

// retryMin doubles with each passing error in a row up to retryMax, where the driver does not say
// when to come back.
const retryMin, retryMax = 250 * time.Millisecond, 5 * time.Second

// retryAfter returns when to call the driver again after its n-th passing error in a row, n from 0:
// not before the time that err says, and spread by the random bits. ok is false when err does not
// pass by itself.
func retryAfter(err error, n int, bits uint64) (wait time.Duration, ok bool) {
	var passing interface {
		error
		RetryAfter() time.Duration
	}
	if !errors.As(err, &passing) {
		return 0, false
	}
	wait = max(passing.RetryAfter(), min(retryMin<<min(n, 10), retryMax))
	return wait + time.Duration(float64(max(wait/2, retryMin))*float64(bits>>11)/(1<<53)), true
}
