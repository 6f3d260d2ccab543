package machine_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale"
)

// While a machine stops slowly, another one serves; if there is none, waiting requests are served
// after the stop.
func TestRequestDuringASlowStop(t *testing.T) {
	const boot = 100 * time.Millisecond
	for _, tc := range []struct {
		name        string
		stop, into  time.Duration
		machines    int
		again       bool // the stop has been seen before
		least, most time.Duration
	}{
		{"just begun, and nothing is known", 15 * sec, 0, 2, false, boot, 500*time.Millisecond + 100*time.Millisecond + boot},
		{"for a while", 15 * sec, sec, 2, false, boot, boot},
		{"for long", 15 * sec, 6 * sec, 2, false, boot, boot},
		{"known to be slow", 15 * sec, 0, 2, true, boot, boot},
		{"known to be quick", 200 * time.Millisecond, 0, 2, true, 200*time.Millisecond + boot, 200*time.Millisecond + boot},
		{"no other, and longer than a request waits for a known boot", 15 * sec, sec, 1, false, 14*sec + boot, 14*sec + boot},
		{"no other, and known", 15 * sec, sec, 1, true, 14*sec + boot, 14*sec + boot},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hs := make([]habits, tc.machines)
				for i := range hs {
					hs[i] = habits{boot: boot, stops: tc.stop}
				}
				n := newNode(t, balance.App{KeepAlive: sec}, machine.Config{}, hs...)
				defer n.stop()
				first := canonical("web", tc.machines)[0]
				for seen := !tc.again; ; seen = true {
					if _, _, err := n.get(); err != nil {
						t.Fatal(err)
					}
					if n.stopping(first, 0); seen {
						break
					}
					time.Sleep(tc.stop + sec)
				}
				time.Sleep(tc.into)
				id, waited, err := n.get()
				// how late this node sees a stop, and how late a boot is seen
				const late, slack = 100 * time.Millisecond, 20 * time.Millisecond
				if err != nil || waited < tc.least-late-slack || waited > tc.most+slack {
					t.Errorf(
						"served by %q after %v, error %v; want between %v and %v", id, waited, err, tc.least, tc.most,
					)
				}
			})
		})
	}
}

// node is a whole process: a rig with a balancer, a planner and a downscaler, wired as the README
// does it.
type node struct {
	*rig
	b     *balance.Balancer
	a     *autostart.Autostart
	takes time.Duration // a request
	stop  func()
}

// newNode makes a node whose machines have those habits, in canonical order.
func newNode(t *testing.T, app balance.App, sc machine.Config, hs ...habits) *node {
	t.Helper()
	n := &node{rig: newRig(t, sc, make([]habits, len(hs))...), takes: time.Millisecond}
	for i, id := range canonical("web", len(hs)) {
		n.d.habits[id] = hs[i]
	}
	app.ID, app.Autostart, app.Autostop = "web", true, balance.AutostopStop
	if err := n.fleet.Apply(balance.PutApp{App: app}); err != nil {
		t.Fatal(err)
	}
	var err error
	if n.b, err = balance.New(n.fleet, balance.Config{}); err != nil {
		t.Fatal(err)
	}
	if n.a, err = autostart.New(n.b, n.s, autostart.Config{}); err != nil {
		t.Fatal(err)
	}
	scaler, err := downscale.New(n.fleet, n.d, downscale.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, run := range []func(context.Context) error{n.b.Run, n.a.Run, scaler.Run} {
		running.Go(func() {
			if err := run(ctx); err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}
	n.stop = func() {
		cancel()
		running.Wait()
		n.rig.stop()
	}
	return n
}

// get sends a request and returns who served it and how long it waited.
func (n *node) get() (balance.MachineID, time.Duration, error) {
	began := time.Now()
	slot, err := n.a.Acquire(n.t.Context(), &balance.Request{App: "web"})
	waited := time.Since(began)
	if err != nil {
		return "", waited, err
	}
	id, g := slot.Machine().ID, slot.Gate()
	if _, b := g.Enter(0, 0, slot.Machine().CordonGen); b != balance.BounceNone {
		n.t.Errorf("slot of %s given, and its gate says %v", id, b)
	} else {
		time.Sleep(n.takes)
		g.Leave()
	}
	slot.Release(balance.OutcomeDone)
	return id, waited, nil
}

// stopping waits until a machine is being stopped, and then for a while.
func (n *node) stopping(id balance.MachineID, into time.Duration) {
	n.t.Helper()
	for range 600 {
		if n.row(id).State == balance.StateStopping {
			time.Sleep(into)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	n.t.Fatalf("%s is never stopped: %+v", id, n.row(id))
}

// A request during a stop is served when the stop is over, and so is the next one; this needs no
// configuration.
func TestRememberedStartIsDone(t *testing.T) {
	for _, takes := range []time.Duration{300 * time.Millisecond, 3 * sec, 9 * sec} {
		synctest.Test(t, func(t *testing.T) {
			n := newNode(
				t, balance.App{KeepAlive: sec}, machine.Config{},
				habits{boot: 100 * time.Millisecond, stops: takes},
			)
			defer n.stop()
			if _, _, err := n.get(); err != nil {
				t.Fatal(err)
			}
			n.stopping("m0", takes/3)
			for i := range 2 {
				_, waited, err := n.get()
				if err != nil || waited > takes {
					t.Errorf("stop of %v, request %d: waited %v, error %v", takes, i, waited, err)
				}
			}
			if starts, _, _ := n.d.counts(); starts != 2 {
				t.Errorf("stop of %v: %d starts, want 2", takes, starts)
			}
		})
	}
}

// The starter carries out the start even when no request waits any more; whoever stops the machine
// need not know of it.
func TestStarterStartsWhatItsGateRemembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, machine.Config{}, habits{boot: sec})
		r.start("m0")
		time.Sleep(2 * sec)
		gate := r.fleet.Gate("web", "m0")
		stop := func(meanwhile func()) {
			t.Helper()
			token, ok := gate.CloseNow()
			if !ok {
				t.Fatal("not closed")
			}
			meanwhile()
			r.d.Stop(t.Context(), r.row("m0"))
			gate.Closed(token, false)
			time.Sleep(2 * sec)
		}
		stop(func() {
			if a := r.start("m0"); a != balance.StartRemembered {
				t.Errorf("a start during a stop: %v", a)
			}
		})
		if m := r.row("m0"); m.State != balance.StateStarted || m.Epoch != 2 {
			t.Errorf("after the stop: %v at epoch %d, want started at 2", m.State, m.Epoch)
		}
		stop(func() {
			r.start("m0")
			gate.Forget()
			if a := r.start("m0"); a != balance.StartRefused {
				t.Errorf("a start during a stop for good: %v", a)
			}
		})
		if m := r.row("m0"); m.State != balance.StateStopped {
			t.Errorf("after a stop for good: %v", m.State)
		}
		r.start("m0")
		time.Sleep(2 * sec)
		r.stop()
		stop(func() { // no starter runs that could carry it out
			if _, a := gate.Start(3); a != balance.StartRefused {
				t.Errorf("a start during a stop, without a starter: %v", a)
			}
		})
	})
}

// A machine that fails fast is replaced like one that holds its requests: a failed answer is no
// service.
func TestFailingMachineIsReplaced(t *testing.T) {
	for _, takes := range []time.Duration{0, time.Millisecond, 20 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			n := newNode(
				t, balance.App{RestartAfter: -1}, machine.Config{}, habits{boot: 300 * time.Millisecond},
				habits{boot: 300 * time.Millisecond},
			)
			defer n.stop()
			n.takes = takes
			sick, _, err := n.get()
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(21 * sec) // it is not recent any more
			n.d.sicken(sick, true)
			for n.row(sick).Health != balance.HealthFailing {
				time.Sleep(sec)
			}
			bad := 0
			for range 20 {
				id, _, err := n.get()
				if err != nil {
					t.Fatal(err)
				}
				if id == sick {
					bad++
				}
				time.Sleep(2 * sec)
			}
			if bad > 1 {
				t.Errorf(
					"requests of %v: %d went to the failing machine beside one that would be well, want 1", takes,
					bad,
				)
			}
		})
	}
}

// A machine that only this node knows to fail is replaced too: its checks pass, and it is an
// outlier.
func TestOutlierIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := habits{boot: 300 * time.Millisecond}
		n := newNode(
			t, balance.App{Min: 2, Limits: balance.Limits{Soft: 1, Hard: 1}}, machine.Config{}, up, up, up,
		)
		defer n.stop()
		time.Sleep(sec)
		only := &balance.Target{Machines: []balance.MachineID{canonical("web", 3)[0]}}
		other := &balance.Target{Machines: []balance.MachineID{canonical("web", 3)[1]}}
		ask := func(force *balance.Target, o balance.Outcome) {
			slot, err := n.a.Acquire(t.Context(), &balance.Request{App: "web", Force: force})
			if err != nil {
				t.Fatal(err)
			}
			slot.Release(o)
		}
		for range 60 { // its requests fail, those of others do not
			ask(only, balance.OutcomeError)
			for range 3 {
				ask(other, balance.OutcomeDone)
			}
			time.Sleep(100 * time.Millisecond)
			if v, _ := n.b.View("web"); v.Len(0, balance.TierFailing) > 0 {
				break
			}
		}
		time.Sleep(sec)
		if starts, _, _ := n.d.counts(); starts != 3 {
			t.Errorf("%d starts, want a third for the one that is avoided", starts)
		}
	})
}

// In a fleet of quick and slow boots, requests that wait for a slow one are served by it.
func TestSlowBootOfAQuickApp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hs := []habits{{boot: 300 * time.Millisecond}, {boot: 12 * sec}}
		n := newNode(
			t, balance.App{KeepAlive: time.Hour, Limits: balance.Limits{Hard: 1}}, machine.Config{},
			hs...)
		defer n.stop()
		var held []balance.Reservation
		for range 2 { // the second one waits for the slow machine, and nothing else can serve
			slot, err := n.a.Acquire(t.Context(), &balance.Request{App: "web"})
			if err != nil {
				t.Fatalf("request %d: %v", len(held), err)
			}
			held = append(held, slot)
		}
		for i := range held {
			held[i].Release(balance.OutcomeDone)
		}
	})
}

// A start that has not begun does not count as slow and is waited for, but not for ever.
func TestPatienceWhileAStartIsHeld(t *testing.T) {
	for busy, served := range map[time.Duration]bool{2 * time.Minute: true, time.Hour: false} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			d := &cloud{fakeDriver: newFakeDriver()}
			d.start = func(context.Context, call) error {
				if time.Since(began) < busy {
					return machine.TryAgain{After: sec, Err: errors.New("429")}
				}
				return nil
			}
			w := newStorm(t, d, d.check, machine.Config{}, 1, 1)
			defer w.stop()
			w.fleet.Apply(balance.PutApp{App: balance.App{ID: "app000", Autostart: true, BootHint: sec}})
			errs := w.ask(t, 1)
			if took := time.Since(began); served != (len(errs) == 0) || took > 5*time.Minute+sec {
				t.Errorf("busy for %v: %v after %v", busy, errs, took)
			}
		})
	}
}
