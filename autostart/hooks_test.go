package autostart

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/autotest"
	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/balance"
)

// hookedPolicy is a planner that calls back.
type hookedPolicy struct {
	policy.Policy
	h *autotest.Hooks
}

func (p hookedPolicy) Plan(now time.Time, in policy.Input) policy.Decision {
	p.h.Call("Policy.Plan")
	return p.Policy.Plan(now, in)
}

// hookedOwner is an owner that calls back.
type hookedOwner struct {
	Owner
	h *autotest.Hooks
}

func (o hookedOwner) Start(ctx context.Context, m balance.Machine) (balance.StartAnswer, error) {
	o.h.Call("Owner.Start")
	return o.Owner.Start(ctx, m)
}

func (o hookedOwner) Recall(ctx context.Context, m balance.Machine) error {
	o.h.Call("Owner.Recall")
	return o.Owner.Recall(ctx, m)
}

// No hook and no interface of a caller is called with a lock held: each may use what it is hooked
// into. Against a lock this test does not fail but stands still.
func TestHooksMayCallBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &autotest.Hooks{}
		name := func(n string) func() { return func() { h.Call(n) } }
		w := newWorld(
			t, balance.App{Autostart: true, Limits: balance.Limits{Soft: 1, Hard: 1}}, Config{},
			boot{takes: time.Second},
		)
		a, err := New(w.b, hookedOwner{w, h}, Config{
			MaxWait: 5 * time.Second,
			Policy: func(balance.AppID) policy.Policy {
				h.Call("Config.Policy")
				return hookedPolicy{new(policy.Planner), h}
			},
			Others: func(balance.AppID, string) int { h.Call("Config.Others"); return 0 },
			Trace: Trace{
				Parked:     func(balance.AppID, int) { name("Trace.Parked")() },
				HandedOver: func(balance.AppID, balance.MachineID, time.Duration) { name("Trace.HandedOver")() },
				Rejected:   func(balance.AppID, error) { name("Trace.Rejected")() },
				Left:       func(balance.AppID, time.Duration) { name("Trace.Left")() },
				Decided:    func(policy.Decision) { name("Trace.Decided")() },
				Answered:   func(balance.Machine, balance.StartAnswer, error) { name("Trace.Answered")() },
				Recalled:   func(balance.Machine, error) { name("Trace.Recalled")() },
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		over, cancel := context.WithCancel(t.Context())
		cancel()
		h.Everything = func() {
			a.Histories()
			a.Restore(map[balance.AppID]policy.History{"web": {}})
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
		h.Want(t, "Config.Policy", "Policy.Plan", "Config.Others", "Owner.Start", "Owner.Recall", "Trace.Parked", "Trace.HandedOver",
			"Trace.Rejected", "Trace.Left", "Trace.Decided", "Trace.Answered", "Trace.Recalled")
	})
}
