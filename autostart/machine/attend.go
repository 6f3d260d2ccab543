package machine

import (
	"context"
	"errors"
	"time"

	"github.com/ebbkit/ebb/autostart/machine/internal/health"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/oslimit"
)

// exited takes in the driver's word that a machine has ended. It does not block: the machine's own goroutine does the rest.
func (s *Starter) exited(e Exit) {
	if r := s.run(balance.MachineKey{App: e.App, ID: e.ID}, e.Epoch); r != nil { // else it is about an earlier start, or somebody else's machine
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
	err = s.guard(ctx, time.Second, func(ctx context.Context) error { return d.Inspect(ctx, r.m) })
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, errBlocked) {
		return nil // it does not say
	}
	return err
}

// over notes the end of a machine that was ready. An exit status other than 0, or a signal, is a failure; a machine that
// ends with 0 has stopped by itself.
func (s *Starter) over(r *run, e Exit) {
	failed := e.Code != 0 || e.Signal != ""
	if st := r.gate.State(); failed && (st == balance.StateStarted || st == balance.StateSuspended) {
		s.edit(r, func(m *balance.Machine) { m.Fault = e.Reason }) // before the state, so that whoever sees that knows why
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
