package autostart

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
	"pgregory.net/rapid"
)

// asker is one request of the model.
type asker struct {
	req     *balance.Request
	cancel  context.CancelFunc
	left    bool // its client has
	bounced bool // it has been, and may be passed over for a while
	// by whom; left out for a while, though req.Tried is nil again when it waits
	refused []balance.MachineID
	done    bool
	slot    balance.Reservation
	holds   bool
	at      balance.MachineID
	when    time.Time
	err     error
}

// Invariants A2, A3, A5 and A6 of a node that is edge and owner, while clients come and leave,
// machines boot, crash, are cordoned and fall asleep, and owners refuse: each request ends once; of
// a tenant's that may go anywhere the oldest is served first; nothing is handed over before ready,
// above the hard limit, or to a soft-cordoned machine while another has room; and when all is well,
// all are served.
func TestQueueModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rapid.SyncTest(rt, func(rt *rapid.T) { queueModel(t, rt) })
	})
}

func queueModel(t *testing.T, rt *rapid.T) {
	hard := rapid.IntRange(1, 3).Draw(rt, "hard")
	n := rapid.IntRange(1, 3).Draw(rt, "machines")
	w := newWorld(
		t, balance.App{Autostart: true, Limits: balance.Limits{Hard: hard}}, Config{MaxWait: -1},
		make([]boot, n)...)
	ids := canonical("web", n)
	for _, id := range ids {
		w.boots[id] = boot{takes: sec}
	}
	w.run()
	var mu sync.Mutex
	var askers []*asker
	var served []*asker // since the last look, in no particular order

	defer func() { // also when a check fails, or the model gives up
		w.stop()
		synctest.Wait()
	}()
	ask := func(a *asker) {
		ctx, cancel := context.WithCancel(context.Background())
		a.cancel, a.done = cancel, false
		go func() {
			slot, err := w.a.Acquire(ctx, a.req)
			mu.Lock()
			defer mu.Unlock()
			if a.done {
				panic("A3: a request ends twice")
			}
			a.done, a.err = true, err
			if err != nil {
				return
			}
			a.slot, a.at, a.when = slot, slot.Machine().ID, time.Now()
			if _, answer := slot.Gate().Enter(0, 0, slot.Machine().CordonGen); answer == balance.BounceNone {
				a.holds = true
				served = append(served, a)
			} else {
				a.err = fmt.Errorf("A5: a slot of %s, and its gate says %v", a.at, answer)
			}
		}()
		synctest.Wait()
	}
	release := func(a *asker, o balance.Outcome) {
		a.slot.Gate().Leave()
		a.slot.Release(o)
		a.holds = false
		synctest.Wait()
	}
	pick := func(rt *rapid.T, what string, ok func(*asker) bool) *asker {
		mu.Lock()
		defer mu.Unlock()
		some := slices.DeleteFunc(slices.Clone(askers), func(a *asker) bool { return !ok(a) })
		if len(some) == 0 {
			rt.Skip()
		}
		return some[rapid.IntRange(0, len(some)-1).Draw(rt, what)]
	}
	machine := rapid.SampledFrom(ids)
	tenants := rapid.IntRange(1, 4).Draw(rt, "tenants")
	tenant := rapid.SampledFrom([]string{"", "", "a", "b"}[:tenants])
	rt.Repeat(map[string]func(*rapid.T){
		"request": func(rt *rapid.T) {
			a := &asker{req: &balance.Request{App: "web", Tenant: tenant.Draw(rt, "tenant")}}
			mu.Lock()
			askers = append(askers, a)
			mu.Unlock()
			ask(a)
		},
		"answer, and a request at the same moment": func(rt *rapid.T) {
			old := pick(rt, "who", func(a *asker) bool { return a.holds })
			a := &asker{req: &balance.Request{App: "web", Tenant: tenant.Draw(rt, "tenant")}}
			mu.Lock()
			askers = append(askers, a)
			mu.Unlock()
			old.slot.Gate().Leave()
			old.slot.Release(balance.OutcomeDone)
			old.holds = false
			ask(a)
		},
		"client leaves": func(rt *rapid.T) {
			a := pick(rt, "who", func(a *asker) bool { return !a.done })
			a.left = true
			a.cancel()
			synctest.Wait()
		},
		"answer": func(rt *rapid.T) {
			release(pick(rt, "who", func(a *asker) bool { return a.holds }), balance.OutcomeDone)
		},
		"owner refuses": func(rt *rapid.T) {
			a := pick(rt, "who", func(a *asker) bool { return a.holds })
			release(a, balance.OutcomeBounced)
			a.bounced, a.refused = true, append(a.refused, a.at)
			a.req.Tried = append(a.req.Tried, a.at)
			ask(a)
		},
		"crash": func(rt *rapid.T) {
			g := w.fleet.Gate("web", machine.Draw(rt, "which"))
			g.Exited(g.Load().Epoch, true)
			synctest.Wait()
		},
		"cordon":   func(rt *rapid.T) { w.fleet.Gate("web", machine.Draw(rt, "which")).Cordon(); synctest.Wait() },
		"uncordon": func(rt *rapid.T) { g := w.fleet.Gate("web", machine.Draw(rt, "which")); g.Uncordon(g.Load().CordonGen) },
		"sleep": func(rt *rapid.T) {
			g := w.fleet.Gate("web", machine.Draw(rt, "which"))
			if token, ok := g.Close(g.Load().CordonGen, false); ok {
				synctest.Wait()
				g.Closed(token, false)
			}
		},
		"time passes": func(rt *rapid.T) {
			time.Sleep(
				rapid.SampledFrom([]time.Duration{time.Millisecond, tickEvery, sec, 90 * sec}).
					Draw(rt, "how long"),
			)
			synctest.Wait()
		},
		"": func(rt *rapid.T) {
			mu.Lock()
			defer mu.Unlock()
			held := map[balance.MachineID]int{}
			waiting := map[string]uint64{} // the first of each tenant
			for _, a := range askers {
				switch {
				case a.holds:
					held[a.at]++
				case !a.done && !a.bounced && !a.left:
					if first, ok := waiting[a.req.Tenant]; !ok || a.req.Place < first {
						waiting[a.req.Tenant] = a.req.Place
					}
				case a.done && a.err != nil && a.left == errors.Is(a.err, context.Canceled):
				// all machines have crashed again and again
				case a.done && a.err != nil && errors.Is(a.err, ErrStart):
				case a.done && a.err != nil:
					rt.Fatalf("A3: client left %v, and its request ended with %v", a.left, a.err)
				}
			}
			for _, id := range ids {
				if held[id] > hard {
					rt.Fatalf("A5: %d at %s, the hard limit is %d", held[id], id, hard)
				}
			}
			for _, a := range served {
				if first, ok := waiting[a.req.Tenant]; ok && a.req.Place > first && !a.bounced {
					rt.Fatalf("A3: %q: place %d served while %d waits", a.req.Tenant, a.req.Place, first)
				}
				if w.fleet.Gate("web", a.at).Load().Cordon == balance.CordonNone || !a.when.Equal(time.Now()) {
					continue // or what has room now had none then
				}
				for _, id := range ids {
					if l := w.fleet.Gate("web", id).Load(); l.State == balance.StateStarted &&
						l.Cordon == balance.CordonNone &&
						held[id] < hard &&
						a.holds &&
						!slices.Contains(a.refused, id) {
						rt.Fatalf("A6: handed to the cordoned %s while %s has room", a.at, id)
					}
				}
			}
			served = served[:0]
		},
	})
	// A2: when nothing fails any more, all are served.
	for range 400 {
		mu.Lock()
		left := 0
		for _, a := range askers {
			if a.holds {
				a.slot.Gate().Leave()
				a.slot.Release(balance.OutcomeDone)
				a.holds = false
			}
			if !a.done {
				left++
			}
		}
		mu.Unlock()
		if left == 0 {
			break
		}
		time.Sleep(sec)
		synctest.Wait()
	}
	if p := w.a.Parked("web"); p != 0 || w.a.parked.Load() != 0 || w.a.occupancy.n.Load() != 0 ||
		w.b.InFlight("web") != 0 {
		rt.Fatalf(
			"A2: %d still wait, %d are in flight, %d seats are taken", p, w.b.InFlight("web"),
			w.a.occupancy.n.Load(),
		)
	}
}
