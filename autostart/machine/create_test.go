package machine_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/autostart/internal/autotest"
	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/autostart/machine/internal/health"
	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/balance"
)

// call is a call of a driver: the n-th, from 1, for a machine.
type call struct {
	n  int
	id balance.MachineID
}

// cloud is a driver whose calls go to an interface that is slow and limits its calls.
type cloud struct {
	*fakeDriver
	takes time.Duration
	start func(context.Context, call) error

	mu    sync.Mutex
	n     int
	order []balance.MachineID // as called
	at    []time.Time
	under int // calls under way
	most  int
}

func (c *cloud) Start(ctx context.Context, m balance.Machine) (machine.Booting, error) {
	c.mu.Lock()
	c.n++
	n := c.n
	c.order, c.at = append(c.order, m.ID), append(c.at, time.Now())
	c.under++
	c.most = max(c.most, c.under)
	c.mu.Unlock()
	// go.dev/issue/78156: timers of a bubble that are over when they begin break the race detector
	if c.takes > 0 {
		pause(ctx, c.takes)
	}
	err := ctx.Err()
	if err == nil && c.start != nil {
		err = c.start(ctx, call{n, m.ID})
	}
	c.mu.Lock()
	c.under--
	c.mu.Unlock()
	if err != nil {
		return machine.Booting{}, err
	}
	return c.fakeDriver.Start(ctx, m)
}

// storm is a node with many sleeping apps that all get one request at once.
type storm struct {
	fleet *balance.Fleet
	s     *machine.Starter
	a     *autostart.Autostart
	stop  func()

	mu      sync.Mutex
	events  []string
	refused int // decisions that sent requests away
}

func newStorm(
	t *testing.T, d machine.Driver, check func(context.Context, balance.Machine) error,
	sc machine.Config,
	apps, machines int,
) *storm {
	t.Helper()
	w := &storm{}
	w.fleet, _ = balance.NewFleet(balance.FleetConfig{Node: "n", Region: "nrt"})
	for i := range apps {
		app := balance.AppID(fmt.Sprintf("app%03d", i))
		w.fleet.Apply(balance.PutApp{App: balance.App{ID: app, Autostart: true}})
		for k := range machines {
			id := balance.MachineID(fmt.Sprintf("%s-%d", app, k))
			w.fleet.Host(balance.Machine{ID: id, App: app, Region: "nrt"})
		}
	}
	b, _ := balance.New(w.fleet, balance.Config{})
	sc.Check.Func = check
	sc.Trace.Failed = func(m balance.Machine) { w.note("failed %s: %s", m.ID, m.Fault) }
	sc.Trace.Delayed = func(m balance.Machine, err error, wait time.Duration) {
		if wait == 0 {
			w.note("given back %s: %v", m.ID, err)
		}
	}
	var err error
	if w.s, err = machine.NewStarter(w.fleet, d, sc); err != nil {
		t.Fatal(err)
	}
	decided := func(d policy.Decision) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if d.Refuse != "" {
			w.refused++
		}
	}
	w.a, err = autostart.New(b, w.s, autostart.Config{Trace: autostart.Trace{Decided: decided}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for _, run := range []func(context.Context) error{b.Run, w.s.Run, w.a.Run} {
		all.Go(func() { run(ctx) })
	}
	w.stop = func() {
		cancel()
		all.Wait()
	}
	synctest.Wait()
	return w
}

func (w *storm) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, fmt.Sprintf(format, args...))
}

// ask sends a request to each app and returns the errors of those that failed.
func (w *storm) ask(t *testing.T, apps int) (errs []error) {
	var mu sync.Mutex
	var all sync.WaitGroup
	for i := range apps {
		all.Go(func() {
			app := balance.AppID(fmt.Sprintf("app%03d", i))
			slot, err := w.a.Acquire(t.Context(), &balance.Request{App: app})
			if err == nil {
				slot.Release(balance.OutcomeDone)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	all.Wait()
	return errs
}

// limited fails calls beyond rate in a second, as a provider's interface does.
func limited(rate int, after time.Duration) func(context.Context, call) error {
	var mu sync.Mutex
	var second, used int64
	return func(context.Context, call) error {
		mu.Lock()
		defer mu.Unlock()
		if s := time.Now().Unix(); s != second {
			second, used = s, 0
		}
		if used++; used > int64(rate) {
			return machine.TryAgain{After: after, Err: errors.New("429 Too Many Requests")}
		}
		return nil
	}
}

// Passing errors cost no request: neither a limit on calls nor calls that fail at random.
func TestPassingErrorsCostNoRequest(t *testing.T) {
	chance := rand.New(rand.NewPCG(7, 7))
	failed := map[balance.MachineID]int{}
	var mu sync.Mutex
	for _, tc := range []struct {
		name     string
		machines int
		start    func(context.Context, call) error
		within   time.Duration
	}{
		{"20 calls in a second, and it says when to come back", 1, limited(20, sec), 20 * sec},
		{"20 calls in a second, and it does not", 1, limited(20, 0), 20 * sec},
		{"two machines for each app", 2, limited(20, sec), 20 * sec},
		{"2 calls in a second: starts are given back", 1, limited(2, sec), 150 * sec},
		{"one call in twenty fails, and at most three in a row", 1, func(_ context.Context, c call) error {
			mu.Lock()
			defer mu.Unlock()
			if chance.Float64() < .05 && failed[c.id] < health.PlainTries-1 {
				failed[c.id]++
				return errors.New("500 Internal Server Error")
			}
			return nil
		}, 20 * sec},
		{"the interface is down for a while", 1, func(context.Context, call) error {
			if up := time.Date(2000, 1, 1, 0, 1, 0, 0, time.UTC); time.Now().Before(up) {
				return machine.TryAgain{Err: errors.New("503 Service Unavailable")}
			}
			return nil
		}, 80 * sec},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const apps = 80
				d := &cloud{fakeDriver: newFakeDriver(), takes: 200 * time.Millisecond, start: tc.start}
				w := newStorm(t, d, d.check, machine.Config{}, apps, tc.machines)
				defer w.stop()
				began := time.Now()
				if errs := w.ask(t, apps); len(errs) > 0 {
					t.Errorf("%d of %d requests failed; the first: %v", len(errs), apps, errs[0])
				}
				if took := time.Since(began); took > tc.within {
					t.Errorf("it took %v, want at most %v", took, tc.within)
				}
				if starts, _, running := d.counts(); starts != apps || running != apps {
					t.Errorf("%d starts and %d machines, want one for each of %d apps", starts, running, apps)
				}
				if w.refused > 0 {
					t.Errorf("%d times requests were sent away", w.refused)
				}
				for _, e := range w.events {
					if strings.HasPrefix(e, "failed") {
						t.Errorf("a machine has failed: %s", e)
						break
					}
				}
				for i := range apps { // the time for which a start is held is not part of its boot
					app := balance.AppID(fmt.Sprintf("app%03d", i))
					if took := autotest.ColdBoots(t, w.a.Histories()[app]); len(took) > 0 &&
						slices.Max(took) > sec {
						t.Errorf("app %d: boots of %v are learned, want one call", i, took)
						break
					}
				}
				if d.most > 16 {
					t.Errorf("%d calls at once, want at most 16", d.most)
				}
			})
		})
	}
}

// Starts that wait for a turn begin in the order in which they were accepted; one that is retried
// keeps its place.
func TestStartsBeginInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &cloud{fakeDriver: newFakeDriver(), takes: sec}
		d.start = func(_ context.Context, c call) error {
			if c.n == 1 {
				return machine.TryAgain{After: 500 * time.Millisecond}
			}
			return nil
		}
		hs := make([]habits, 8)
		r := newRigWith(t, d.fakeDriver, d, machine.Config{Parallel: 1}, hs...)
		defer r.stop()
		for i := range hs {
			r.start(balance.MachineID(fmt.Sprintf("m%d", i)))
		}
		time.Sleep(500 * time.Millisecond)
		for i, want := range []bool{false, true, true} {
			m := r.row(balance.MachineID(fmt.Sprintf("m%d", i)))
			if m.Recent != want || m.State != balance.StateStarting {
				t.Errorf(
					"%s: %v, recent %v; want %v while it waits for its turn", m.ID, m.State, m.Recent, want,
				)
			}
		}
		time.Sleep(20 * sec)
		d.mu.Lock()
		defer d.mu.Unlock()
		if got, want := fmt.Sprint(d.order), "[m0 m1 m0 m2 m3 m4 m5 m6 m7]"; got != want {
			t.Errorf("called for %v, want %v", got, want)
		}
		if d.most != 1 {
			t.Errorf("%d calls at once", d.most)
		}
		for i := range hs {
			m := r.row(balance.MachineID(fmt.Sprintf("m%d", i)))
			if m.State != balance.StateStarted || m.Fault != "" {
				t.Errorf("%s: %v, fault %q", m.ID, m.State, m.Fault)
			}
		}
	})
}

// A booting machine keeps its turn until it is ready, but not for a long boot, which mostly waits
// for something else.
func TestTurnsWhileMachinesBoot(t *testing.T) {
	for boot, want := range map[time.Duration]time.Duration{
		500 * time.Millisecond: 4 * 500 * time.Millisecond, // one after the other
		time.Hour:              3 * machine.TurnMax,
	} {
		synctest.Test(t, func(t *testing.T) {
			d := &cloud{fakeDriver: newFakeDriver()}
			hs := []habits{{boot: boot}, {boot: boot}, {boot: boot}, {boot: boot}}
			r := newRigWith(t, d.fakeDriver, d, machine.Config{Parallel: 1}, hs...)
			began := time.Now()
			for i := range hs {
				r.start(balance.MachineID(fmt.Sprintf("m%d", i)))
			}
			time.Sleep(want + 100*time.Millisecond)
			d.mu.Lock()
			at := d.at
			d.mu.Unlock()
			if len(at) != 4 {
				t.Errorf("boots of %v: %d have begun after %v, want 4", boot, len(at), want)
			} else if last := at[3].Sub(began); last < want*3/4-10*time.Millisecond {
				t.Errorf("boots of %v: the last began after %v", boot, last)
			}
			r.stop()
		})
	}
}

// A driver call that hangs costs only its own start: that start ends, and another machine of the
// app is started meanwhile.
func TestHangingCallCostsItsStart(t *testing.T) {
	for name, heeds := range map[string]bool{"it heeds its context": true, "it does not": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				forever := make(chan struct{})
				defer close(forever)
				d := &cloud{fakeDriver: newFakeDriver()}
				d.start = func(ctx context.Context, c call) error {
					switch {
					case c.n > 1:
						return nil
					case heeds:
						<-ctx.Done()
					default:
						<-forever
					}
					return errors.New("it has hung")
				}
				w := newStorm(t, d, d.check, machine.Config{}, 1, 2)
				defer w.stop()
				began := time.Now()
				if errs := w.ask(t, 1); len(errs) > 0 {
					t.Fatal(errs[0])
				}
				if took := time.Since(began); took > machine.CallDoubt+sec {
					t.Errorf("served after %v, want soon after %v", took, machine.CallDoubt)
				}
				time.Sleep(machine.CallMax)
				rows, _ := w.fleet.App("app000")
				m, _ := rows.Machine(d.order[0])
				if m.State != balance.StateFailed || !strings.Contains(m.Fault, "30s") {
					t.Errorf("the machine whose call hangs: %v, %q", m.State, m.Fault)
				}
			})
		})
	}
}

// The pause that a driver asks for also holds for the next start, and the driver is not called when
// no request waits any more.
func TestTryAgainAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &cloud{fakeDriver: newFakeDriver()}
		d.start = func(_ context.Context, c call) error {
			if c.n == 1 {
				return machine.TryAgain{After: 50 * sec, Err: errors.New("no machines to be had")}
			}
			return nil
		}
		w := newStorm(t, d, d.check, machine.Config{}, 1, 1)
		defer w.stop()
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 5*sec)
		defer cancel()
		if _, err := w.a.Acquire(ctx, &balance.Request{App: "app000"}); !errors.Is(
			err, context.DeadlineExceeded,
		) {
			t.Fatal(err)
		}
		rows, _ := w.fleet.App("app000")
		m, _ := rows.Machine("app000-0")
		if m.State != balance.StateStarting || !strings.Contains(m.Fault, "no machines to be had") {
			t.Errorf("while it is tried again: %v, %q", m.State, m.Fault)
		}
		time.Sleep(health.HeldMax)
		rows, _ = w.fleet.App("app000")
		m, _ = rows.Machine("app000-0")
		if m.State != balance.StateStopped || !strings.Contains(m.Fault, "no machines to be had") {
			t.Errorf("when nobody waits: %v, %q", m.State, m.Fault)
		}
		if errs := w.ask(t, 1); len(errs) > 0 {
			t.Error(errs[0])
		}
		if took := time.Since(began); took < 50*sec || took > 80*sec || d.n != 2 {
			t.Errorf("served after %v and %d calls, want two calls, 50 s apart", took, d.n)
		}
	})
}

// A lasting ordinary error is reported after the last try, and a machine that may run nevertheless
// is stopped.
func TestErrorThatStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &cloud{fakeDriver: newFakeDriver()}
		d.start = func(context.Context, call) error { return errors.New("no such image") }
		w := newStorm(t, d, d.check, machine.Config{}, 1, 1)
		defer w.stop()
		errs := w.ask(t, 1)
		if len(errs) != 1 || !errors.Is(errs[0], autostart.ErrStart) ||
			!strings.Contains(errs[0].Error(), "no such image") {
			t.Errorf("errors %v", errs)
		}
		if _, stops, _ := d.counts(); d.n != health.PlainTries || stops != 1 {
			t.Errorf("%d calls and %d stops, want %d and 1", d.n, stops, health.PlainTries)
		}
	})
}
