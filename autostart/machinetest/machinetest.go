// Package machinetest checks that a [machine.Driver] keeps the contract which the rest of the
// library relies on.
//
//	func TestMyDriver(t *testing.T) {
//		machinetest.TestDriver(t, func(t *testing.T) machinetest.Subject {
//			d := mydriver.New(…)
//			t.Cleanup(d.Close)
//			return machinetest.Subject{Driver: d, NewMachine: …}
//		})
//	}
//
// [Fake] is a driver for tests of everything else.
//
// Each clause of the contract is a subtest of its own. The suite does not sleep for fixed times: it
// waits for events and polls ports, up to a timeout that only a failing driver reaches.
package machinetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/balance"
)

// Subject is a driver under test and what the suite must know about it.
type Subject struct {
	// Driver is the driver. Each clause gets a new Subject and leaves none of its machines running,
	// unless it fails.
	Driver machine.Driver
	// NewMachine returns a machine that has never run (Epoch 0), with an ID of its own. When it runs,
	// it must accept TCP connections at the address that Start returns, and must not end by itself.
	// The suite also starts machines of other apps that have the IDs of these.
	NewMachine func() balance.Machine
	// Crash ends a running machine without the driver. addr is where it listens. Nil skips the clauses
	// about machines that end by themselves.
	Crash func(m balance.Machine, addr string) error
	// NewSilent returns a machine that has never run, with an ID of its own, and that never listens
	// when it runs. Nil skips the clause about it.
	NewSilent func() balance.Machine
	// Throttle turns a passing failure of the driver's calls on or off, as when the service behind the
	// driver admits no calls for a while. Nil skips the clause about it.
	Throttle func(on bool)
	// Dial reports whether a machine accepts connections at addr. Nil dials with TCP from here.
	Dial func(ctx context.Context, addr string) error
	// Timeout bounds each wait; 0 means one minute. It may be long: a driver that works does not reach
	// it.
	Timeout time.Duration
}

// TestDriver runs all clauses against the drivers that newSubject returns, one for each.
func TestDriver(t *testing.T, newSubject func(t *testing.T) Subject) {
	for _, c := range clauses {
		t.Run(c.name, func(t *testing.T) {
			s := newSubject(t)
			if s.Driver == nil || s.NewMachine == nil {
				t.Fatal("machinetest: Subject.Driver and Subject.NewMachine must be set")
			}
			s.Timeout = cmp.Or(s.Timeout, time.Minute)
			ctx, cancel := context.WithTimeout(context.Background(), s.Timeout) // not t's: cleanups use it
			t.Cleanup(cancel)
			s.Driver = bounded{s.Driver, ctx}
			c.check(&bench{T: t, Subject: s, ctx: ctx, clause: c.text, scratch: make(map[balance.MachineKey]bool)})
		})
	}
}

// bounded is a driver whose operations return an error when ctx ends first, so that one that blocks
// for ever fails a clause instead of hanging the test.
type bounded struct {
	machine.Driver
	ctx context.Context
}

func (b bounded) Start(ctx context.Context, m balance.Machine) (boot machine.Booting, err error) {
	type answer struct {
		boot machine.Booting
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		boot, err := b.Driver.Start(ctx, m)
		answered <- answer{boot, err}
	}()
	select {
	case a := <-answered:
		return a.boot, a.err
	case <-b.ctx.Done():
		return machine.Booting{}, errBlocks
	}
}

func (b bounded) Stop(ctx context.Context, m balance.Machine) error {
	return b.bound(func() error { return b.Driver.Stop(ctx, m) })
}

func (b bounded) Suspend(ctx context.Context, m balance.Machine) error {
	return b.bound(func() error { return b.Driver.Suspend(ctx, m) })
}

func (b bounded) bound(f func() error) error {
	answered := make(chan error, 1)
	go func() { answered <- f() }()
	select {
	case err := <-answered:
		return err
	case <-b.ctx.Done():
		return errBlocks
	}
}

var errBlocks = errors.New("it has not returned within the timeout")

// bench is what a clause works with.
type bench struct {
	*testing.T
	Subject
	ctx     context.Context // ends with the timeout
	clause  string
	scratch map[balance.MachineKey]bool // machines that watches began with
}

// broken ends the test with the clause and what happened instead.
func (b *bench) broken(format string, args ...any) {
	b.Helper()
	b.Fatalf("the contract says: %s\nbut: %s", b.clause, fmt.Sprintf(format, args...))
}

// start starts m at its next epoch, checks the answer and waits until the machine accepts
// connections.
func (b *bench) start(m *balance.Machine, resumed bool) machine.Booting {
	b.Helper()
	m.Epoch++
	boot, err := b.Driver.Start(b.ctx, *m)
	if err != nil {
		b.broken("Start(%s at epoch %d): %v", m.ID, m.Epoch, err)
	}
	if boot.Resumed != resumed {
		b.broken("Start(%s at epoch %d) resumed it: %v, want %v", m.ID, m.Epoch, boot.Resumed, resumed)
	}
	m.Addr = boot.Addr
	b.listens(*m)
	return boot
}

// stop stops m.
func (b *bench) stop(m balance.Machine) {
	b.Helper()
	if err := b.Driver.Stop(b.ctx, m); err != nil {
		b.broken("Stop(%s at epoch %d): %v", m.ID, m.Epoch, err)
	}
}

// listens waits until something accepts connections at m.Addr.
func (b *bench) listens(m balance.Machine) {
	b.Helper()
	for {
		err := b.dial(m.Addr)
		if err == nil {
			return
		}
		b.pause("%s accepts no connection at %q: %v", m.ID, m.Addr, err)
	}
}

// silent checks that nothing accepts connections at m.Addr.
func (b *bench) silent(m balance.Machine) {
	b.Helper()
	if b.dial(m.Addr) == nil {
		b.broken("%s still accepts connections at %s", m.ID, m.Addr)
	}
}

func (b *bench) dial(addr string) error {
	if b.Dial != nil {
		return b.Dial(b.ctx, addr)
	}
	var d net.Dialer
	conn, err := d.DialContext(b.ctx, "tcp", addr)
	if err == nil {
		_ = conn.Close()
	}
	return err
}

// pause waits a little, or ends the test with what it waited for when the timeout has passed.
func (b *bench) pause(format string, args ...any) {
	b.Helper()
	tick := time.NewTimer(2 * time.Millisecond)
	defer tick.Stop()
	select {
	case <-tick.C:
	case <-b.ctx.Done():
		b.broken("after %v "+format, append([]any{b.Timeout}, args...)...)
	}
}

// suspends suspends m and skips the test when the driver cannot.
func (b *bench) suspends(m balance.Machine) {
	b.Helper()
	err := b.Driver.Suspend(b.ctx, m)
	if errors.Is(err, errors.ErrUnsupported) {
		b.stop(m)
		b.Skip("the driver does not suspend")
	}
	if err != nil {
		b.broken("Suspend(%s at epoch %d): %v", m.ID, m.Epoch, err)
	}
}

// crash makes m end by itself and skips the test when that is not possible.
func (b *bench) crash(m balance.Machine) {
	b.Helper()
	if err := b.Crash(m, m.Addr); err != nil {
		b.Fatalf("machinetest: Subject.Crash(%s): %v", m.ID, err)
	}
}

// watch is a Watch under way.
type watch struct {
	b     *bench
	exits chan machine.Exit
	end   func() error // ends it and returns what Watch returned
	seen  map[start]int
}

// start names one start of one machine.
type start struct {
	machine balance.MachineKey
	epoch   uint64
}

// keyOf returns which machine an exit is of.
func keyOf(e machine.Exit) balance.MachineKey { return balance.MachineKey{App: e.App, ID: e.ID} }

// watch begins to watch and returns when the driver reports exits to it. Each exit also goes to the
// funcs. Watches still open at the end of the test are ended.
func (b *bench) watch(exited ...func(machine.Exit)) *watch {
	b.Helper()
	ctx, cancel := context.WithCancel(b.ctx)
	w := &watch{b: b, exits: make(chan machine.Exit, 10_000), seen: make(map[start]int)}
	result := make(chan error, 1)
	go func() {
		result <- b.Driver.Watch(ctx, func(e machine.Exit) {
			w.exits <- e
			for _, f := range exited {
				f(e)
			}
		})
	}()
	w.end = func() error {
		cancel()
		select {
		case err := <-result:
			result <- err
			return err
		case <-b.ctx.Done():
			return fmt.Errorf("has not returned %v after its context ended", b.Timeout)
		}
	}
	b.Cleanup(func() {
		if err := w.end(); err != nil {
			b.Errorf("machinetest: Watch: %v", err)
		}
	})
	// Only its reports show that a Watch has begun, and a driver may forget exits from before: so
	// scratch machines are ended until one of them is reported.
	scratch := b.NewMachine()
	b.scratch[scratch.Key()] = true
	for {
		scratch.Epoch++
		if _, err := b.Driver.Start(b.ctx, scratch); err != nil {
			b.broken("Start(%s at epoch %d): %v", scratch.ID, scratch.Epoch, err)
		}
		b.stop(scratch)
		select {
		case e := <-w.exits:
			w.note(e)
			return w
		default:
			b.pause("Watch has reported none of the %d machines that were stopped", scratch.Epoch)
		}
	}
}

// note counts e, unless it is of a scratch machine.
func (w *watch) note(e machine.Exit) {
	if k := keyOf(e); !w.b.scratch[k] {
		w.seen[start{k, e.Epoch}]++
	}
}

// want waits for the exit of m's last start.
func (w *watch) want(m balance.Machine) machine.Exit {
	w.b.Helper()
	for {
		select {
		case e := <-w.exits:
			w.note(e)
			if keyOf(e) == m.Key() && e.Epoch == m.Epoch {
				return e
			}
		case <-w.b.ctx.Done():
			w.b.broken("no exit of %v at epoch %d was reported within %v; those reported: %v", m.Key(), m.Epoch, w.b.Timeout, w.seen)
		}
	}
}

// wantOnce checks that the watch has seen exactly one exit of each of the starts, and no others.
func (w *watch) wantOnce(starts ...start) {
	w.b.Helper()
	for {
		select {
		case e := <-w.exits:
			w.note(e)
			continue
		default:
		}
		break
	}
	for _, s := range starts {
		if n := w.seen[s]; n != 1 {
			w.b.broken("%d exits of %v at epoch %d were reported, want 1", n, s.machine, s.epoch)
		}
		delete(w.seen, s)
	}
	for s := range w.seen {
		w.b.broken("an exit of %v at epoch %d was reported, which did not end", s.machine, s.epoch)
	}
}
