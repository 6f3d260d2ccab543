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
