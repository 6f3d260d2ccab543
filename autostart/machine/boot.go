package machine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/boots"
	"github.com/ebbkit/ebb/autostart/machine/internal/health"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/oslimit"
)

const (
	// turnMax is how long a booting machine keeps its turn after the driver's call. Others wait while
	// the host is busy with its boot; a boot that takes longer mostly waits for something else.
	turnMax = 2 * time.Second
	// describeMax bounds how long a driver may take to describe a machine that boots.
	describeMax = time.Second
	// drainMax is how long an adopted machine may still work on requests of an earlier process, if the
	// app's AbandonedHold is not set. It is as long as a slot is held for a request whose client has
	// gone and whose end nobody reports.
	drainMax = time.Minute
)

var errTurn = errors.New("it is not its turn yet")

// boot brings a machine up.
type boot struct {
	*run
	began time.Time   // the driver's last call
	last  lastCheck   // while it boots
	up    atomic.Bool // it has become ready; edits of the row check this
}

// lastCheck keeps what the last look at a booting machine found.
type lastCheck struct {
	mu  sync.Mutex
	err error
}

func (f *lastCheck) set(err error) {
	f.mu.Lock()
	f.err = err
	f.mu.Unlock()
}

func (f *lastCheck) get() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// bootError says why a start has failed before its deadline, by what was seen of it.
type bootError string

func (e bootError) Error() string { return string(e) }

// start has the driver start the machine, and reports whether it has become ready.
func (b *boot) start() bool {
	b.s.config.Trace.starting(b.m)
	if !b.prepare() {
		return false
	}
	at, done := b.create()
	if done == nil {
		return false
	}
	done = sync.OnceFunc(done)
	defer done()
	turn := time.AfterFunc(turnMax, done)
	defer turn.Stop()
	if err := checkAddr(at.Addr); err != nil {
		b.abandon(fmt.Sprintf("the driver says that it listens at %q: %v", at.Addr, err))
		return false
	}
	b.m.Addr = at.Addr
	kind := boots.Cold
	if at.Resumed {
		kind = boots.Resume
	}
	if !b.finish(kind) {
		return false
	}
	took := time.Since(b.began)
	recent := max(b.s.learned.boot(b.run, kind, took), b.probe.check.Grace-took)
	if !b.ready(recent) {
		return false
	}
	b.s.config.Trace.ready(b.m, at.Resumed, took)
	return true
}

// adopt takes over a machine that runs already, and reports whether it has become ready. How many
// requests an earlier process had in flight there is unknown: slot keeps the gate from closing
// meanwhile.
func (b *boot) adopt(slot uint64) bool {
	b.s.config.Trace.adopted(b.m)
	hold := drainMax
	if rows, ok := b.s.fleet.App(b.m.App); ok && rows.App().AbandonedHold > 0 {
		hold = rows.App().AbandonedHold
	}
	release := sync.OnceFunc(func() { b.gate.Revoke(slot) })
	drained := time.AfterFunc(hold, release)
	context.AfterFunc(b.ctx, func() { drained.Stop(); release() })
	if !b.prepare() {
		return false
	}
	b.began = time.Now()
	if err := checkAddr(b.m.Addr); err != nil {
		b.abandon(fmt.Sprintf("the driver says that it listens at %q: %v", b.m.Addr, err))
		return false
	}
	if !b.finish(boots.Cold) || !b.ready(0) {
		return false
	}
	b.s.config.Trace.ready(b.m, false, time.Since(b.began))
	return true
}

// attendable takes over a machine that is ready or suspended, and reports whether it can be
// attended to.
func (b *boot) attendable() (ok bool) {
	var err error
	if b.probe, err = b.s.prober(b.m.App); err != nil {
		b.edit(func(m *balance.Machine) { m.Fault = fmt.Sprintf("Config.CheckOf: %v", err) })
		return false
	}
	b.edit(func(m *balance.Machine) { m.Addr = b.m.Addr })
	return true
}

// prepare clears the row and gets the app's check. It reports false when that check makes no sense.
func (b *boot) prepare() bool {
	b.edit(
		func(m *balance.Machine) { m.Health, m.Recent, m.Doubtful = balance.HealthUnknown, false, false },
	)
	var err error
	if b.probe, err = b.s.prober(b.m.App); err != nil {
		b.fail(fmt.Sprintf("Config.CheckOf: %v", err))
	}
	return err == nil
}

// finish waits until the machine is ready; when it will not be, it stops the machine.
func (b *boot) finish(kind boots.Kind) bool {
	ctx, cancel := context.WithDeadline(b.ctx, b.began.Add(b.s.config.BootCap))
	defer cancel()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	follow, unfollow := context.WithCancel(ctx)
	b.s.jobs.Go(func() { b.follow(follow, fail, kind) })
	last, ready := b.await(ctx, kind)
	unfollow() // nothing that is still being found out is reported after this
	if !ready {
		b.abandon(b.fault(ctx, last))
	}
	return ready
}

// ready marks the machine as ready. For the time of recent its failing checks are expected.
func (b *boot) ready(recent time.Duration) bool {
	b.edit(func(m *balance.Machine) { // before the gate, so that a started row is complete
		b.up.Store(true)
		m.Addr, m.Fault, m.Health = b.m.Addr, "", balance.HealthPassing
		m.Recent, m.Doubtful = recent > 0, false
	})
	b.h.becameReady()
	if !b.gate.Ready(b.token) {
		b.abandon("it was given up while it became ready")
		return false
	}
	if recent > 0 {
		forget := time.AfterFunc(
			recent, func() { b.edit(func(m *balance.Machine) { m.Recent = false }) },
		)
		context.AfterFunc(b.ctx, func() { forget.Stop() })
	}
	return true
}

// await waits until the machine is ready. When it is not, it returns the last answer, or nil, and
// false. An adopted machine is checked instead of waiting for Readiness: it was ready before, and
// nobody reports that again.
func (b *boot) await(ctx context.Context, kind boots.Kind) (last error, ready bool) {
	if told := b.s.config.Readiness; told != nil && !b.adopted {
		err := bounded(ctx, func(ctx context.Context) error { return told.Await(ctx, b.m) })
		if !errors.Is(err, errors.ErrUnsupported) {
			if err == nil || ctx.Err() == nil {
				return err, err == nil && ctx.Err() == nil
			}
			return nil, false
		}
	}
	return b.probe.await(ctx, b.m, b.began, b.s.learned.likely(b.run, kind), &b.last)
}

// fault returns why a boot has failed; err is the last answer.
func (b *boot) fault(ctx context.Context, err error) string {
	said := ""
	if err != nil {
		said = ": " + checkText(err, b.m.Addr)
	}
	if e, ok := errors.AsType[bootError](context.Cause(ctx)); ok {
		return e.Error()
	}
	e, exited := b.exit()
	switch {
	case exited:
		return "it ended while starting: " + e.Reason
	case b.ctx.Err() != nil:
		return "shutting down"
	case ctx.Err() != nil:
		return fmt.Sprintf("not ready after %v%s", b.s.config.BootCap, said)
	case b.m.Addr != "" && err != nil:
		return "it says that it will not be ready" + said
	}
	return "the driver could not start it" + said
}

// abandon stops a machine that did not become ready, so that it is not counted as starting while it
// may still run, and fails its start.
func (b *boot) abandon(fault string) {
	if _, exited := b.exit(); !exited && b.s.calls.claim(b.m) {
		if err := b.s.calls.stop(b.ctx, b.m); err != nil {
			fault += fmt.Sprintf("; and stopping it failed: %v", err)
		}
	}
	b.fail(fault)
}

func checkAddr(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err == nil && (host == "" || port == "" || port == "0") {
		err = errors.New("want host:port")
	}
	return err
}

// create has the machine created: it waits for its turn, calls the driver, and retries where that
// makes sense. done gives the turn back; it is nil when the start has failed or has been given
// back, which has been reported then.
func (b *boot) create() (at Booting, done func()) {
	turns, place, since := &b.s.turns, b.s.turns.place(), time.Now()
	var failed health.Retries
	for held := false; ; {
		if pause := b.h.untilCallable(); pause > 0 {
			held = true
			b.hold("")
			if !b.pause(pause, since) {
				return at, nil
			}
		}
		if !turns.try() {
			b.hold(fmt.Sprintf("it waits for its turn: %d starts are under way here", b.s.config.Parallel))
			held = true
			ctx, cancel := context.WithTimeout(b.ctx, health.AfterMax)
			ok := turns.wait(ctx, place)
			cancel()
			if !ok {
				b.giveBack(errTurn)
				return at, nil
			}
			since = time.Now() // it has waited for others, not for the driver
		}
		ctx, cancel := context.WithTimeout(b.ctx, b.s.config.BootCap)
		began := time.Now()
		b.began = began
		doubt := time.AfterFunc(b.s.learned.callPatience(), func() { b.overdue(time.Since(began)) })
		at, err := b.s.calls.start(ctx, b.m)
		doubt.Stop()
		over := ctx.Err() != nil
		why := ""
		if err != nil {
			why = b.fault(ctx, err)
		}
		cancel()
		if err == nil {
			b.created(held)
			return at, turns.done
		}
		turns.done()
		after, passes := passing(err)
		wait, ok := failed.Again(passes, after, rand.Uint64())
		if !ok || over || errors.Is(err, errSlow) || errors.Is(err, errEarlier) {
			b.abandon(why)
			return Booting{}, nil
		}
		b.s.config.Trace.delayed(b.m, err, wait)
		if passes {
			held = true
			b.hold(why)
			b.h.callAgain(wait)
		} else if !b.pause(wait, time.Now()) {
			return Booting{}, nil
		}
	}
}

// pause waits before the driver is called again, but no longer than a start may be held. It reports
// false when the start is over, which has been reported then.
func (b *boot) pause(d time.Duration, since time.Time) bool {
	left := health.HeldMax - time.Since(since)
	if wait := min(d, left); wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-b.ctx.Done():
		case <-t.C:
		}
	}
	if d > left || b.ctx.Err() != nil {
		b.giveBack(nil)
		return false
	}
	return true
}

// hold says in the row that the boot has not begun, and why if why is not empty.
func (b *boot) hold(why string) {
	b.edit(func(m *balance.Machine) {
		if m.State == balance.StateStarting {
			m.Health, m.Recent = balance.HealthUnknown, true
			if why != "" {
				m.Fault = why
			}
		}
	})
}

// created records that the boot has begun, in the row too if the start was held.
func (b *boot) created(held bool) {
	b.s.learned.call(time.Since(b.began))
	if held {
		b.edit(func(m *balance.Machine) {
			if m.State == balance.StateStarting {
				m.Recent, m.Fault = false, ""
			}
		})
	}
}

// giveBack ends a start that has not begun, without a failure: whoever still wants it asks again.
func (b *boot) giveBack(why error) {
	if b.ctx.Err() != nil { // Run has ended, or the machine has, whatever the driver said
		b.fail(b.fault(b.ctx, nil))
		return
	}
	b.edit(func(m *balance.Machine) {
		if m.Recent = false; why == errTurn {
			m.Fault = ""
		}
	})
	if b.gate.Exited(b.m.Epoch, false) && why != nil {
		b.s.config.Trace.delayed(b.m, why, 0)
	}
}

// follow reports what a booting machine lacks, in its row and in the trace, until ctx ends. If the
// machine will never be ready, it ends the start by fail. health.Doubt decides what it reports.
func (b *boot) follow(ctx context.Context, fail context.CancelCauseFunc, kind boots.Kind) {
	d := health.Doubt{
		Addr: b.m.Addr, Began: b.began, Patience: b.s.learned.patience(b.run, kind),
		Hung: b.s.learned.known(b.run).Hung,
	}
	now := time.Now()
	d.Begin(now)
	t := time.NewTimer(max(d.Wake().Sub(now), time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		var l *health.Look
		if now = time.Now(); d.Due(now) {
			l = b.look(ctx, now)
		}
		f := d.Step(now, l)
		if ctx.Err() != nil {
			return
		}
		if f.Failed != "" {
			b.count(f)
			fail(bootError(f.Failed))
			return
		}
		if f.Overdue {
			b.overdue(now.Sub(b.began))
		}
		if f.Why != "" {
			b.count(f)
			b.tell(ctx, now.Sub(b.began).Round(100*time.Millisecond), f)
		}
		t.Reset(max(time.Until(d.Wake()), time.Millisecond))
	}
}

// look looks into a boot. It returns nil when this node could not look, which says nothing about
// the machine.
func (b *boot) look(ctx context.Context, now time.Time) *health.Look {
	err := b.last.get()
	if oslimit.NoProcess(err) {
		return nil
	}
	l := &health.Look{
		Found:   checkText(err, b.m.Addr),
		Refused: b.probe.dials && b.condition(err) == health.ConditionRefused,
		Seen:    health.Seen(b.s.calls.describe(ctx, b.m, describeMax)),
		Known:   b.s.learned.known(b.run),
	}
	l.Took = time.Since(now)
	return l
}

// count records what has been found, for the app's next boots.
func (b *boot) count(f health.Finding) {
	b.s.learned.count(b.run, func(k *boots.Book) {
		k.Hung = max(k.Hung, f.Hung)
		switch {
		case f.Misplaced:
			k.Misplaced++
		case f.Doubted:
			k.Doubted++
		}
	})
}

// tell reports what the boot lacks, in the row and in the trace.
func (b *boot) tell(ctx context.Context, age time.Duration, f health.Finding) {
	b.edit(func(m *balance.Machine) {
		if m.State != balance.StateStarting || b.up.Load() || ctx.Err() != nil {
			return
		}
		m.Fault = fmt.Sprintf("not ready after %v: %s", age, f.Why)
		switch {
		case f.Doubtful:
			m.Health, m.Recent = balance.HealthFailing, false
		case m.Doubtful:
			m.Health = balance.HealthUnknown // it does something again
		}
		m.Doubtful = f.Doubtful
	})
	b.s.config.Trace.notReady(b.m, age, errors.New(f.Why))
}

// overdue marks the row of a machine that has been starting for longer than its boots take, as
// failing its checks unexpectedly. Its start goes on and may still succeed; but if nothing else
// serves, one other machine is started.
func (b *boot) overdue(age time.Duration) {
	told := false
	b.edit(func(m *balance.Machine) {
		if told = m.State == balance.StateStarting && !b.up.Load(); told {
			m.Health, m.Recent = balance.HealthFailing, false
		}
	})
	if told {
		err := fmt.Errorf("not ready after %v", age.Round(time.Millisecond))
		b.s.config.Trace.health(b.m, balance.HealthFailing, err)
	}
}

// checkText says in words for people what a look has found.
func checkText(err error, addr string) string {
	switch {
	case err == nil:
		return "nobody has said that it is ready"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused at " + addr
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer at " + addr
	}
	return err.Error()
}
