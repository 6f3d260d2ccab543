package machine_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/autostart/machinetest"
	"github.com/ebbkit/ebb/balance"
)

// habits are how a machine of the fake driver behaves.
type habits struct {
	boot     time.Duration // from Start until it listens
	ends     time.Duration // it ends by itself that long after Start; 0 is never
	end      machine.Exit  // how
	startErr error
	panics   bool
	blocks   chan struct{} // Start returns when this is closed, whatever its context says
	addr     string        // that Start says; empty means a good one
	resumes  bool          // Start says so
	stopErr  error
	stops    time.Duration // Stop takes that long
}

// fakeDriver is a machinetest.Fake whose machines of the app "web" have habits.
type fakeDriver struct {
	*machinetest.Fake

	mu        sync.Mutex
	habits    map[balance.MachineID]habits
	watches   int                // under way
	watchErr  error              // the next Watch fails with that
	sickAfter time.Duration      // machines that start from now on are sick after that; 0 is never
	silent    bool               // exits are not reported
	report    func(machine.Exit) // reports to the last Watch
	look      func(error) error  // changes what a check finds; may be nil
}

var (
	errUnwell = errors.New("unwell")
	errFrozen = errors.New("it accepts, and does not answer")
)

func newFakeDriver() *fakeDriver {
	d := &fakeDriver{habits: map[balance.MachineID]habits{}}
	d.Fake = &machinetest.Fake{OnStart: d.onStart, OnStop: d.onStop}
	return d
}

func (d *fakeDriver) of(id balance.MachineID) (h habits, sickAfter time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.habits[id], d.sickAfter
}

func (d *fakeDriver) onStart(_ context.Context, m balance.Machine) (time.Duration, error) {
	h, sickAfter := d.of(m.ID)
	if h.panics {
		panic("driver bug")
	}
	if h.blocks != nil {
		<-h.blocks
	}
	if h.startErr != nil {
		return 0, h.startErr
	}
	if sickAfter > 0 {
		time.AfterFunc(h.boot+sickAfter, func() { d.inEpoch(m, func() { d.sicken(m.ID, true) }) })
	}
	if h.ends > 0 {
		time.AfterFunc(h.ends, func() { d.inEpoch(m, func() { d.crash(m.ID, h.end) }) })
	}
	return h.boot, nil
}

// inEpoch does something if m is still in that start.
func (d *fakeDriver) inEpoch(m balance.Machine, do func()) {
	all, _ := d.List(context.Background())
	for _, r := range all {
		if r.ID == m.ID && r.Epoch == m.Epoch {
			do()
		}
	}
}

func (d *fakeDriver) Start(ctx context.Context, m balance.Machine) (machine.Booting, error) {
	b, err := d.Fake.Start(context.WithoutCancel(ctx), m) // it ignores ctx
	if h, _ := d.of(m.ID); err == nil {
		b.Addr, b.Resumed = cmp.Or(h.addr, b.Addr), b.Resumed || h.resumes
	}
	return b, err
}

func (d *fakeDriver) onStop(ctx context.Context, m balance.Machine) error {
	h, _ := d.of(m.ID)
	if h.stops > 0 {
		select {
		case <-time.After(h.stops):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return h.stopErr
}

func (d *fakeDriver) Watch(ctx context.Context, exited func(machine.Exit)) error {
	d.mu.Lock()
	err := d.watchErr
	d.watchErr, d.report = nil, exited
	d.mu.Unlock()
	if err != nil {
		return err
	}
	d.watching(1)
	defer d.watching(-1)
	return d.Fake.Watch(ctx, func(e machine.Exit) {
		d.mu.Lock()
		silent := d.silent
		d.mu.Unlock()
		if !silent {
			exited(e)
		}
	})
}

func (d *fakeDriver) watching(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.watches += n
}

// Await has the machines checked.
func (d *fakeDriver) Await(context.Context, balance.Machine) error { return errors.ErrUnsupported }

func (d *fakeDriver) silence(on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.silent = on
}

// crash ends a machine.
func (d *fakeDriver) crash(id balance.MachineID, e machine.Exit) {
	e.App, e.ID = "web", id
	d.Exit(e)
}

// check is the Check.Func of the machines.
func (d *fakeDriver) check(ctx context.Context, m balance.Machine) error {
	err := d.Check(ctx, m)
	if err == errFrozen {
		<-ctx.Done()
		err = ctx.Err()
	}
	if d.look != nil {
		err = d.look(err)
	}
	return err
}

func (d *fakeDriver) counts() (starts, stops, running int) {
	for _, c := range d.Calls() {
		switch {
		case strings.HasPrefix(c, "start "):
			starts++
		case strings.HasPrefix(c, "stop "):
			stops++
		}
	}
	all, _ := d.List(context.Background())
	return starts, stops, len(all)
}

func kindOf(resumed bool) string {
	if resumed {
		return "resume"
	}
	return "cold"
}

// rig is an owner of machines m0, m1... with a fake driver.
type rig struct {
	t     *testing.T
	fleet *balance.Fleet
	d     *fakeDriver
	s     *machine.Starter
	stop  func()

	mu     sync.Mutex
	events []string
}

func newRig(t *testing.T, c machine.Config, hs ...habits) *rig {
	t.Helper()
	d := newFakeDriver()
	return newRigWith(t, d, d, c, hs...)
}

// newRigWith is newRig with another driver, around d.
func newRigWith(
	t *testing.T, d *fakeDriver, driver machine.Driver, c machine.Config, hs ...habits,
) *rig {
	t.Helper()
	r := &rig{t: t, d: d}
	var err error
	if r.fleet, err = balance.NewFleet(balance.FleetConfig{Node: "n", Region: "nrt"}); err != nil {
		t.Fatal(err)
	}
	for i, h := range hs {
		id := balance.MachineID(fmt.Sprintf("m%d", i))
		r.d.habits[id] = h
		if _, err := r.fleet.Host(balance.Machine{ID: id, App: "web", Region: "nrt"}); err != nil {
			t.Fatal(err)
		}
	}
	c.Check.Func = r.d.check
	c.Trace = machine.Trace{
		NotReady: func(m balance.Machine, after time.Duration, err error) {
			r.note("%s not ready after %v: %v", m.ID, after, err)
		},
		Starting: func(m balance.Machine) { r.note("starting %s@%d", m.ID, m.Epoch) },
		Adopted:  func(m balance.Machine) { r.note("adopted %s@%d", m.ID, m.Epoch) },
		Unknown:  func(is machine.Running) { r.note("unknown %s/%s@%d", is.App, is.ID, is.Epoch) },
		Ready: func(m balance.Machine, resumed bool, took time.Duration) {
			r.note("ready %s %v %v", m.ID, kindOf(resumed), took.Round(10*time.Millisecond))
		},
		Failed:       func(m balance.Machine) { r.note("failed %s: %s", m.ID, m.Fault) },
		Exited:       func(m balance.Machine, e machine.Exit) { r.note("exited %s@%d: %s", m.ID, e.Epoch, e.Reason) },
		Restarting:   func(m balance.Machine) { r.note("restarting %s: %s", m.ID, m.Fault) },
		Health:       func(m balance.Machine, h balance.Health, err error) { r.note("%s %v: %v", m.ID, h, err) },
		DriverFailed: func(err error) { r.note("driver: %v", err) },
	}
	if r.s, err = machine.NewStarter(r.fleet, driver, c); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- r.s.Run(ctx) }()
	r.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	synctest.Wait()
	return r
}

// restartAfter sets the app's RestartAfter.
func (r *rig) restartAfter(d time.Duration) {
	if err := r.fleet.Apply(balance.PutApp{App: balance.App{ID: "web", RestartAfter: d}}); err != nil {
		r.t.Error(err)
	}
}

func (r *rig) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, fmt.Sprintf(format, args...))
}

func (r *rig) row(id balance.MachineID) balance.Machine {
	r.t.Helper()
	app, _ := r.fleet.App("web")
	m, ok := app.Machine(id)
	if !ok {
		r.t.Fatalf("no machine %s", id)
	}
	return m
}

func (r *rig) start(id balance.MachineID) balance.StartAnswer {
	r.t.Helper()
	a, err := r.s.Start(r.t.Context(), r.row(id))
	if err != nil {
		r.t.Fatal(err)
	}
	synctest.Wait()
	return a
}

// edge sends requests for the app "web" into a waiting room.
type edge struct {
	t *testing.T
	a *autostart.Autostart
}

// get acquires a slot, holds it for a while and returns the machine.
func (w *edge) get(ctx context.Context, hold time.Duration) (balance.MachineID, error) {
	slot, err := w.a.Acquire(ctx, &balance.Request{App: "web"})
	if err != nil {
		return "", err
	}
	id := slot.Machine().ID
	g := slot.Gate()
	if _, b := g.Enter(0, 0, 0); b != balance.BounceNone {
		w.t.Errorf("slot of %s handed over, and its gate says %v", id, b)
		slot.Release(balance.OutcomeBounced)
		return "", errors.New("bounced")
	}
	time.Sleep(hold)
	g.Leave()
	slot.Release(balance.OutcomeDone)
	return id, nil
}

// many sends n requests at once and returns their errors.
func (w *edge) many(n int, hold time.Duration) (errs []error) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	for range n {
		wg.Go(func() {
			_, err := w.get(w.t.Context(), hold)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	return errs
}
