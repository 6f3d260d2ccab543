package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"syscall"
	"time"

	"github.com/ebbkit/ebb/autostart/machine/internal/health"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/oslimit"
)

// exited takes in the driver's word that a machine has ended. It does not block: the machine's own
// goroutine does the rest.
func (s *Starter) exited(e Exit) {
	// else it is about an earlier start, or somebody else's machine
	if r := s.run(balance.MachineKey{App: e.App, ID: e.ID}, e.Epoch); r != nil {
		r.end(&ended{e})
	}
}

// run returns the run of a machine's start of that epoch, if it is the last, or nil.
func (s *Starter) run(key balance.MachineKey, epoch uint64) *run {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.hosts[key]; h != nil && h.run != nil && h.run.m.Epoch == epoch {
		return h.run
	}
	return nil
}

// attend stays with a machine that is ready: it checks its health while it runs, restarts it when
// it is taken for dead, and notices its end. A stop or a suspension is somebody else's doing; a
// suspended machine may still end.
func (s *Starter) attend(h *hosted, r *run) {
	l := health.Liveness{Check: r.probe.check.checks(), Tries: s.tries(h)}
	l.Begin(time.Now())
	next := time.NewTimer(time.Hour)
	next.Stop()
	defer next.Stop()
	again := func(in time.Duration) {
		if in > 0 {
			next.Reset(in)
		}
	}
	again(l.Check.Every)
	for {
		select {
		case <-r.ctx.Done():
			if e, ok := errors.AsType[*ended](context.Cause(r.ctx)); ok {
				s.over(r, e.exit)
			}
			return
		case <-next.C:
		case <-r.suspect:
		}
		if st := r.gate.State(); st != balance.StateStarted {
			if st == balance.StateStopped || st == balance.StateFailed {
				return // it has been stopped, and nobody has reported its end
			}
			l.Begin(time.Now())
			again(l.Check.Every)
			continue
		}
		began := time.Now()
		err := s.look(r)
		if r.ctx.Err() != nil || r.gate.State() != balance.StateStarted {
			again(l.Check.Every) // it went to sleep under the look
			continue
		}
		if oslimit.NoProcess(err) {
			again(l.Check.Every) // this node could not look, which says nothing of the machine
			continue
		}
		row := s.row(r.m)
		changed, restart, wait := l.Look(began, s.condition(r, err), s.restartAfter(r.m.App), row.Recent)
		if changed {
			health := balance.HealthPassing
			if l.Failing() {
				health = balance.HealthFailing
			}
			s.edit(r, func(m *balance.Machine) {
				if m.Health = health; health == balance.HealthPassing {
					m.Fault = "" // of a restart that failed
				}
			})
			s.config.Trace.health(r.m, health, err)
		}
		if restart && s.mayRestart(r, err) && s.restart(h, r, &l, err) {
			return
		}
		s.tried(h, l.Tries)
		if wait > 0 {
			again(max(wait-time.Since(began), time.Millisecond))
		}
	}
}

// look looks at a machine that was ready: by its check, and by what its driver knows of it.
func (s *Starter) look(r *run) error {
	err := r.probe.look(r.ctx, r.m)
	d, ok := s.driver.(Inspector)
	if err != nil || !ok {
		return err
	}
	ctx, cancel := context.WithTimeout(r.ctx, r.probe.check.Timeout)
	defer cancel()
	err = s.bounded(ctx, time.Second, func(ctx context.Context) error { return d.Inspect(ctx, r.m) })
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, errBlocked) {
		return nil // it does not say
	}
	return err
}

// over notes the end of a machine that was ready. An exit status other than 0, or a signal, is a
// failure; a machine that ends with 0 has stopped by itself.
func (s *Starter) over(r *run, e Exit) {
	failed := e.Code != 0 || e.Signal != ""
	if st := r.gate.State(); failed && (st == balance.StateStarted || st == balance.StateSuspended) {
		// before the state, so that whoever sees that knows why
		s.edit(r, func(m *balance.Machine) { m.Fault = e.Reason })
	}
	if r.gate.Exited(r.m.Epoch, failed) {
		m := r.m
		if failed {
			m.Fault = e.Reason
		}
		s.config.Trace.exited(m, e)
		return
	}
	s.edit(r, func(m *balance.Machine) { m.Fault = "" }) // it was being stopped after all
}

// condition says what the result of a look means. A check that is a func may have found that
// something else does not listen, such as a database: a connection that was refused at another
// address does not make the machine deaf.
func (s *Starter) condition(r *run, err error) health.Condition {
	if err == nil {
		return health.ConditionGood
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return health.ConditionFailing
	}
	if r.probe.check.Func != nil {
		if dial, ok := errors.AsType[*net.OpError](err); ok && dial.Addr != nil &&
			dial.Addr.String() != r.m.Addr {
			return health.ConditionFailing
		}
	}
	return health.ConditionRefused
}

// suspect takes in that a request found nobody listening at a machine's address: it is looked at
// now.
func (s *Starter) suspect(app balance.AppID, id balance.MachineID, epoch uint64) {
	if r := s.run(balance.MachineKey{App: app, ID: id}, epoch); r != nil {
		select {
		case r.suspect <- struct{}{}:
		default: // it is about to be looked at
		}
	}
}

// restartAfter returns for how long checks may fail; negative is for ever.
func (s *Starter) restartAfter(app balance.AppID) time.Duration {
	if rows, ok := s.fleet.App(app); ok && rows.App().RestartAfter != 0 {
		return rows.App().RestartAfter
	}
	return s.config.RestartAfter
}

// mayRestart reports whether a machine is the right one to be restarted for what a look found.
func (s *Starter) mayRestart(r *run, err error) bool {
	rows, ok := s.fleet.App(r.m.App)
	if !ok {
		return false // it has been removed: whoever did that sees to it
	}
	if s.condition(r, err) == health.ConditionRefused {
		return true
	}
	after := s.restartAfter(r.m.App)
	return health.MayRestart(
		slices.Collect(rows.All()), r.m.ID,
		func(m *balance.Machine) health.Trial { return s.trial(m, after) },
	)
}

// trial says what a machine tells of others that fail their checks: of one that somebody else owns,
// its row does.
func (s *Starter) trial(m *balance.Machine, after time.Duration) health.Trial {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.hosts[m.Key()]
	switch {
	case m.State == balance.StateStarted && !m.Recent && (h == nil || time.Since(h.ready) >= after):
		return health.TrialPassed
	case h != nil && (time.Since(h.restarted) < after || h.tries > 0 && (m.State == balance.StateStarting || (m.State == balance.StateStopping || m.State == balance.StateSuspending))):
		return health.TrialOpen
	}
	return health.TrialNone
}

func (s *Starter) tries(h *hosted) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return h.tries
}

func (s *Starter) tried(h *hosted, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h.tries = n
}

// restart stops a machine that is taken for dead, so that what waits for an answer of it is freed,
// and has it started again as whoever asks during a stop has. It is false when the machine runs on.
func (s *Starter) restart(h *hosted, r *run, l *health.Liveness, found error) bool {
	if !s.claim(h) {
		return false // the driver is still at it
	}
	l.Tries++
	s.tried(h, l.Tries)
	s.mu.Lock()
	h.restarted = time.Now() // before the gate tells: others look at both, see trial
	s.mu.Unlock()
	token, ok := r.gate.CloseNow()
	if !ok {
		l.Tries--
		s.unclaim(h)
		return false // it is being stopped already
	}
	r.gate.Start(r.m.Epoch) // remembered
	m := r.m
	m.Fault = l.Why(time.Now(), found)
	s.edit(r, func(row *balance.Machine) { row.Fault = m.Fault })
	s.config.Trace.restarting(m)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), stopTimeout)
	err := s.bounded(ctx, time.Second, func(ctx context.Context) error {
		defer s.unclaim(h)
		return s.driver.Stop(ctx, r.m)
	})
	cancel()
	if err == nil {
		r.gate.Closed(token, false)
		return true
	}
	err = fmt.Errorf("%s; and stopping it failed: %w", m.Fault, err)
	s.edit(r, func(row *balance.Machine) { row.Fault = err.Error() })
	r.gate.Reopen(token)
	s.config.Trace.health(r.m, balance.HealthFailing, err)
	return false
}
