package machine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/ebbkit/ebb/autostart/machine/internal/health"
	"github.com/ebbkit/ebb/balance"
)

const (
	// turnMax is for how long a machine that boots keeps its turn after the driver's call: where a
	// host is busy with booting, others wait for that; what boots for longer mostly waits itself.
	turnMax = 2 * time.Second
	// callDoubt is when a call of the driver is doubted as long as none is known, see doubt.
	callDoubt = 10 * time.Second
)

// create has the machine created: it waits for its turn, calls the driver, and calls it again where
// that makes sense. done gives the turn back and is nil when the start has come to nothing, which
// has been said then.
func (s *Starter) create(h *hosted, r *run) (b Booting, done func()) {
	place, since := s.turns.place(), time.Now()
	var failed health.Retries
	for held := false; ; {
		s.mu.Lock()
		pause := time.Until(h.notBefore)
		s.mu.Unlock()
		if pause > 0 {
			held = true
			s.hold(r, "")
			if !s.pause(r, pause, since) {
				return b, nil
			}
		}
		if !s.turns.try() {
			s.hold(r, fmt.Sprintf("it waits for its turn: %d starts are under way here", s.config.Parallel))
			held = true
			ctx, cancel := context.WithTimeout(r.ctx, health.AfterMax)
			ok := s.turns.wait(ctx, place)
			cancel()
			if !ok {
				s.giveBack(r, errTurn)
				return b, nil
			}
			since = time.Now() // it has waited for others, not for the driver
		}
		ctx, cancel := context.WithTimeout(r.ctx, s.config.BootCap)
		began := time.Now()
		r.began = began
		doubt := time.AfterFunc(s.callPatience(), func() { s.doubt(r, began) })
		b, err := s.driverStart(ctx, h, r)
		doubt.Stop()
		over := ctx.Err() != nil
		why := ""
		if err != nil {
			why = s.whyNot(ctx, r, err)
		}
		cancel()
		if err == nil {
			s.created(r, held)
			return b, s.turns.done
		}
		s.turns.done()
		after, passes := passing(err)
		wait, ok := failed.Again(passes, after, rand.Uint64())
		if !ok || over || errors.Is(err, errSlow) || errors.Is(err, errEarlier) {
			s.abandon(h, r, why)
			return Booting{}, nil
		}
		s.config.Trace.delayed(r.m, err, wait)
		if passes {
			held = true
			s.hold(r, why)
			s.mu.Lock()
			h.notBefore = time.Now().Add(wait)
			s.mu.Unlock()
		} else if !s.pause(r, wait, time.Now()) {
			return Booting{}, nil
		}
	}
}

var errTurn = errors.New("it is not its turn yet")

// pause waits before the driver is called again, but no longer than a start may be held. It is
// false when the start is over, which has been said then.
func (s *Starter) pause(r *run, d time.Duration, since time.Time) bool {
	left := health.HeldMax - time.Since(since)
	t := time.NewTimer(min(d, left))
	defer t.Stop()
	select {
	case <-r.ctx.Done():
		s.giveBack(r, nil)
		return false
	case <-t.C:
	}
	if d > left {
		s.giveBack(r, nil)
		return false
	}
	return true
}

// hold says in the row that the boot has not begun, and why if there is more to say.
func (s *Starter) hold(r *run, why string) {
	s.edit(r, func(m *balance.Machine) {
		if m.State == balance.StateStarting {
			m.Health, m.Recent = balance.HealthUnknown, true
			if why != "" {
				m.Fault = why
			}
		}
	})
}

// created says that the boot has begun, if it has been held.
func (s *Starter) created(r *run, held bool) {
	s.mu.Lock()
	s.calls.Learn(time.Since(r.began))
	s.mu.Unlock()
	if held {
		s.edit(r, func(m *balance.Machine) {
			if m.State == balance.StateStarting {
				m.Recent, m.Fault = false, ""
			}
		})
	}
}

// giveBack ends a start that has not begun, without a failure: whoever still wants it asks again.
func (s *Starter) giveBack(r *run, why error) {
	if r.ctx.Err() != nil { // with Run, or since the machine has ended whatever the driver said
		s.fail(r.m, r.gate, r.token, s.whyNot(r.ctx, r, nil))
		return
	}
	s.edit(r, func(m *balance.Machine) {
		if m.Recent = false; why == errTurn {
			m.Fault = ""
		}
	})
	if r.gate.Exited(r.m.Epoch, false) && why != nil {
		s.config.Trace.delayed(r.m, why, 0)
	}
}

// callPatience returns how long a call of the driver may take before another machine is started
// where nothing serves.
func (s *Starter) callPatience() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.calls.Known() {
		return callDoubt
	}
	return max(doubtMin, s.calls.Suspect())
}
