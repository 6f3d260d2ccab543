package autostart

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
	"pgregory.net/rapid"
)

// A boot that is slower than all before it is waited for as long as it counts.
func TestPatienceFollowsTheStart(t *testing.T) {
	s := newStory(t, balance.App{}, "nrt: a")
	now := time.Duration(0)
	boot := func(d time.Duration) {
		s.see("a stopped")
		s.plan(now, 0, 1)
		s.p.Answered(t0.Add(now), s.last.Start[0], balance.StartAccepted, nil)
		s.see("a starting")
		s.plan(now, 0, 1)
		now += d
	}
	for range 31 {
		boot(300 * time.Millisecond)
		s.see("a started")
		s.plan(now, 0, 0)
		now += time.Minute
	}
	s.plan(now, 3, 0)
	if s.last.Wait != waitMin || s.last.Await != 0 {
		t.Errorf("wait %v, await %v; want 10s: no start is in flight", s.last.Wait, s.last.Await)
	}
	boot(0)
	for _, tc := range []struct{ at, await time.Duration }{{0, 17 * sec}, {sec, 16 * sec}, {12 * sec, 5 * sec}, {16 * sec, sec}, {20 * sec, 0}} {
		s.plan(now+tc.at, 0, 1)
		if s.last.Wait != 17*sec || s.last.Await != tc.await {
			t.Errorf("%v into the slow boot: wait %v, await %v; want 17s and %v", tc.at, s.last.Wait, s.last.Await, tc.await)
		}
	}
}

// In a fleet of quick and slow boots those who wait for a slow one are served by it.
func TestSlowBootOfAQuickApp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hs := []habits{{boot: 300 * time.Millisecond}, {boot: 12 * sec}}
		n := newNode(t, balance.App{KeepAlive: time.Hour, Limits: balance.Limits{Hard: 1}}, StarterConfig{}, hs...)
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

// Who comes late waits for the start that is in flight, and who waits for one that fails waits for
// the next.
func TestPatienceOfLateOnesAndOfSecondStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		app := balance.App{Autostart: true, BootHint: 20 * sec}
		w := newWorld(t, app, Config{}, boot{takes: 50 * sec, fault: "no"}, boot{takes: 50 * sec})
		w.run()
		defer w.stop()
		early := w.park(t.Context(), &balance.Request{App: "web"})
		time.Sleep(49 * sec)
		late := w.park(t.Context(), &balance.Request{App: "web"})
		time.Sleep(52 * sec)
		for i, c := range []<-chan result{early, late} {
			if r := has(t, c); r.err != nil {
				t.Errorf("%d: %v", i, r.err)
			} else {
				r.slot.Release(balance.OutcomeDone)
			}
		}
	})
}

// A start that has not begun is waited for, as it is no slow one; but not for ever.
func TestPatienceWhileAStartIsHeld(t *testing.T) {
	for busy, served := range map[time.Duration]bool{2 * time.Minute: true, time.Hour: false} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			d := &cloud{fakeDriver: newFakeDriver()}
			d.start = func(context.Context, call) error {
				if time.Since(began) < busy {
					return TryAgain{After: sec, Err: errors.New("429")}
				}
				return nil
			}
			w := newStorm(t, d, d.check, StarterConfig{}, 1, 1)
			defer w.stop()
			w.fleet.Apply(balance.PutApp{App: balance.App{ID: "app000", Autostart: true, BootHint: sec}})
			errs := w.ask(t, 1)
			if took := time.Since(began); served != (len(errs) == 0) || took > awaitMax+sec {
				t.Errorf("busy for %v: %v after %v", busy, errs, took)
			}
		})
	}
}

// What a request that is turned away is told: when the boot should be over, and what is known of
// the queue. Never the 3 min after which an unknown boot is suspect.
func TestRetryAfterIsWhatIsKnown(t *testing.T) {
	for _, tc := range []struct {
		name        string
		app         balance.App
		at          time.Duration
		least, most time.Duration
	}{
		{"a boot of which nothing is known", balance.App{}, 100 * time.Millisecond, sec * 4 / 5, sec},
		{"a while later it may take as long again", balance.App{}, 3 * sec, 2 * sec, 4 * sec},
		{"a known one", balance.App{BootHint: 4 * sec}, sec, sec * 5 / 2, sec * 7 / 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tc.app.Autostart = true
				w := newWorld(t, tc.app, Config{MaxParked: 2}, boot{takes: 4 * sec})
				w.run()
				defer w.stop()
				var cs []<-chan result
				for range 2 {
					cs = append(cs, w.park(t.Context(), &balance.Request{App: "web"}))
				}
				time.Sleep(tc.at)
				_, err := w.a.Acquire(t.Context(), &balance.Request{App: "web"})
				e, ok := errors.AsType[*Error](err)
				if !ok || e.Class != ErrCrowded || e.After < tc.least || e.After > tc.most {
					t.Errorf("%v, come back after %v; want %v to %v", err, e.After, tc.least, tc.most)
				}
				time.Sleep(4 * sec)
				for _, c := range cs {
					r := has(t, c)
					r.slot.Release(balance.OutcomeDone)
				}
			})
		})
	}
}

// As many may wait as are served before their patience ends; the next one is told how long it takes
// to serve those.
func TestRoomFollowsTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := pool(t, 10, Config{})
		defer w.stop()
		var mu sync.Mutex
		rejected, lost := 0, 0
		var after time.Duration
		var all sync.WaitGroup
		ask := func() {
			defer all.Done()
			slot, err := w.a.Acquire(t.Context(), &balance.Request{App: "web"})
			if err == nil {
				time.Sleep(sec) // 10 machines: 10 in a second
				slot.Release(balance.OutcomeDone)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if e, _ := errors.AsType[*Error](err); e.Class == ErrCrowded {
				rejected++
				after = e.After
			} else {
				lost++
			}
		}
		for range 60 * 40 { // four times as many as can be served, for a minute
			all.Add(1)
			go ask()
			time.Sleep(25 * time.Millisecond)
		}
		synctest.Wait()
		if n := w.a.Parked("web"); n < 80 || n > 120 {
			t.Errorf("%d wait, want about 100: 10 in a second for 10 s", n)
		}
		mu.Lock()
		if after < 8*sec || after > 12*sec {
			t.Errorf("come back after %v, want about 10 s", after)
		}
		before := lost
		mu.Unlock()
		for range 20 * 40 {
			all.Add(1)
			go ask()
			time.Sleep(25 * time.Millisecond)
		}
		all.Wait()
		if n := lost - before; n > 40 {
			t.Errorf("%d of 800 waited in vain when the rate was known, %d in all; %d were turned away", n, lost, rejected)
		}
	})
}

// A start that is in flight brings capacity of which the rate knows nothing.
func TestRoomIsWideWhileAStartIsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		app := balance.App{Autostart: true, Limits: balance.Limits{Hard: 1}, Max: 2}
		w := newWorld(t, app, Config{}, boot{takes: sec}, boot{takes: 20 * sec})
		w.wake(canonical("web", 2)[0])
		w.run()
		defer w.stop()
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for range 200 {
			all.Go(func() {
				slot, err := w.a.Acquire(ctx, &balance.Request{App: "web"})
				if err == nil {
					time.Sleep(sec)
					slot.Release(balance.OutcomeDone)
				}
			})
		}
		time.Sleep(15 * sec)
		c := w.park(ctx, &balance.Request{App: "web"})
		hasNot(t, c)
		time.Sleep(6 * sec) // the machine is there
		_, err := w.a.Acquire(ctx, &balance.Request{App: "web"})
		class(t, err, ErrCrowded, true)
		cancel()
		all.Wait()
	})
}

func TestRate(t *testing.T) {
	var r rate
	now := t0
	step := func(d time.Duration, n int, wait bool) {
		now = now.Add(d)
		for range n {
			r.gave(now, wait)
		}
	}
	if _, ok := r.perSecond(now); ok || r.within(now, time.Minute, 7) != 7 || r.drain(now, 100) != 0 {
		t.Error("something is known of nothing")
	}
	step(0, 500, true) // a machine has become ready
	if _, ok := r.perSecond(now.Add(time.Second)); ok {
		t.Error("one wave is no rate")
	}
	for range 200 {
		step(sec, 3, true)
	}
	if s, ok := r.perSecond(now); !ok || s < 2.8 || s > 3.2 {
		t.Errorf("%v in a second, %v; want 3", s, ok)
	}
	if n := r.within(now, 10*sec, 1000); n < 28 || n > 32 {
		t.Errorf("%d within 10 s, want 30", n)
	}
	if d := r.drain(now, 60); d < 18*sec || d > 22*sec {
		t.Errorf("60 take %v, want 20 s", d)
	}
	r.stop(now) // nobody waits: nothing is learned meanwhile
	before, _ := r.perSecond(now)
	if after, ok := r.perSecond(now.Add(20 * sec)); !ok || after < before*.99 || after > before*1.01 {
		t.Errorf("%v in a second, %v after a pause; want %v", after, ok, before)
	}
	if n := r.within(now.Add(20*sec), time.Millisecond, 1000); n != parkedMin {
		t.Errorf("%d, want no fewer than %d", n, parkedMin)
	}
	if _, ok := r.perSecond(now.Add(time.Hour)); ok {
		t.Error("known after an hour")
	}
}

// Whatever comes, the rate lies between the least and the most that there was in ten seconds, and a
// clock that is set back does no harm.
func TestRateProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r rate
		now := t0
		rnd := rand.New(rand.NewPCG(1, rapid.Uint64().Draw(t, "seed")))
		per := rapid.IntRange(1, 50).Draw(t, "in a second")
		for range 3000 {
			now = now.Add(time.Duration(rnd.ExpFloat64() * float64(sec) / float64(per)))
			if rapid.IntRange(0, 999).Draw(t, "back") == 0 {
				now = now.Add(-time.Minute)
			}
			r.gave(now, true)
		}
		if s, ok := r.perSecond(now); ok && (s < float64(per)/3 || s > float64(per)*3) {
			t.Fatalf("%v in a second, want about %d", s, per)
		}
	})
}
