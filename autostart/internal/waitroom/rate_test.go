package waitroom

import (
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestRate(t *testing.T) {
	var r Rate
	now := t0
	step := func(d time.Duration, n int, wait bool) {
		now = now.Add(d)
		for range n {
			r.Gave(now, wait)
		}
	}
	if _, ok := r.PerSecond(now); ok || r.Within(now, time.Minute, 7) != 7 || r.Drain(now, 100) != 0 {
		t.Error("something is known of nothing")
	}
	step(0, 500, true) // a machine has become ready
	if _, ok := r.PerSecond(now.Add(time.Second)); ok {
		t.Error("one wave is no rate")
	}
	for range 200 {
		step(sec, 3, true)
	}
	if s, ok := r.PerSecond(now); !ok || s < 2.8 || s > 3.2 {
		t.Errorf("%v in a second, %v; want 3", s, ok)
	}
	if n := r.Within(now, 10*sec, 1000); n < 28 || n > 32 {
		t.Errorf("%d within 10 s, want 30", n)
	}
	if d := r.Drain(now, 60); d < 18*sec || d > 22*sec {
		t.Errorf("60 take %v, want 20 s", d)
	}
	r.Stop(now) // nobody waits: nothing is learned meanwhile
	before, _ := r.PerSecond(now)
	if after, ok := r.PerSecond(now.Add(20 * sec)); !ok || after < before*.99 || after > before*1.01 {
		t.Errorf("%v in a second, %v after a pause; want %v", after, ok, before)
	}
	if n := r.Within(now.Add(20*sec), time.Millisecond, 1000); n != parkedMin {
		t.Errorf("%d, want no fewer than %d", n, parkedMin)
	}
	if _, ok := r.PerSecond(now.Add(time.Hour)); ok {
		t.Error("known after an hour")
	}
}

// Whatever comes, the rate lies between the least and the most that there was in ten seconds, and a
// clock that is set back does no harm.
func TestRateProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r Rate
		now := t0
		rnd := rand.New(rand.NewPCG(1, rapid.Uint64().Draw(t, "seed")))
		per := rapid.IntRange(1, 50).Draw(t, "in a second")
		for range 3000 {
			now = now.Add(time.Duration(rnd.ExpFloat64() * float64(sec) / float64(per)))
			if rapid.IntRange(0, 999).Draw(t, "back") == 0 {
				now = now.Add(-time.Minute)
			}
			r.Gave(now, true)
		}
		if s, ok := r.PerSecond(now); ok && (s < float64(per)/3 || s > float64(per)*3) {
			t.Fatalf("%v in a second, want about %d", s, per)
		}
	})
}

// Waves only grow, and end.
func TestRampProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r Ramp
		whole, waiting := rapid.IntRange(0, 50).Draw(t, "whole"), rapid.IntRange(1, 50).Draw(t, "waiting")
		now, in := t0, 0
		for range 30 {
			for !r.Full(now, sec) && in < 1000 {
				r.Give(now, whole, waiting)
				in++
				if now.Sub(r.began) < sec && in > max(1, r.whole/4) {
					t.Fatalf("%d of %d in the first wave", in, r.whole)
				}
			}
			now = now.Add(sec / 7)
		}
		if in < 1000 || !r.Over(now, sec) {
			t.Fatalf("%d are in long after", in)
		}
	})
}

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
