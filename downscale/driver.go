package downscale

import (
	"context"
	"errors"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale/cordon"
)

// Driver ends machines. It is called from several goroutines, but only once at a time for a
// machine.
type Driver interface {
	// Stop ends m and returns when it is gone. Stopping a machine that does not run is no error.
	// After ctx's error the machine is in doubt, and Stop is called again; after any other error it
	// is taken to run still. An error with a method RetryAfter() time.Duration, as
	// autostart.TryAgain has, is transient: the machine runs, and the call is retried, not before
	// that time, as long as [Config].StopTimeout lasts and nobody wants the machine.
	Stop(ctx context.Context, m balance.Machine) error
	// Suspend freezes m so that a start resumes it. Transient errors are retried as those of Stop
	// are. After any other error the machine is stopped instead; if the driver cannot suspend, the
	// error matches [errors.ErrUnsupported].
	Suspend(ctx context.Context, m balance.Machine) error
}

// answer is how a driver call ended.
type answer struct {
	m     *machine
	cmd   cordon.Command
	err   error
	doubt bool // it ran into its timeout
}

// pause waits before the driver is called again. It returns false when the call has no time left,
// or when somebody wants the machine, which still runs.
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

// wantedEvery is how often the gate is checked for somebody who wants the machine while its stop is
// delayed.
const wantedEvery = 100 * time.Millisecond

// retryMin doubles with each transient error in a row up to retryMax, if the driver does not say
// when to retry.
const retryMin, retryMax = 250 * time.Millisecond, 5 * time.Second

// retryAfter returns how long to wait after the driver's n-th transient error in a row, n from 0:
// at least as long as err says, and jittered by the random bits. ok is false if err is not
// transient.
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
