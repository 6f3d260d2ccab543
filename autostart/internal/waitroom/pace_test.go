package waitroom

import (
	"testing"
	"time"
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
		{"a decision that acts gathers those who come after it", []step{{0, 0, true, PlanGap}, {10 * ms, 0, true, 10*ms + PlanGap}}},
		{"one that does nothing is followed by no gap", []step{{0, 0, false, 0}, {ms, 0, false, ms}, {2 * ms, 0, true, 2*ms + PlanGap}}},
		{"many of them have to be paid for", func() (s []step) {
			for range planBurst {
				s = append(s, step{0, 0, false, 0})
			}
			return append(s, step{0, 0, false, PlanGap}, step{PlanGap, 0, false, 2 * PlanGap}, step{time.Second, 0, false, time.Second})
		}()},
		{"a slow one has to be paid for at once", []step{{0, 10 * ms, false, 100*ms - planBurst*PlanGap}}},
		{"a clock that is set back", []step{{time.Hour, 0, false, time.Hour}, {0, 0, false, 0}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var p Pace
			for i, s := range tc.steps {
				p.Decided(t0.Add(s.at), s.took, s.acts)
				if got := max(s.at, p.Next.Sub(t0)); got != s.next {
					t.Fatalf("step %d at %v: next at %v, want %v", i, s.at, got, s.next)
				}
			}
		})
	}
}
