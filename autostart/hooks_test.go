package autostart

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// hooks note who has called back, and call everything the first time.
type hooks struct {
	everything func()

	mu     sync.Mutex
	called map[string]bool
}

func (h *hooks) hook(name string) {
	h.mu.Lock()
	again := h.called[name]
	h.called[name] = true
	h.mu.Unlock()
	if !again {
		h.everything()
	}
}

func (h *hooks) want(t *testing.T, names ...string) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, n := range names {
		if !h.called[n] {
			t.Errorf("%s was not called", n)
		}
	}
}

// hookedPolicy is a planner that calls back.
type hookedPolicy struct {
	Policy
	h *hooks
}

func (p hookedPolicy) Plan(now time.Time, in Input) Decision {
	p.h.hook("Policy.Plan")
	return p.Policy.Plan(now, in)
}

// hookedOwner is an owner that calls back.
type hookedOwner struct {
	Owner
	h *hooks
}

func (o hookedOwner) Start(ctx context.Context, m balance.Machine) (balance.StartAnswer, error) {
	o.h.hook("Owner.Start")
	return o.Owner.Start(ctx, m)
}

func (o hookedOwner) Recall(ctx context.Context, m balance.Machine) error {
	o.h.hook("Owner.Recall")
	return o.Owner.Recall(ctx, m)
}

// No hook and no interface of a caller is called with a lock held: each may use what it is hooked into. Against a lock this
// test does not fail but stands still.
func TestHooksMayCallBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hooks{called: map[string]bool{}}
		name := func(n string) func() { return func() { h.hook(n) } }
		w := newWorld(t, balance.App{Autostart: true, Limits: balance.Limits{Soft: 1, Hard: 1}}, Config{}, boot{takes: time.Second})
		a, err := New(w.b, hookedOwner{w, h}, Config{
			MaxWait: 5 * time.Second,
			Policy: func(balance.AppID) Policy {
				h.hook("Config.Policy")
				return hookedPolicy{NewPlanner(false), h}
			},
			Ramp:   func(balance.AppID) time.Duration { h.hook("Config.Ramp"); return time.Millisecond },
			Others: func(balance.AppID, string) int { h.hook("Config.Others"); return 0 },
			Trace: Trace{
				Parked:     func(balance.AppID, int) { name("Trace.Parked")() },
				HandedOver: func(balance.AppID, balance.MachineID, time.Duration) { name("Trace.HandedOver")() },
				Rejected:   func(balance.AppID, error) { name("Trace.Rejected")() },
				Left:       func(balance.AppID, time.Duration) { name("Trace.Left")() },
				Decided:    func(Decision) { name("Trace.Decided")() },
				Answered:   func(balance.Machine, balance.StartAnswer, error) { name("Trace.Answered")() },
				Recalled:   func(balance.Machine, error) { name("Trace.Recalled")() },
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		over, cancel := context.WithCancel(t.Context())
		cancel()
		h.everything = func() {
			a.Histories()
			a.Boots("web")
			a.Restore(map[balance.AppID]History{"web": {}})
			a.Parked("web")
			a.Demand("web")
			for _, ctx := range []context.Context{over, nil} {
				if ctx == nil {
					var stop context.CancelFunc
					ctx, stop = context.WithTimeout(t.Context(), time.Millisecond)
					defer stop()
				}
				r := balance.Request{App: "web"}
				if slot, err := a.Acquire(ctx, &r); err == nil {
					slot.Release(balance.OutcomeDone)
				}
			}
			w.fleet.Edit("web", "m0", func(m *balance.Machine) { m.Addr += "." })
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go w.b.Run(ctx)
		ended := make(chan error, 1)
		go func() { ended <- a.Run(ctx) }()

		slot, err := a.Acquire(ctx, &balance.Request{App: "web"})
		if err != nil {
			t.Fatal(err)
		}
		leaves, leave := context.WithTimeout(ctx, time.Second)
		defer leave()
		go a.Acquire(leaves, &balance.Request{App: "web"})
		go a.Acquire(ctx, &balance.Request{App: "web"}) // waits for too long
		time.Sleep(10 * time.Second)
		slot.Release(balance.OutcomeDone)
		gate := w.fleet.Gate("web", "m0")
		gate.Cordon()
		for range 2 { // more than the machine takes: it is recalled
			go a.Acquire(ctx, &balance.Request{App: "web"})
		}
		time.Sleep(10 * time.Second)
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		w.booted.Wait()
		h.want(t, "Config.Policy", "Policy.Plan", "Config.Ramp", "Config.Others", "Owner.Start", "Owner.Recall", "Trace.Parked", "Trace.HandedOver",
			"Trace.Rejected", "Trace.Left", "Trace.Decided", "Trace.Answered", "Trace.Recalled")
	})
}

// hookedDriver is a driver, a check and a readiness that call back.
type hookedDriver struct {
	*fakeDriver
	h *hooks
}

func (d hookedDriver) Start(ctx context.Context, m balance.Machine) (Booting, error) {
	d.h.hook("Driver.Start")
	return d.fakeDriver.Start(ctx, m)
}

func (d hookedDriver) Stop(ctx context.Context, m balance.Machine) error {
	d.h.hook("Driver.Stop")
	return d.fakeDriver.Stop(ctx, m)
}

func (d hookedDriver) Watch(ctx context.Context, exited func(Exit)) error {
	d.h.hook("Driver.Watch")
	return d.fakeDriver.Watch(ctx, exited)
}

func (d hookedDriver) Await(context.Context, balance.Machine) error {
	d.h.hook("Readiness.Await")
	return errors.ErrUnsupported // look at it
}

// The same for a starter.
func TestStarterHooksMayCallBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hooks{called: map[string]bool{}}
		f, err := balance.NewFleet(balance.FleetConfig{Node: "n", Region: "nrt"})
		if err != nil {
			t.Fatal(err)
		}
		d := hookedDriver{newFakeDriver(), h}
		for id, of := range map[balance.MachineID]habits{"m0": {}, "m1": {ends: time.Minute, end: Exit{Code: 1}}, "m2": {boot: time.Hour}} {
			d.habits[id] = of
			if _, err := f.Host(balance.Machine{ID: id, App: "web", Region: "nrt"}); err != nil {
				t.Fatal(err)
			}
		}
		s, err := NewStarter(f, d, StarterConfig{
			BootCap: time.Minute,
			Check: Check{Every: time.Second, Func: func(ctx context.Context, m balance.Machine) error {
				h.hook("Check.Func")
				return d.check(ctx, m)
			}},
			Trace: StarterTrace{
				Starting: func(balance.Machine) { h.hook("StarterTrace.Starting") },
				Ready:    func(balance.Machine, BootKind, time.Duration) { h.hook("StarterTrace.Ready") },
				Failed:   func(balance.Machine) { h.hook("StarterTrace.Failed") },
				Exited:   func(balance.Machine, Exit) { h.hook("StarterTrace.Exited") },
				Health:   func(balance.Machine, balance.Health, error) { h.hook("StarterTrace.Health") },
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		row := func(id balance.MachineID) balance.Machine {
			rows, _ := f.App("web")
			m, _ := rows.Machine(id)
			return m
		}
		h.everything = func() {
			s.Start(t.Context(), row("m0"))
			s.Recall(t.Context(), row("m0"))
			f.Edit("web", "m0", func(m *balance.Machine) { m.Revision += "." })
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		for _, id := range []balance.MachineID{"m0", "m1", "m2"} {
			if _, err := s.Start(ctx, row(id)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Minute)
		d.mu.Lock()
		d.running["m0"].sick = true
		d.mu.Unlock()
		time.Sleep(time.Minute)
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		h.want(t, "Driver.Start", "Driver.Stop", "Driver.Watch", "Readiness.Await", "Check.Func", "StarterTrace.Starting", "StarterTrace.Ready",
			"StarterTrace.Failed", "StarterTrace.Exited", "StarterTrace.Health")
	})
}
