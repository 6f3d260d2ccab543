package machine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/balance"
)

// habits are how a machine of the fake driver behaves.
type habits struct {
	boot     time.Duration // from Start until it listens
	ends     time.Duration // it ends by itself that long after Start; 0 is never
	end      Exit          // how
	startErr error
	panics   bool
	blocks   chan struct{} // Start comes back when this is closed, whatever its context says
	addr     string        // that Start says; empty means a good one
	kind     BootKind
	stopErr  error
	stops    time.Duration // Stop takes that long
}

// fakeDriver is a driver whose machines are entries in a map.
type fakeDriver struct {
	mu        sync.Mutex
	habits    map[balance.MachineID]habits
	running   map[balance.MachineID]*fakeMachine
	watchers  map[int]func(Exit)
	watches   int
	watchErr  error // the next Watch fails with that
	starts    int
	stops     int
	sickAfter time.Duration // machines that start from now on are sick after that; 0 is never
}

type fakeMachine struct {
	epoch     uint64
	listens   time.Time
	sick      bool
	refuses   bool   // nothing listens
	needs     string // something else, where nothing listens
	frozen    bool   // it accepts, and does not answer
	suspended bool
	timer     *time.Timer
}

func newFakeDriver() *fakeDriver {
	return &fakeDriver{habits: map[balance.MachineID]habits{}, running: map[balance.MachineID]*fakeMachine{}, watchers: map[int]func(Exit){}}
}

func (d *fakeDriver) Start(_ context.Context, m balance.Machine) (Booting, error) {
	d.mu.Lock()
	h := d.habits[m.ID]
	d.starts++
	d.mu.Unlock()
	if h.panics {
		panic("driver bug")
	}
	if h.blocks != nil {
		<-h.blocks
	}
	if h.startErr != nil {
		return Booting{}, h.startErr
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.running[m.ID]
	kind := h.kind
	switch {
	case f != nil && !f.suspended:
		return Booting{}, fmt.Errorf("%s already runs", m.ID)
	case f != nil:
		f.suspended, f.epoch, kind = false, m.Epoch, BootResume
	default:
		f = &fakeMachine{epoch: m.Epoch}
		d.running[m.ID] = f
	}
	f.listens = time.Now().Add(h.boot)
	if after := d.sickAfter; after > 0 {
		time.AfterFunc(h.boot+after, func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			f.sick = true
		})
	}
	if h.ends > 0 {
		f.timer = time.AfterFunc(h.ends, func() { d.crash(m.ID, h.end) })
	}
	addr := h.addr
	if addr == "" {
		addr = "host:80"
	}
	return Booting{Addr: addr, Kind: kind}, nil
}

// crash ends a machine and tells the watchers.
func (d *fakeDriver) crash(id balance.MachineID, e Exit) {
	d.mu.Lock()
	f := d.running[id]
	delete(d.running, id)
	var watchers []func(Exit)
	for _, w := range d.watchers {
		watchers = append(watchers, w)
	}
	d.mu.Unlock()
	if f == nil {
		return
	}
	if f.timer != nil {
		f.timer.Stop()
	}
	e.App, e.ID, e.Epoch = "web", id, f.epoch
	for _, w := range watchers {
		w(e)
	}
}

func (d *fakeDriver) Stop(ctx context.Context, m balance.Machine) error {
	d.mu.Lock()
	d.stops++
	err, takes := d.habits[m.ID].stopErr, d.habits[m.ID].stops
	d.mu.Unlock()
	if takes > 0 {
		select {
		case <-time.After(takes):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err == nil {
		d.crash(m.ID, Exit{Code: -1, Signal: "terminated", Reason: "killed by signal: terminated"})
	}
	return err
}

func (d *fakeDriver) Suspend(_ context.Context, m balance.Machine) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running[m.ID].suspended = true
	return nil
}

func (d *fakeDriver) Watch(ctx context.Context, exited func(Exit)) error {
	d.mu.Lock()
	if err := d.watchErr; err != nil {
		d.watchErr = nil
		d.mu.Unlock()
		return err
	}
	d.watches++
	n := d.watches
	d.watchers[n] = exited
	d.mu.Unlock()
	<-ctx.Done()
	d.mu.Lock()
	delete(d.watchers, n)
	d.mu.Unlock()
	return nil
}

// check is the Check.Func of machines that are entries in a map.
func (d *fakeDriver) check(ctx context.Context, m balance.Machine) error {
	d.mu.Lock()
	if f := d.running[m.ID]; f != nil && f.frozen {
		d.mu.Unlock()
		<-ctx.Done()
		return ctx.Err()
	}
	defer d.mu.Unlock()
	f := d.running[m.ID]
	switch {
	case f == nil:
		return refused(m.Addr)
	case f.suspended || time.Now().Before(f.listens):
		return syscall.ECONNREFUSED
	case f.needs != "":
		return refused(f.needs)
	case f.refuses:
		return refused(m.Addr)
	case f.sick:
		return errors.New("unwell")
	}
	return nil
}

func (d *fakeDriver) counts() (starts, stops, running int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.starts, d.stops, len(d.running)
}

// rig is an owner of machines m0, m1... with a fake driver.
type rig struct {
	t     *testing.T
	fleet *balance.Fleet
	d     *fakeDriver
	s     *Starter
	stop  func()

	mu     sync.Mutex
	events []string
}

func newRig(t *testing.T, c Config, hs ...habits) *rig {
	t.Helper()
	d := newFakeDriver()
	return newRigWith(t, d, d, c, hs...)
}

// newRigWith is newRig with another driver, around d.
func newRigWith(t *testing.T, d *fakeDriver, driver Driver, c Config, hs ...habits) *rig {
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
	c.Trace = Trace{
		NotReady: func(m balance.Machine, after time.Duration, err error) {
			r.note("%s not ready after %v: %v", m.ID, after, err)
		},
		Starting: func(m balance.Machine) { r.note("starting %s@%d", m.ID, m.Epoch) },
		Ready: func(m balance.Machine, k BootKind, took time.Duration) {
			r.note("ready %s %v %v", m.ID, k, took.Round(10*time.Millisecond))
		},
		Failed:      func(m balance.Machine) { r.note("failed %s: %s", m.ID, m.Fault) },
		Exited:      func(m balance.Machine, e Exit) { r.note("exited %s@%d: %s", m.ID, e.Epoch, e.Reason) },
		Restarting:  func(m balance.Machine) { r.note("restarting %s: %s", m.ID, m.Fault) },
		Health:      func(m balance.Machine, h balance.Health, err error) { r.note("%s %v: %v", m.ID, h, err) },
		WatchFailed: func(err error) { r.note("watch: %v", err) },
	}
	if r.s, err = NewStarter(r.fleet, driver, c); err != nil {
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
