package autostart

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// wake makes machine id run without anybody asking for it.
func (w *world) wake(id balance.MachineID) *balance.Gate {
	w.t.Helper()
	g := w.fleet.Gate(w.app.ID, id)
	token, _ := g.Start(g.Load().Epoch)
	if !g.Ready(token) {
		w.t.Fatalf("machine %s does not wake", id)
	}
	return g
}

// acquire is Acquire with a new request that must get a slot.
func (w *world) acquire() (balance.Reservation, *balance.Request) {
	w.t.Helper()
	r := &balance.Request{App: w.app.ID}
	slot, err := w.a.Acquire(w.t.Context(), r)
	if err != nil {
		w.t.Fatal(err)
	}
	return slot, r
}

// park lets a request wait; its result comes later.
func (w *world) park(ctx context.Context, r *balance.Request) <-chan result {
	c := make(chan result, 1)
	go func() {
		slot, err := w.a.Acquire(ctx, r)
		c <- result{slot, err}
	}()
	synctest.Wait()
	return c
}

type result struct {
	slot balance.Reservation
	err  error
}

// has returns what has come, and fails the test when nothing has.
func has(t *testing.T, c <-chan result) result {
	t.Helper()
	synctest.Wait()
	select {
	case r := <-c:
		return r
	default:
		t.Fatal("still waiting")
		return result{}
	}
}

func hasNot(t *testing.T, c <-chan result) {
	t.Helper()
	synctest.Wait()
	select {
	case r := <-c:
		t.Fatalf("no longer waiting: %+v, %v", r.slot, r.err)
	default:
	}
}

// class fails the test unless err is of that class and knows when to come back, where after says
// so.
func class(t *testing.T, err, want error, after bool) {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok || !errors.Is(err, want) || after != (e.RetryAfter() > 0) {
		t.Errorf("error %v, retry after %v; want %v", err, e.RetryAfter(), want)
	}
}

func TestAboveSoftServesAndStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(
			t, balance.App{Autostart: true, Limits: balance.Limits{Soft: 2, Hard: 10}}, Config{},
			boot{takes: sec}, boot{takes: sec}, boot{},
		)
		w.wake(canonical("web", 3)[0])
		w.run()
		began := time.Now()
		var slots []balance.Reservation
		for range 3 {
			slot, _ := w.acquire()
			slots = append(slots, slot)
		}
		if time.Since(began) != 0 {
			t.Errorf("requests waited %v although a machine runs", time.Since(began))
		}
		synctest.Wait()
		if w.started() != 1 {
			t.Errorf("%d starts when the soft limit is passed, want 1", w.started())
		}
		time.Sleep(10 * sec)
		if w.started() != 1 {
			t.Errorf("%d starts, want no more than 1 for a demand of 3 and a soft limit of 2", w.started())
		}
		for i := range slots {
			slots[i].Release(balance.OutcomeDone)
		}
		w.stop()
	})
}

func TestAsleep(t *testing.T) {
	for name, tc := range map[string]struct {
		app   balance.App
		nobdy bool
	}{
		"autostart is off":        {app: balance.App{}},
		"nobody to start it here": {app: balance.App{Autostart: true}, nobdy: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, tc.app, Config{}, boot{})
				if tc.nobdy {
					w.a, _ = New(w.b, nil, Config{})
				}
				w.run()
				began := time.Now()
				_, err := w.get(t.Context(), 0)
				class(t, err, ErrAsleep, false)
				if !errors.Is(err, balance.ErrNoMachine) || time.Since(began) > 0 {
					t.Errorf("error %v after %v", err, time.Since(began))
				}
				w.stop()
				if w.asks > 0 {
					t.Error("started all the same")
				}
			})
		})
	}
}

func TestWaitingRoomWithoutStarter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, balance.App{Limits: balance.Limits{Hard: 1}}, Config{}, boot{})
		w.a, _ = New(w.b, nil, Config{})
		w.wake("m0")
		w.run()
		slot, _ := w.acquire()
		c := w.park(t.Context(), &balance.Request{App: "web"})
		hasNot(t, c)
		slot.Release(balance.OutcomeDone)
		r := has(t, c)
		if r.err != nil {
			t.Fatal(r.err)
		}
		// Nobody lets go: patience ends after 10 s.
		began := time.Now()
		_, err := w.a.Acquire(t.Context(), &balance.Request{App: "web"})
		class(t, err, ErrPatience, true)
		if took := time.Since(began); took < 10*sec || took > 10*sec+2*tickEvery {
			t.Errorf("patience ended after %v, want 10s and at most two ticks", took)
		}
		// A machine that goes to sleep leaves nothing to wait for.
		c = w.park(t.Context(), &balance.Request{App: "web"})
		g := w.fleet.Gate("web", "m0")
		token, _ := g.CloseNow()
		g.Closed(token, false)
		class(t, has(t, c).err, ErrAsleep, false)
		r.slot.Release(balance.OutcomeDone)
		w.stop()
	})
}

func TestCrowded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(
			t, balance.App{Autostart: true, BootHint: 5 * sec}, Config{MaxParked: 2}, boot{takes: 5 * sec},
		)
		w.run()
		a, b := w.park(t.Context(), &balance.Request{App: "web"}), w.park(t.Context(), &balance.Request{App: "web"})
		time.Sleep(sec)
		_, err := w.a.Acquire(t.Context(), &balance.Request{App: "web"})
		class(t, err, ErrCrowded, true)
		if e, _ := errors.AsType[*Error](err); e.RetryAfter() > 4*sec+tickEvery ||
			e.RetryAfter() < 3*sec {
			t.Errorf("come back after %v, want what is left of the boot", e.RetryAfter())
		}
		synctest.Wait() // while one is picked for, it counts on neither side
		if in, parked := w.a.Demand("web"); in != 0 || parked != 2 || w.a.Parked("web") != 2 {
			t.Errorf("demand %d and %d", in, parked)
		}
		time.Sleep(5 * sec)
		for _, c := range []<-chan result{a, b} {
			r := has(t, c)
			r.slot.Release(balance.OutcomeDone)
		}
		w.stop()
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, balance.App{Autostart: true}, Config{MaxParked: -1}, boot{takes: sec})
		w.run()
		_, err := w.get(t.Context(), 0)
		class(t, err, ErrCrowded, true)
		w.stop()
	})
}

func TestClientLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var left atomic.Int64
		w := newWorld(
			t, balance.App{Autostart: true},
			Config{Trace: Trace{Left: func(balance.AppID, time.Duration) { left.Add(1) }}}, boot{takes: sec},
		)
		w.run()
		gone := errors.New("gone")
		early, cancelEarly := context.WithCancelCause(t.Context())
		// at the very moment in which the machine is ready
		sharp, cancelSharp := context.WithTimeout(t.Context(), sec)
		defer cancelSharp()
		a, b := w.park(early, &balance.Request{App: "web"}), w.park(sharp, &balance.Request{App: "web"})
		c := w.park(t.Context(), &balance.Request{App: "web"})
		cancelEarly(gone)
		if r := has(t, a); !errors.Is(r.err, gone) {
			t.Errorf("error %v, want the context's cause", r.err)
		}
		if n := w.a.Parked("web"); n != 2 {
			t.Errorf("%d parked after one left, want 2", n)
		}
		time.Sleep(sec)
		want := int64(2)
		if r := has(t, b); r.err == nil {
			r.slot.Release(balance.OutcomeDone)
			want = 1
		} else if !errors.Is(r.err, context.DeadlineExceeded) {
			t.Error(r.err)
		}
		r := has(t, c)
		if r.err != nil {
			t.Fatal(r.err)
		}
		r.slot.Release(balance.OutcomeDone)
		if left.Load() != want {
			t.Errorf("%d left, want %d", left.Load(), want)
		}
		dead, cancel := context.WithCancel(t.Context())
		cancel()
		m := w.fleet.Gate("web", "m0")
		token, _ := m.CloseNow()
		m.Closed(token, false)
		if _, err := w.a.Acquire(dead, &balance.Request{App: "web"}); !errors.Is(err, context.Canceled) {
			t.Errorf("a request that is dead already: %v", err)
		}
		w.stop()
		if n := w.b.InFlight("web"); n != 0 {
			t.Errorf("%d in flight at the end", n)
		}
	})
}

func TestOrderAndReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, balance.App{Limits: balance.Limits{Hard: 1}}, Config{}, boot{})
		g := w.wake("m0")
		w.run()
		held, heldReq := w.acquire() // by the warm path
		var reqs []*balance.Request
		var waits []<-chan result
		for range 3 {
			r := &balance.Request{App: "web"}
			reqs, waits = append(reqs, r), append(waits, w.park(t.Context(), r))
		}
		held.Release(balance.OutcomeBounced)
		first := has(t, waits[0])
		hasNot(t, waits[1])
		// The one from the warm path was there before all; it returns to the front.
		back := w.park(t.Context(), heldReq)
		first.slot.Release(balance.OutcomeBounced)
		again := has(t, back)
		// The first to be parked comes back, between it and the others.
		waits[0] = w.park(t.Context(), reqs[0])
		late := w.park(t.Context(), &balance.Request{App: "web"})
		again.slot.Release(balance.OutcomeDone)
		for i, c := range append(slices.Clone(waits), late) {
			r := has(t, c)
			if r.err != nil {
				t.Fatalf("%d: %v", i, r.err)
			}
			r.slot.Release(balance.OutcomeDone)
			synctest.Wait()
		}
		_ = g
		w.stop()
	})
}

func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, balance.App{Autostart: true, BootHint: 10 * sec}, Config{}, boot{never: true})
		w.run()
		began := time.Now()
		_, err := w.get(t.Context(), 0)
		class(t, err, ErrPatience, true)
		if took := time.Since(began); took < 35*sec || took > 35*sec+2*tickEvery {
			t.Errorf("patience ended after %v, want 3.5 boots of 10s", took)
		}
		w.stop()
		if w.started() != 1 {
			t.Errorf("%d starts", w.started())
		}
	})
	synctest.Test(t, func(t *testing.T) { // none but the client's
		w := newWorld(
			t, balance.App{Autostart: true, BootHint: sec}, Config{MaxWait: -1}, boot{takes: 1000 * sec},
		)
		w.run()
		if _, err := w.get(t.Context(), 0); err != nil {
			t.Error(err)
		}
		w.stop()
	})
}

func TestAppsComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, balance.App{Autostart: true}, Config{}, boot{never: true})
		w.run()
		if _, err := w.a.Acquire(t.Context(), &balance.Request{App: "none"}); !errors.Is(
			err, balance.ErrNoApp,
		) {
			t.Errorf("unknown app: %v", err)
		}
		c := w.park(t.Context(), &balance.Request{App: "web"})
		hasNot(t, c)
		w.fleet.Gate("web", "m0").Exited(1, false) // what starts or runs is not removed
		if err := w.fleet.Apply(balance.RemoveApp{ID: "web"}); err != nil {
			t.Fatal(err)
		}
		if r := has(t, c); !errors.Is(r.err, balance.ErrNoApp) {
			t.Errorf("app removed under a parked request: %v", r.err)
		}
		w.fleet.Apply(balance.PutApp{App: balance.App{ID: "web", Autostart: true}})
		if _, err := w.get(t.Context(), 0); !errors.Is(err, ErrAsleep) {
			t.Errorf("app without machines: %v", err)
		}
		w.stop()
	})
}

func TestRunEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, balance.App{Autostart: true}, Config{}, boot{takes: sec})
		w.run()
		c := w.park(t.Context(), &balance.Request{App: "web"})
		w.stop()
		class(t, has(t, c).err, ErrClosed, false)
		// the machine is up by now
		if _, err := w.a.Acquire(t.Context(), &balance.Request{App: "web"}); err != nil {
			t.Error(err)
		}
		token, _ := w.fleet.Gate("web", "m0").CloseNow()
		w.fleet.Gate("web", "m0").Closed(token, false)
		_, err := w.a.Acquire(t.Context(), &balance.Request{App: "web"})
		class(t, err, ErrClosed, false)
		if err := w.a.Run(t.Context()); err == nil {
			t.Error("a second Run")
		}
	})
}

// silent is an owner who does not answer.
type silent struct{}

func (silent) Start(ctx context.Context, _ balance.Machine) (balance.StartAnswer, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}
func (silent) Recall(ctx context.Context, _ balance.Machine) error { <-ctx.Done(); return ctx.Err() }

func TestOwnerThatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, balance.App{Autostart: true}, Config{}, boot{}, boot{})
		var err error
		if w.a, err = New(w.b, silent{}, Config{}); err != nil {
			t.Fatal(err)
		}
		w.run()
		_, err = w.get(t.Context(), 0)
		class(t, err, ErrStart, true)
		if e, _ := errors.AsType[*Error](err); !strings.Contains(e.Reason(), "deadline exceeded") {
			t.Errorf("reason %q, want it to name the deadline", e.Reason())
		}
		w.stop()
	})
}

func TestOtherNodesDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var others atomic.Int64
		w := newWorld(
			t, balance.App{Autostart: true, Limits: balance.Limits{Soft: 10}},
			Config{Others: func(_ balance.AppID, region string) int {
				if region != "nrt" {
					t.Errorf("asked for %q", region)
				}
				return int(others.Load())
			}},
			boot{}, boot{}, boot{},
		)
		w.run()
		time.Sleep(sec)
		if w.started() != 0 {
			t.Errorf("%d starts without demand", w.started())
		}
		others.Store(11)
		time.Sleep((othersTicks + 2) * tickEvery)
		if w.started() != 2 {
			t.Errorf("%d starts for the demand of others, want 2", w.started())
		}
		w.stop()
	})
}

func TestFullOfOthersRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// An edge that is not the owner: all it knows of others' requests is that the owner says "full".
		f, _ := balance.NewFleet(balance.FleetConfig{Node: "edge", Region: "nrt"})
		b, _ := balance.New(f, balance.Config{})
		f.Apply(
			balance.PutApp{
				App: balance.App{ID: "web", Autostart: true, Limits: balance.Limits{Soft: 10, Hard: 10}},
			},
		)
		for i, state := range []balance.State{balance.StateStarted, balance.StateStopped} {
			f.Apply(balance.PutMachine{Machine: balance.Machine{ID: balance.MachineID(fmt.Sprintf("m%d", i)), App: "web", Region: "nrt", Owner: "w", State: state, Epoch: 1}, Version: balance.Version{Incarnation: 1, Seq: 1}})
		}
		asked := make(chan balance.MachineID, 10)
		a, _ := New(b, ownerFunc(func(m balance.Machine) (balance.StartAnswer, error) {
			asked <- m.ID
			return balance.StartAccepted, nil
		}), Config{})
		ctx, cancel := context.WithCancel(t.Context())
		go b.Run(ctx)
		go a.Run(ctx)
		synctest.Wait()
		r := balance.Request{App: "web"}
		slot, err := a.Acquire(ctx, &r)
		if err != nil {
			t.Fatal(err)
		}
		slot.Observe(
			balance.Load{
				InFlight: 10, Limits: balance.Limits{Soft: 10, Hard: 10}, State: balance.StateStarted, Epoch: 1,
				Seq: 1,
			},
		)
		slot.Release(balance.OutcomeBounced)
		r.Tried = append(r.Tried, "m0")
		done := make(chan error)
		go func() {
			_, err := a.Acquire(ctx, &r)
			done <- err
		}()
		time.Sleep(tickEvery)
		select {
		case id := <-asked:
			if id != "m1" {
				t.Errorf("asked for %s", id)
			}
		default:
			t.Error("nothing is started although the only machine is full")
		}
		cancel()
		<-done
	})
}

type ownerFunc func(balance.Machine) (balance.StartAnswer, error)

func (f ownerFunc) Start(_ context.Context, m balance.Machine) (balance.StartAnswer, error) {
	return f(m)
}
func (f ownerFunc) Recall(context.Context, balance.Machine) error { return nil }

// Invariants A3 and A5 of the shell: with clients that leave, machines that refuse and hard limits,
// every request ends once, no slot is lost or given twice, and nothing is left.
func TestNoSlotIsLost(t *testing.T) {
	const hard = 3
	w := newWorld(
		t, balance.App{Limits: balance.Limits{Hard: hard}}, Config{MaxParked: 1 << 20, MaxWait: -1},
		boot{}, boot{},
	)
	for _, id := range canonical("web", 2) {
		w.wake(id)
	}
	w.launch()
	var inside, served, left atomic.Int64
	var wg sync.WaitGroup
	const n = 2000
	for i := range n {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(i)))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if rnd.IntN(4) == 0 {
				stop := time.AfterFunc(time.Duration(rnd.IntN(3000))*time.Microsecond, cancel)
				defer stop.Stop()
			}
			r := balance.Request{App: "web"}
			for {
				slot, err := w.a.Acquire(ctx, &r)
				if err != nil {
					if !errors.Is(err, context.Canceled) {
						t.Error(err)
					}
					left.Add(1)
					return
				}
				if k := inside.Add(1); k > 2*hard {
					t.Errorf("%d inside at once, hard limits allow %d", k, 2*hard)
				}
				bounced := rnd.IntN(5) == 0
				inside.Add(-1)
				if bounced {
					r.Tried = append(r.Tried, slot.Machine().ID)
					slot.Release(balance.OutcomeBounced)
					continue
				}
				slot.Release(balance.OutcomeDone)
				served.Add(1)
				return
			}
		})
	}
	wg.Wait()
	if served.Load()+left.Load() != n || w.b.InFlight("web") != 0 || w.a.Parked("web") != 0 ||
		w.a.parked.Load() != 0 {
		t.Errorf(
			"served %d, left %d of %d; %d in flight, %d parked", served.Load(), left.Load(), n,
			w.b.InFlight("web"), w.a.Parked("web"),
		)
	}
	w.stop()
}

// A flood that waits for one app does not hold up another.
func TestAppsDoNotWaitForEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, balance.App{Autostart: true}, Config{}, boot{never: true})
		w.fleet.Apply(balance.PutApp{App: balance.App{ID: "api"}})
		g, err := w.fleet.Host(balance.Machine{ID: "api-1", App: "api", Region: "nrt"})
		if err != nil {
			t.Fatal(err)
		}
		token, _ := g.Start(0)
		g.Ready(token)
		w.run()
		ctx, cancel := context.WithCancel(t.Context())
		for range 1000 {
			go w.a.Acquire(ctx, &balance.Request{App: "web"})
		}
		synctest.Wait()
		began := time.Now()
		slot, err := w.a.Acquire(t.Context(), &balance.Request{App: "api"})
		if err != nil || time.Since(began) > 0 {
			t.Fatalf("the other app: %v after %v", err, time.Since(began))
		}
		slot.Release(balance.OutcomeDone)
		cancel()
		synctest.Wait()
		if n := w.a.Parked("web"); n != 0 {
			t.Errorf("%d parked after all have left", n)
		}
		w.stop()
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
				q := &w.a.roomOf("web").queue
				q.mu.Lock() // what follows is what handOver does
				held.Release(balance.OutcomeDone)
				q.room.Begin()
				s := q.room.Turn()
				slot, err := w.b.Pick(balance.Request{App: "web"})
				if err != nil {
					t.Fatal(err)
				}
				q.room.Serve(time.Now(), s)
				q.left(s)
				q.mu.Unlock()
				leave()
				q.r.dispatcher.give(&s.Value, slot)
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
