package autostart

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/balance"
)

func TestWhoWasRefusedWaitsForSomethingNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, balance.App{Autostart: true, Limits: balance.Limits{Hard: 2}}, Config{}, boot{})
		g := w.wake("m0")
		w.run()
		// The machine refused, and its row does not know yet: not the same door at once again.
		r := &balance.Request{App: "web", Tried: []balance.MachineID{"m0"}, Place: 1}
		c := w.park(t.Context(), r)
		if hasNot(t, c); r.Tried != nil {
			t.Errorf("it forgets what was tried before it waits: %v", r.Tried)
		}
		free := w.park(t.Context(), &balance.Request{App: "web"}) // who comes behind may use the machine
		other := has(t, free)
		time.Sleep(excludedFor)
		got := has(t, c)
		got.slot.Release(balance.OutcomeDone)
		other.slot.Release(balance.OutcomeDone)
		// The machine is started again meanwhile: that is something new.
		c = w.park(t.Context(), &balance.Request{App: "web", Tried: []balance.MachineID{"m0"}, Place: 1})
		hasNot(t, c)
		token, _ := g.CloseNow()
		g.Closed(token, false)
		began := time.Now()
		// Its owner is told to, unless the planner was faster.
		w.Start(t.Context(), balance.Machine{ID: "m0", App: "web", Epoch: g.Load().Epoch})
		got = has(t, c)
		if got.slot.Release(balance.OutcomeDone); time.Since(began) != 0 {
			t.Errorf("waited %v for a machine that is new", time.Since(began))
		}
		w.stop()
	})
}

func TestWhoInsistsWaitsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, balance.App{Autostart: true, Limits: balance.Limits{Hard: 1}}, Config{}, boot{},
			boot{takes: sec}, boot{never: true})
		ids := canonical("web", 3)
		w.wake(ids[0])
		w.run()
		force := &balance.Target{Machines: ids[1:2]}
		a := w.park(t.Context(), &balance.Request{App: "web", Force: force})
		b := w.park(t.Context(), &balance.Request{App: "web", Force: &balance.Target{Machines: ids[1:2]}})
		nobody := w.park(
			t.Context(), &balance.Request{App: "web", Force: &balance.Target{Revision: "none"}},
		)
		if r := has(t, nobody); !errors.Is(r.err, ErrAsleep) {
			t.Errorf("one that insists on what there is not: %v", r.err)
		}
		passed := has(t, w.park(t.Context(), &balance.Request{App: "web"}))
		if id := passed.slot.Machine().ID; id != ids[0] {
			t.Errorf("served by %s, want the one that runs, %s", id, ids[0])
		}
		hasNot(t, a)
		time.Sleep(sec)
		ra := has(t, a)
		if id := ra.slot.Machine().ID; id != ids[1] {
			t.Errorf("served by %s, want %s", id, ids[1])
		}
		hasNot(t, b)
		ra.slot.Release(balance.OutcomeDone)
		rb := has(t, b)
		rb.slot.Release(balance.OutcomeDone)
		passed.slot.Release(balance.OutcomeDone)
		w.stop()
	})
}

// Long idle, and a request into the middle of a stop: neither is forgotten.
func TestWakesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, balance.App{Autostart: true}, Config{}, boot{takes: sec})
		w.run()
		get := func() {
			t.Helper()
			if _, err := w.get(t.Context(), sec); err != nil {
				t.Fatal(err)
			}
		}
		stop := func() (closed func()) {
			g := w.fleet.Gate("web", "m0")
			gen, _ := g.Cordon()
			token, ok := g.Close(gen, true)
			if !ok {
				t.Fatal("not closed")
			}
			return func() {
				if again, _ := g.Closed(token, true); again {
					token, _ := g.Start(g.Load().Epoch)
					g.Ready(token)
				}
			}
		}
		get()
		stop()()
		time.Sleep(45 * time.Minute)
		get()
		closed := stop()
		c := w.park(t.Context(), &balance.Request{App: "web"})
		time.Sleep(5 * sec) // a slow stop
		hasNot(t, c)
		closed()
		time.Sleep(2 * sec)
		r := has(t, c)
		if r.err != nil {
			t.Fatal(r.err)
		}
		r.slot.Release(balance.OutcomeDone)
		w.stop()
	})
}

func TestLostSignalCostsATick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(
			t, balance.App{Autostart: true, Limits: balance.Limits{Hard: 1}}, Config{}, boot{takes: sec},
		)
		w.b.OnRoom(func(balance.AppID) {}) // none arrives
		w.run()
		began := time.Now()
		if errs := w.many(3, 50*time.Millisecond); len(errs) > 0 {
			t.Fatal(errs)
		}
		if took := time.Since(began); took > sec+3*(50*time.Millisecond+tickEvery) {
			t.Errorf("three requests in turn took %v after a boot of 1s", took)
		}
		w.stop()
	})
}

func TestMinimumWithoutRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, balance.App{Autostart: true, Min: 2}, Config{}, boot{}, boot{}, boot{})
		w.run()
		synctest.Wait()
		ids := canonical("web", 3)
		if !slices.Equal(slices.Sorted(slices.Values(w.starts)), slices.Sorted(slices.Values(ids[:2]))) {
			t.Errorf("started %v, want the first two of %v", w.starts, ids)
		}
		w.fleet.Gate("web", ids[0]).Exited(1, true)
		synctest.Wait()
		time.Sleep(10 * tickEvery)
		if w.started() != 3 {
			t.Errorf("%d starts after one of the minimum crashed, want 3", w.started())
		}
		w.stop()
	})
}

// Who cordons a machine knows what is in flight there; what comes to it for want of a better one
// counts anew.
func TestOnlyWhatComesLaterRecalls(t *testing.T) {
	// by other nodes, that ask for the same; negative: they tell nothing
	for _, told := range []int{-1, 1} {
		synctest.Test(t, func(t *testing.T) {
			var c Config
			if told >= 0 {
				c.Others = func(balance.AppID, string) int { return told }
			}
			w := newWorld(t, balance.App{Autostart: true}, c, boot{}, boot{})
			id := canonical("web", 2)[1]
			g := w.wake(id)
			w.run()
			before, _ := w.acquire()
			time.Sleep(sec)
			for range 1 + max(0, told) { // whose own it is the gate does not tell
				g.Enter(0, 0, 0)
			}
			g.Cordon()
			time.Sleep(sec)
			synctest.Wait()
			if g.Load().Cordon != balance.CordonSoft || w.started() > 0 || w.recall != 0 {
				t.Errorf("told %d: cordon %v, %d starts, %d recalls for what the owner knew", told,
					g.Load().Cordon, w.started(), w.recall)
			}
			later, _ := w.acquire()
			time.Sleep(tickEvery)
			synctest.Wait()
			if g.Load().Cordon != balance.CordonNone || w.started() > 0 || w.recall != 1 {
				t.Errorf("told %d: cordon %v, %d starts, %d recalls for what came later", told, g.Load().Cordon,
					w.started(), w.recall)
			}
			before.Release(balance.OutcomeDone)
			later.Release(balance.OutcomeDone)
			w.stop()
		})
	}
}

func TestRecallBeforeStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, balance.App{Autostart: true}, Config{}, boot{}, boot{})
		id := canonical("web", 2)[1] // not the first of the order
		g := w.wake(id)
		w.run()
		g.Cordon()
		slot, _ := w.acquire()
		if slot.Machine().ID != id {
			t.Errorf("served by %s, want the soft-cordoned %s rather than to wait", slot.Machine().ID, id)
		}
		time.Sleep(tickEvery)
		synctest.Wait()
		if g.Load().Cordon != balance.CordonNone || w.started() > 0 || w.recall != 1 {
			t.Errorf("cordon %v, %d starts, %d recalls", g.Load().Cordon, w.started(), w.recall)
		}
		slot.Release(balance.OutcomeDone)
		w.stop()
	})
}

// A decision that falls into the dispatcher's own pick leaves out the one that it picks for;
// another follows at once.
func TestDecisionDuringPick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w *world
		picks := 0
		hold := make(chan struct{})
		slow := balance.StrategyFunc(func(*balance.View, balance.Request) (balance.Slot, bool) {
			if picks++; picks == 2 { // the first is the request's own, the second the dispatcher's
				<-hold
			}
			return balance.Slot{}, false
		})
		busy := make(chan struct{})
		w = newWorld(t, balance.App{Autostart: true, Strategy: slow}, Config{Trace: Trace{
			Decided: func(d policy.Decision) {
				if d.App == "other" {
					<-busy
				}
			},
		}}, boot{takes: sec})
		if err := w.fleet.Apply(balance.PutApp{App: balance.App{ID: "other", Autostart: true}}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.fleet.Host(balance.Machine{ID: "o", App: "other", Region: "nrt"}); err != nil {
			t.Fatal(err)
		}
		w.boots["o"] = boot{never: true}
		w.run()
		defer w.stop()
		ctx, cancel := context.WithCancel(t.Context())
		other := w.park(ctx, &balance.Request{App: "other"}) // which is decided about for a while
		parked := w.park(ctx, &balance.Request{App: "web"})
		synctest.Wait()
		close(busy)
		synctest.Wait()
		if picks != 2 || w.started() != 1 {
			t.Errorf("%d picks and %d starts: no decision fell into a pick", picks, w.started())
		}
		close(hold)
		synctest.Wait()
		if w.started() != 2 {
			t.Error("nothing is started at once")
		}
		cancel()
		has(t, parked)
		has(t, other)
	})
}
