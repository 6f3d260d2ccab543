package machine

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale"
)

// node is all of one process: a rig with a balancer, a planner and a downscaler, wired as the
// README does it.
type node struct {
	*rig
	b     *balance.Balancer
	a     *autostart.Autostart
	takes time.Duration // a request
	stop  func()
}

// newNode makes a node whose machines have those habits, in canonical order.
func newNode(t *testing.T, app balance.App, sc Config, hs ...habits) *node {
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
	if _, b := g.Admit(0, slot.Machine().CordonGen); b != balance.BounceNone {
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

// A request that meets a stop is served when that is over, and so is the next; nothing has to be
// configured for it.
func TestRememberedStartIsDone(t *testing.T) {
	for _, takes := range []time.Duration{300 * time.Millisecond, 3 * sec, 9 * sec} {
		synctest.Test(t, func(t *testing.T) {
			n := newNode(t, balance.App{KeepAlive: sec}, Config{}, habits{boot: 100 * time.Millisecond, stops: takes})
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

// The start is the starter's business also when nobody waits any more: whoever stops the machine
// need not know it.
func TestStarterStartsWhatItsGateRemembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Config{}, habits{boot: sec})
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
		stop(func() { // nobody is there to do it
			if _, a := gate.Start(3); a != balance.StartRefused {
				t.Errorf("a start during a stop, without a starter: %v", a)
			}
		})
	})
}
