package autostart

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
)

func sortCanonical(app balance.AppID, ids []balance.MachineID) {
	slices.SortFunc(ids, func(a, b balance.MachineID) int {
		return (&balance.Machine{App: app, ID: a}).Compare(&balance.Machine{App: app, ID: b})
	})
}

// many sends n requests at once and returns their errors.
func (w *world) many(n int, hold time.Duration) (errs []error) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	for range n {
		wg.Go(func() {
			_, err := w.get(w.t.Context(), hold)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	return errs
}

func TestOneStartForManyRequests(t *testing.T) {
	for _, takes := range []time.Duration{0, 300 * time.Millisecond, 45 * time.Second} {
		for _, hint := range []time.Duration{0, time.Second} {
			synctest.Test(t, func(t *testing.T) {
				b := boot{takes: takes}
				w := newWorld(t, balance.App{Autostart: true, BootHint: hint, Limits: balance.Limits{Soft: 50}}, Config{MaxWait: 3 * time.Minute}, b, b, b, b)
				w.run()
				began := time.Now()
				if errs := w.many(50, 10*time.Millisecond); len(errs) > 0 {
					t.Errorf("%d of 50 not answered; the first: %v", len(errs), errs[0])
				}
				if took := time.Since(began); took != takes+10*time.Millisecond {
					t.Errorf("answered after %v, want the boot of %v and the 10ms of the request", took, takes)
				}
				w.stop()
				if w.started() != 1 || w.asks != 1 {
					t.Errorf("boot of %v, hint %v: %d starts, asked %d times, want 1", takes, hint, w.started(), w.asks)
				}
				if n := w.b.InFlight("web"); n != 0 {
					t.Errorf("%d in flight at the end", n)
				}
			})
		}
	}
}

func TestFirstNeverHealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, balance.App{Autostart: true}, Config{}, boot{takes: 5 * time.Second, fault: "not ready after 5s"}, boot{takes: time.Second}, boot{})
		w.run()
		if errs := w.many(20, time.Millisecond); len(errs) > 0 {
			t.Errorf("%d not answered; the first: %v", len(errs), errs[0])
		}
		w.stop()
		if w.started() != 2 {
			t.Errorf("%d starts, want 2: %v", w.started(), w.events)
		}
	})
}

func TestStartFailsEverywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, balance.App{Autostart: true}, Config{}, boot{takes: 100 * time.Millisecond, fault: "exit status 1"})
		w.run()
		errs := w.many(10, 0)
		if len(errs) != 10 {
			t.Fatalf("%d of 10 got an error", len(errs))
		}
		for _, err := range errs {
			e, ok := errors.AsType[*Error](err)
			if !ok || !errors.Is(err, ErrStart) || e.Fault != "machine m0: exit status 1" || e.RetryAfter() <= 0 {
				t.Fatalf("error %v (%+v), want ErrStart with the machine's fault and a time to come back", err, e)
			}
		}
		// While the breaker is open nobody waits and nothing starts.
		if _, err := w.get(t.Context(), 0); !errors.Is(err, ErrStart) {
			t.Errorf("while the breaker is open: %v", err)
		}
		if w.started() != 1 {
			t.Errorf("%d starts, want 1", w.started())
		}
		// After the interval one request is the probe; the machine has come to its senses.
		w.mu.Lock()
		w.boots["m0"] = boot{takes: 100 * time.Millisecond}
		w.mu.Unlock()
		time.Sleep(2 * time.Second)
		if _, err := w.get(t.Context(), 0); err != nil {
			t.Errorf("after the interval: %v", err)
		}
		w.stop()
		if w.started() != 2 {
			t.Errorf("%d starts, want 2", w.started())
		}
	})
}

// A first request is planned for at once, also right after a look that found nothing to do.
func TestFirstRequestIsPlannedForAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, balance.App{Autostart: true}, Config{}, boot{})
		w.launch()
		defer w.stop()
		synctest.Wait() // the look at what there is is over, and no time has passed
		began := time.Now()
		if _, err := w.get(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("answered after %v, want at once: the boot takes no time", took)
		}
	})
}

// The same with the shell: neither an owner that says nothing, nor one that is only late, keeps a
// request waiting.
func TestSilentOwnerIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newAway(t, balance.App{}, "dead", "dead", "live")
		defer w.stop()
		w.silent["dead"] = true
		if waited, err := w.get(); err != nil || waited > w.boot+600*time.Millisecond {
			t.Errorf("waited %v, error %v; want the boot of %v and little more", waited, err, w.boot)
		}
		w.wants("dead", "live")
	})
	synctest.Test(t, func(t *testing.T) {
		w := newAway(t, balance.App{}, "slow", "slow")
		defer w.stop()
		w.late = 2 * sec
		if waited, err := w.get(); err != nil || waited != w.late+w.boot {
			t.Errorf("waited %v, error %v; want the answer and the boot, %v", waited, err, w.late+w.boot)
		}
		w.wants("slow")
	})
}
