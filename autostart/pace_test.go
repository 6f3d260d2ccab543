package autostart

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
)

func TestPace(t *testing.T) {
	const ms = time.Millisecond
	type step struct {
		at, took time.Duration
		acts     bool
		next     time.Duration // not before; the same as at: no gap
	}
	for _, tc := range []struct {
		name  string
		steps []step
	}{
		{"a decision that acts gathers those who come after it", []step{{0, 0, true, planGap}, {10 * ms, 0, true, 10*ms + planGap}}},
		{"one that does nothing is followed by no gap", []step{{0, 0, false, 0}, {ms, 0, false, ms}, {2 * ms, 0, true, 2*ms + planGap}}},
		{"many of them have to be paid for", func() (s []step) {
			for range planBurst {
				s = append(s, step{0, 0, false, 0})
			}
			return append(s, step{0, 0, false, planGap}, step{planGap, 0, false, 2 * planGap}, step{time.Second, 0, false, time.Second})
		}()},
		{"a slow one has to be paid for at once", []step{{0, 10 * ms, false, 100*ms - planBurst*planGap}}},
		{"a clock that is set back", []step{{time.Hour, 0, false, time.Hour}, {0, 0, false, 0}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var p pace
			for i, s := range tc.steps {
				p.decided(t0.Add(s.at), s.took, s.acts)
				if got := max(s.at, p.next.Sub(t0)); got != s.next {
					t.Fatalf("step %d at %v: next at %v, want %v", i, s.at, got, s.next)
				}
			}
		})
	}
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
