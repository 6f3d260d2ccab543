package autostart

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/boots"
	"github.com/ebbkit/ebb/autostart/internal/waitroom"
	"github.com/ebbkit/ebb/balance"
)

// undecided is the forecast for an app for which nothing has been decided yet.
var undecided = waitroom.Forecast{Wait: boots.WaitMin}

// outlook says whether it is worth waiting for an app, and for how long.
type outlook struct {
	a        *Autostart
	app      balance.AppID
	forecast atomic.Pointer[waitroom.Forecast] // never nil
	free     atomic.Int64                      // when the balancer expects a slot, as a duration
}

// until returns when the patience of a request ends that has waited since then.
func (o *outlook) until(since time.Time) time.Time {
	return o.forecast.Load().Ends(since, o.a.config.MaxWait)
}

// after returns in how long a rejected client should come back. The waiting requests are served
// within drain.
func (o *outlook) after(now time.Time, drain time.Duration) time.Duration {
	return o.forecast.Load().Back(now, drain, time.Duration(o.free.Load()), tickEvery)
}

// rateCounts returns how long arrivals may have to wait, for a bound by the rate at which requests
// have been served. It is negative where that rate says nothing, because waits do not end or a
// start is in flight.
func (o *outlook) rateCounts() time.Duration {
	f := o.forecast.Load()
	if o.a.config.MaxWait < 0 || !f.Coming.IsZero() {
		return -1
	}
	return f.Patience(o.a.config.MaxWait)
}

func (o *outlook) refusal(fault string, after time.Duration) error {
	return &Error{App: o.app, Class: ErrStart, Fault: fault, After: after}
}

// hopeless returns an error when the balancer's error says that waiting makes no sense: nothing
// runs, and nothing will.
func (o *outlook) hopeless(why error) error {
	if why == nil {
		return nil
	}
	none, ok := errors.AsType[*balance.NoMachineError](why)
	if !ok {
		return why
	}
	if errors.Is(why, balance.ErrFull) || none.Starting > 0 || none.Excluded > 0 {
		return nil
	}
	rows, ok := o.a.balancer.Fleet().App(o.app)
	if !ok { // it has been removed since the balancer looked
		return fmt.Errorf("%w: %q", balance.ErrNoApp, o.app)
	}
	if !o.a.decides() || none.Stopped == 0 || !rows.App().Autostart {
		return &Error{App: o.app, Class: ErrAsleep, Err: why}
	}
	return nil
}

// refused returns an error when nothing runs and the last decision was not to try for a while.
func (o *outlook) refused(now time.Time, why error) error {
	none, ok := errors.AsType[*balance.NoMachineError](why)
	if !ok || errors.Is(why, balance.ErrFull) || none.Starting > 0 {
		return nil
	}
	if fault, left := o.forecast.Load().Refused(now); fault != "" {
		return o.refusal(fault, left)
	}
	return nil
}

// startFault returns what a starting machine lacks; empty when no row says so.
func (o *outlook) startFault() string {
	rows, ok := o.a.balancer.Fleet().App(o.app)
	if !ok {
		return ""
	}
	for m := range rows.All() {
		if m.State == balance.StateStarting && m.Fault != "" {
			return fmt.Sprintf("machine %s: %s", m.ID, m.Fault)
		}
	}
	return ""
}
