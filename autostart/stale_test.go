package autostart

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/google/go-cmp/cmp"
)

// A failed recall says something of the cordon that it was about, and nothing of the next one.
func TestLateAnswerToARecall(t *testing.T) {
	s := newStory(t, balance.App{}, "nrt: a b")
	want := func(at time.Duration, do string) {
		t.Helper()
		if got := s.plan(at, 1, 0); got != do {
			t.Errorf("after %v: %q, want %q", at, got, do)
		}
	}
	s.see("a started, a cordoned")
	want(0, "recall a")
	first := *s.row("a")
	s.see("a uncordoned") // somebody else was quicker
	s.see("a cordoned")
	want(sec, "recall a")
	s.p.Recalled(t0.Add(sec), first, errors.New("no route"))
	want(sec, "") // the second recall is on its way
	s.p.Recalled(t0.Add(sec), *s.row("a"), errors.New("no route"))
	want(sec, "start b")
}

// What is found out about a start that is over changes nothing of the next one's row.
func TestWhatAnEarlierStartSaysChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, StarterConfig{}, habits{})
		defer r.stop()
		r.start("m0")
		time.Sleep(sec)
		earlier := r.s.run(r.row("m0").Key(), 1)
		r.d.crash("m0", Exit{Code: 1, Reason: "exit status 1"})
		synctest.Wait()
		r.start("m0")
		time.Sleep(sec)
		before := r.row("m0")
		if before.State != balance.StateStarted || before.Epoch != 2 {
			t.Fatalf("row %+v", before)
		}
		r.s.edit(earlier, func(m *balance.Machine) { m.Health, m.Addr = balance.HealthFailing, "nowhere:1" })
		r.s.fail(earlier.m, earlier.gate, earlier.token, "it was never ready")
		r.s.exited(Exit{App: "web", ID: "m0", Epoch: 1, Code: 1, Reason: "exit status 1"})
		r.s.over(earlier, Exit{Code: 1, Reason: "exit status 1"})
		synctest.Wait()
		if diff := cmp.Diff(before, r.row("m0")); diff != "" {
			t.Errorf("the row of the second start (-before +after)\n%s", diff)
		}
	})
}

// inspected notes which starts of its machines are looked at.
type inspected struct {
	*fakeDriver
	epochs []uint64
}

func (d *inspected) Inspect(_ context.Context, m balance.Machine) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.epochs = append(d.epochs, m.Epoch)
	return nil
}

// A machine that was suspended and resumed is looked at once per period, as it is now. Whoever
// looked at it before has ended.
func TestAResumedMachineIsLookedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &inspected{fakeDriver: newFakeDriver()}
		r := newRigWith(t, d.fakeDriver, d, StarterConfig{}, habits{})
		defer r.stop()
		looks := func(d *inspected) []uint64 {
			time.Sleep(30*sec + sec/2)
			d.mu.Lock()
			defer d.mu.Unlock()
			got := d.epochs
			d.epochs = nil
			return got
		}
		r.start("m0")
		before := looks(d)
		gate := r.fleet.Gate("web", "m0")
		gen, _ := gate.Cordon()
		token, _ := gate.Close(gen, true)
		r.d.Suspend(t.Context(), r.row("m0"))
		gate.Closed(token, true)
		r.start("m0")
		after := looks(d)
		if len(before) == 0 || slices.Max(before) != 1 || len(after) != len(before) ||
			slices.Min(after) != 2 {
			t.Errorf("looks at starts %v, and after a resume in the same time at %v", before, after)
		}
	})
}

// readiness tells when a machine is ready.
type readiness func(context.Context, balance.Machine) error

func (f readiness) Await(ctx context.Context, m balance.Machine) error { return f(ctx, m) }

// A machine whose start was given up in the moment in which it became ready is stopped: its row
// says that it does not run.
func TestAStartGivenUpWhileItBecomesReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r *rig
		late := true
		ready := readiness(func(_ context.Context, m balance.Machine) error {
			if late {
				r.fleet.Gate(m.App, m.ID).Exited(m.Epoch, false)
			}
			return nil
		})
		r = newRig(t, StarterConfig{Readiness: ready}, habits{})
		r.start("m0")
		if _, _, running := r.d.counts(); r.row("m0").State != balance.StateStopped || running != 0 {
			t.Errorf("the row says %v, and %d run", r.row("m0").State, running)
		}
		late = false
		r.start("m0")
		if _, _, running := r.d.counts(); r.row("m0").State != balance.StateStarted || running != 1 {
			t.Errorf("started again: the row says %v, and %d run", r.row("m0").State, running)
		}
		r.stop()
		if want := []string{"starting m0@1", "starting m0@2", "ready m0 cold 0s"}; !slices.Equal(r.events,
			want) {
			t.Errorf("events %q, want %q", r.events, want)
		}
	})
}

// goneContext is the context of a client that leaves without a sign, so that its request notices it
// when it looks.
type goneContext struct {
	context.Context
	left atomic.Bool
}

func (c *goneContext) Done() <-chan struct{} { return nil }
func (c *goneContext) Err() error {
	if c.left.Load() {
		return context.Canceled
	}
	return nil
}

// A slot is not lost, whenever in its hand-over the client leaves.
func TestASlotIsNotLostWhenItsClientLeaves(t *testing.T) {
	for name, silent := range map[string]bool{ // its context says so only when it is asked
		"before the request is told": false,
		"before the request looks":   true,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, balance.App{Autostart: true, Limits: balance.Limits{Hard: 1}}, Config{},
					boot{})
				w.wake("m0")
				w.run()
				defer w.stop()
				held, _ := w.acquire()
				ctx, leave := context.WithCancel(t.Context())
				defer leave()
				if silent {
					g := &goneContext{Context: t.Context()}
					ctx, leave = g, func() { g.left.Store(true) }
				}
				c := w.park(ctx, &balance.Request{App: "web"})
				q := w.a.queue("web")
				q.mu.Lock() // what follows is what handOver does
				held.Release(balance.OutcomeDone)
				q.room.begin()
				s := q.room.turn()
				slot, err := w.b.Pick(balance.Request{App: "web"})
				if err != nil {
					t.Fatal(err)
				}
				q.room.served(s)
				q.left(&s.Value)
				q.mu.Unlock()
				leave()
				q.give(&s.Value, slot)
				if r := has(t, c); !errors.Is(r.err, context.Canceled) {
					t.Errorf("the request ends with %v", r.err)
				}
				if n := w.b.InFlight("web"); n != 0 {
					t.Errorf("%d in flight, and nobody is there", n)
				}
				again, _ := w.acquire()
				again.Release(balance.OutcomeDone)
			})
		})
	}
	t.Run("during the pick", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, leave := context.WithCancel(t.Context())
			var mu sync.Mutex
			picks := 0
			strategy := balance.StrategyFunc(func(v *balance.View, _ balance.Request) (balance.Slot, bool) {
				mu.Lock()
				picks++
				n := picks
				mu.Unlock()
				if n == 1 {
					return balance.Slot{}, false // the request's own: it has to wait
				}
				leave()
				time.Sleep(time.Millisecond)
				return v.Slot(0, balance.TierReady, 0), true
			})
			w := newWorld(t, balance.App{Autostart: true, Strategy: strategy}, Config{}, boot{})
			w.wake("m0")
			w.run()
			defer w.stop()
			c := w.park(ctx, &balance.Request{App: "web"})
			time.Sleep(sec)
			if r := has(t, c); !errors.Is(r.err, context.Canceled) {
				t.Errorf("the request ends with %v", r.err)
			}
			mu.Lock()
			defer mu.Unlock()
			if n := w.b.InFlight("web"); n != 0 || picks != 2 {
				t.Errorf("%d in flight after %d picks, and nobody is there", n, picks)
			}
		})
	})
}
