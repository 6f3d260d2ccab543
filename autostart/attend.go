package autostart

import (
	"context"
	"errors"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/oslimit"
)

// exited takes in the driver's word that a machine has ended. It does not block: the machine's own goroutine does the rest.
func (s *Starter) exited(e Exit) {
	s.mu.Lock()
	h := s.hosts[balance.MachineKey{App: e.App, ID: e.ID}]
	var r *run
	if h != nil {
		r = h.run
	}
	s.mu.Unlock()
	if r != nil && r.m.Epoch == e.Epoch { // else it is about an earlier start, or somebody else's machine
		r.end(&ended{e})
	}
}

// attend stays with a machine that is ready: it checks its health while it runs, and notices its end. A stop or a suspension
// is somebody else's doing; a suspended machine may still end.
func (s *Starter) attend(r *run) {
	var tick <-chan time.Time
	if s.config.Check.Every > 0 {
		t := time.NewTicker(s.config.Check.Every)
		defer t.Stop()
		tick = t.C
	}
	var health streak
	for {
		select {
		case <-r.ctx.Done():
			if e, ok := errors.AsType[*ended](context.Cause(r.ctx)); ok {
				s.over(r, e.exit)
			}
			return
		case <-tick:
		}
		if r.gate.State() != balance.Started {
			continue
		}
		err := s.probe.look(r.ctx, r.m)
		if r.ctx.Err() != nil || r.gate.State() != balance.Started {
			continue // it went to sleep under the look
		}
		if oslimit.NoProcess(err) {
			continue // this node could not look, which says nothing of the machine
		}
		if health.add(err == nil, s.config.Check.FailAfter, s.config.Check.PassAfter) {
			h := balance.Passing
			if health.failing {
				h = balance.Failing
			}
			s.edit(r, func(m *balance.Machine) { m.Health = h })
			s.config.Trace.health(r.m, h, err)
		}
	}
}

// over notes the end of a machine that was ready. An exit status other than 0, or a signal, is a failure; a machine that
// ends with 0 has stopped by itself.
func (s *Starter) over(r *run, e Exit) {
	failed := e.Code != 0 || e.Signal != ""
	if st := r.gate.State(); failed && (st == balance.Started || st == balance.Suspended) {
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
