package waitroom

import (
	"testing"

	"pgregory.net/rapid"
)

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
