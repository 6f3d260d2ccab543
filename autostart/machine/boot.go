package machine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/boots"
	"github.com/ebbkit/ebb/autostart/internal/contain"
	"github.com/ebbkit/ebb/autostart/machine/internal/health"
	"github.com/ebbkit/ebb/balance"
)

// boot brings the machine up and reports whether it is ready.
func (s *Starter) boot(h *hosted, r *run) bool {
	s.config.Trace.starting(r.m)
	s.edit(r,
		func(m *balance.Machine) { m.Health, m.Recent, m.Doubtful = balance.HealthUnknown, false, false })
	var err error
	if r.probe, err = s.prober(r.m.App); err != nil {
		s.fail(r.m, r.gate, r.token, fmt.Sprintf("Config.CheckOf: %v", err))
		return false
	}
	b, done := s.create(h, r)
	if done == nil {
		return false
	}
	done = sync.OnceFunc(done)
	defer done()
	turn := time.AfterFunc(turnMax, done)
	defer turn.Stop()
	began := r.began
	ctx, cancel := context.WithDeadline(r.ctx, began.Add(s.config.BootCap))
	defer cancel()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	r.m.Addr = b.Addr
	if err := checkAddr(b.Addr); err != nil {
		s.abandon(h, r, fmt.Sprintf("the driver says that it listens at %q: %v", b.Addr, err))
		return false
	}
	kind := learned(b.Kind)
	doubt := time.AfterFunc(s.patience(r, kind)-time.Since(began), func() { s.doubt(r, began) })
	defer doubt.Stop()
	stop, cancelStop := context.WithCancel(ctx)
	s.jobs.Go(func() { s.diagnose(stop, fail, r, began) })
	last, ready := s.await(ctx, h, r, kind, began)
	cancelStop() // whatever is still being found out is not said any more
	if !ready {
		s.abandon(h, r, s.bootFault(ctx, r, last))
		return false
	}
	took := time.Since(began)
	recent := max(s.learn(h, r, kind, took), r.probe.check.Grace-took)
	s.edit(r, func(m *balance.Machine) { // before ready, so that the row which says so is whole
		r.up.Store(true)
		m.Addr, m.Fault, m.Health, m.Recent, m.Doubtful = b.Addr, "", balance.HealthPassing, recent > 0, false
	})
	if !r.gate.Ready(r.token) {
		s.abandon(h, r, "it was given up while it became ready")
		return false
	}
	s.config.Trace.ready(r.m, b.Kind, took)
	if recent > 0 {
		forget := time.AfterFunc(
			recent, func() { s.edit(r, func(m *balance.Machine) { m.Recent = false }) },
		)
		context.AfterFunc(r.ctx, func() { forget.Stop() })
	}
	return true
}

// prober returns what looks at an app's machines.
func (s *Starter) prober(app balance.AppID) (*prober, error) {
	if s.config.CheckOf == nil {
		return s.probe, nil
	}
	row := balance.App{ID: app}
	if rows, ok := s.fleet.App(app); ok {
		row = rows.App()
	}
	c, err := contain.Call(func() (Check, error) { return s.config.CheckOf(row).withDefaults() })
	if err != nil {
		return nil, err
	}
	return newProberWith(c, s.probe.fineTimers), nil
}

// await waits until the machine is ready. When it is not, it returns what was heard last, or nil,
// and false.
func (s *Starter) await(
	ctx context.Context, h *hosted, r *run, kind boots.Kind, began time.Time,
) (last error, ready bool) {
	if told := s.config.Readiness; told != nil {
		err := s.bounded(
			ctx, time.Second, func(ctx context.Context) error { return told.Await(ctx, r.m) },
		)
		if !errors.Is(err, errors.ErrUnsupported) {
			if err == nil || ctx.Err() == nil {
				return err, err == nil && ctx.Err() == nil
			}
			return nil, false
		}
	}
	s.mu.Lock()
	likely := health.Likely(&h.boots[kind])
	if likely == (health.Window{}) {
		likely = health.Likely(s.book(r).Of(boots.Key{Revision: r.m.Revision, Kind: kind}))
	}
	s.mu.Unlock()
	return r.probe.await(ctx, r.m, began, likely, &r.lastCheck)
}

// learned returns under which kind a boot is learned: drivers answer all sorts of things.
func learned(k BootKind) boots.Kind {
	if k == BootResume {
		return boots.Resume
	}
	return boots.Cold
}

// learn takes in a boot and returns how long the machine counts as recent.
func (s *Starter) learn(h *hosted, r *run, kind boots.Kind, took time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	h.ready = time.Now()
	recent := health.RecentFor(&h.boots[kind])
	h.boots[kind].Learn(took)
	s.book(r).Learn(boots.Key{Revision: r.m.Revision, Kind: kind}, took)
	switch {
	case s.config.Recent < 0:
		return 0
	case s.config.Recent > 0:
		return s.config.Recent
	}
	return recent
}

// bootFault says why a boot came to nothing; err is what was heard last.
func (s *Starter) bootFault(ctx context.Context, r *run, err error) string {
	said := ""
	if err != nil {
		said = ": " + checkText(err, r.m.Addr)
	}
	if e, ok := errors.AsType[bootError](context.Cause(ctx)); ok {
		return e.Error()
	}
	e, exited := errors.AsType[*ended](context.Cause(r.ctx))
	switch {
	case exited:
		return "it ended while starting: " + e.exit.Reason
	case r.ctx.Err() != nil:
		return "shutting down"
	case ctx.Err() != nil:
		return fmt.Sprintf("not ready after %v%s", s.config.BootCap, said)
	case r.m.Addr != "" && err != nil:
		return "it says that it will not be ready" + said
	}
	return "the driver could not start it" + said
}

// fail ends a start that came to nothing. The row says why before it says so.
func (s *Starter) fail(m balance.Machine, gate *balance.Gate, token uint64, fault string) {
	m.Fault = fault
	s.edit(&run{m: m}, func(row *balance.Machine) { row.Fault, row.Doubtful = fault, false })
	if gate.Fail(token) {
		s.config.Trace.failed(m)
	}
}

func checkAddr(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err == nil && (host == "" || port == "" || port == "0") {
		err = errors.New("want host:port")
	}
	return err
}

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
			why = s.bootFault(ctx, r, err)
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
		s.fail(r.m, r.gate, r.token, s.bootFault(r.ctx, r, nil))
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

// doubtMin is how long no start is doubted: a host that is busy makes a quick boot late. It is half
// of what a request waits at least, so that another machine may still come in time.
const doubtMin = boots.WaitMin / 2

// patience returns how long a start of r's machine may take before the row says that it does not
// become healthy: what is suspect after all that this node has seen of the app, see
// boots.Boots.Suspect. A resume may have to become a cold boot.
func (s *Starter) patience(r *run, kind boots.Kind) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	book := s.book(r)
	d := max(
		doubtMin, r.probe.check.Grace,
		book.Of(boots.Key{Revision: r.m.Revision, Kind: boots.Cold}).Suspect(),
	)
	if kind == boots.Resume {
		d = max(d, book.Of(boots.Key{Revision: r.m.Revision, Kind: boots.Resume}).Suspect())
	}
	return d
}

// doubt marks the row of a machine that has been starting for longer than its boots take: its
// checks fail, and that is not to be expected. It goes on starting, and its start may still end
// well; but where nothing else serves, one other machine is started.
func (s *Starter) doubt(r *run, began time.Time) {
	told := false
	s.edit(r, func(m *balance.Machine) {
		if told = m.State == balance.StateStarting && !r.up.Load(); told {
			m.Health, m.Recent = balance.HealthFailing, false
		}
	})
	if told {
		took := time.Since(began).Round(time.Millisecond)
		s.config.Trace.health(r.m, balance.HealthFailing, fmt.Errorf("not ready after %v", took))
	}
}
