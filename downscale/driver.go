package downscale

import (
	"context"
	"errors"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale/cordon"
)

// Driver ends machines. It is called from several goroutines, for one machine only once at a time.
type Driver interface {
	// Stop ends m and returns when it is gone. Stopping a machine that does not run is no error.
	// After any error but ctx's the machine is taken as running still; after ctx's as in doubt, and
	// Stop is called again. An error that has a method RetryAfter() time.Duration, as
	// autostart.TryAgain has, passes by itself: the machine runs, and the call is made again, not
	// before that time, as long as [Config].StopTimeout lasts and nobody wants the machine.
	Stop(ctx context.Context, m balance.Machine) error
	// Suspend freezes m so that a start resumes it. Errors that pass by themselves are tried again
	// as those of Stop are. After any other the machine is stopped instead; where the driver cannot
	// suspend, the error matches [errors.ErrUnsupported].
	Suspend(ctx context.Context, m balance.Machine) error
}

// answer is how a driver call ended.
type answer struct {
	m     *machine
	cmd   cordon.Command
	err   error
	doubt bool // it ran into its timeout
}

// pause waits before the driver is called again. It is false when the call has no time left, or
// when somebody wants the machine, which runs.
func pause(ctx context.Context, gate *balance.Gate, d time.Duration) bool {
	end := time.Now().Add(d)
	if limit, ok := ctx.Deadline(); ok && !limit.After(end) {
		return false
	}
	t := time.NewTicker(wantedEvery)
	defer t.Stop()
	for left := d; left > 0; left = time.Until(end) {
		if gate.Wanted() {
			return false
		}
		t.Reset(min(left, wantedEvery))
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
		}
	}
	return !gate.Wanted()
}

// wantedEvery is how often somebody who wants a machine is looked for while its stop is put off.
const wantedEvery = 100 * time.Millisecond

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
