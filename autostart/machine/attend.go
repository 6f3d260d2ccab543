package machine

import (
	"fmt"
	"slices"
	"time"

	"github.com/ebbkit/ebb/autostart/machine/internal/health"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/oslimit"
)

// attendance stays with a machine that is ready: it checks its health while it runs, restarts it
// when it is taken for dead, and notices its end.
type attendance struct {
	*run
	live health.Liveness
	next *time.Timer // the next look
}

// attend returns when the run is over. Others stop and suspend the machine; a suspended one may
// still end by itself.
func (a *attendance) attend() {
	a.live = health.Liveness{Check: a.probe.check.checks(), Tries: a.h.tries()}
	a.live.Begin(time.Now())
	a.next = time.NewTimer(time.Hour)
	defer a.next.Stop()
	a.again(a.live.Check.Every)
	for {
		select {
		case <-a.ctx.Done():
			if e, ok := a.exit(); ok {
				a.over(e)
			}
			return
		case <-a.next.C:
		case <-a.suspect:
		}
		switch a.gate.State() {
		case balance.StateStarted:
			if a.look() {
				return
			}
		case balance.StateStopped, balance.StateFailed:
			return // it has been stopped, and nobody has reported its end
		default:
			a.live.Begin(time.Now())
			a.again(a.live.Check.Every)
		}
	}
}

// again schedules the next look after that time, or none if it is 0 or less.
func (a *attendance) again(in time.Duration) {
	if a.next.Stop(); in > 0 {
		a.next.Reset(in)
	}
}

// look checks the machine, and reports whether it has been stopped for what the check found.
func (a *attendance) look() (over bool) {
	began := time.Now()
	err := a.probe.look(a.ctx, a.m)
	if err == nil {
		err = a.s.calls.inspect(a.ctx, a.m, a.probe.check.Timeout)
	}
	if a.ctx.Err() != nil || a.gate.State() != balance.StateStarted {
		a.again(a.live.Check.Every) // it was stopped or suspended during the look
		return false
	}
	if oslimit.NoProcess(err) {
		a.again(a.live.Check.Every) // this node could not look, which says nothing about the machine
		return false
	}
	row, is := a.s.row(a.m), a.condition(err)
	changed, restart, wait := a.live.Look(began, is, a.s.restartAfter(a.m.App), row.Recent)
	if changed {
		a.changed(err)
	}
	if restart && a.mayRestart(is) && a.restart(err) {
		return true
	}
	a.h.setTries(a.live.Tries)
	if wait > 0 {
		a.again(max(wait-time.Since(began), time.Millisecond))
	} else {
		a.again(0)
	}
	return false
}

// changed says in the row whether checks pass.
func (a *attendance) changed(err error) {
	is := balance.HealthPassing
	if a.live.Failing() {
		is = balance.HealthFailing
	}
	a.edit(func(m *balance.Machine) {
		if m.Health = is; is == balance.HealthPassing {
			m.Fault = "" // of a restart that failed
		}
	})
	a.s.config.Trace.health(a.m, is, err)
}

// over records the end of a machine that was ready. An exit status other than 0, or a signal, is a
// failure; a machine that ends with 0 has stopped by itself.
func (a *attendance) over(e Exit) {
	failed := e.Code != 0 || e.Signal != ""
	if st := a.gate.State(); failed && (st == balance.StateStarted || st == balance.StateSuspended) {
		// before the state, so that whoever sees the state finds the reason
		a.edit(func(m *balance.Machine) { m.Fault = e.Reason })
	}
	if a.gate.Exited(a.m.Epoch, failed) {
		m := a.m
		if failed {
			m.Fault = e.Reason
		}
		a.s.config.Trace.exited(m, e)
		return
	}
	a.edit(func(m *balance.Machine) { m.Fault = "" }) // it was being stopped
}

// mayRestart reports whether this machine may be restarted for what a look has found.
func (a *attendance) mayRestart(is health.Condition) bool {
	rows, ok := a.s.fleet.App(a.m.App)
	if !ok {
		return false // it has been removed: whoever did that stops it
	}
	if is == health.ConditionRefused {
		return true
	}
	after := a.s.restartAfter(a.m.App)
	return health.MayRestart(
		slices.Collect(rows.All()), a.m.ID,
		func(m *balance.Machine) health.Trial { return a.s.trial(m, after) },
	)
}

// restart stops a machine that is taken for dead, which ends the requests that wait for it, and has
// it started again by a start that its gate remembers. It reports false when the machine runs on.
func (a *attendance) restart(found error) bool {
	if !a.s.calls.claim(a.m) {
		return false // the driver is still at it
	}
	a.live.Tries++
	a.h.restarting(a.live.Tries) // before the gate shows the stop: others read both, see trial
	token, ok := a.gate.CloseNow()
	if !ok {
		a.live.Tries--
		a.s.calls.release(a.m)
		return false // it is being stopped already
	}
	a.gate.Start(a.m.Epoch) // remembered
	m := a.m
	m.Fault = a.live.Why(time.Now(), found)
	a.edit(func(row *balance.Machine) { row.Fault = m.Fault })
	a.s.config.Trace.restarting(m)
	err := a.s.calls.stop(a.ctx, a.m)
	if err == nil {
		a.gate.Closed(token, false)
		return true
	}
	err = fmt.Errorf("%s; and stopping it failed: %w", m.Fault, err)
	a.edit(func(row *balance.Machine) { row.Fault = err.Error() })
	a.gate.Reopen(token)
	a.s.config.Trace.health(a.m, balance.HealthFailing, err)
	return false
}
