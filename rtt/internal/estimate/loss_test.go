package estimate

import (
	"testing"

	"pgregory.net/rapid"
)

// Drop k of n on the way out or back: the counters are exact, whatever the order of arrival at the
// far end.
func TestDirectionalLossIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var d directions
		count := uint64(0)
		var out, in, n uint32
		pending := uint32(0) // events since the last answer; they show with the next
		pendingIn := uint32(0)
		for seq := uint64(1); seq <= 200; seq++ {
			fate := rapid.SampledFrom([]string{"ok", "ok", "ok", "out", "in"}).Draw(t, "fate")
			if seq == 1 {
				fate = "ok" // probes before the first answer are not counted
			}
			if fate == "out" {
				pending++
				continue
			}
			count++ // at the far end
			if fate == "in" {
				pendingIn++
				continue
			}
			d.reply(7, seq, count)
			if seq > 1 {
				n++
			}
			out, in, n = out+pending, in+pendingIn, n+pending+pendingIn
			pending, pendingIn = 0, 0
		}
		if got, want := d.out.fraction(), (Fraction{out, n}); got != want {
			t.Fatalf("out %v, want %v", got, want)
		}
		if got, want := d.in.fraction(), (Fraction{in, n - out}); got != want {
			t.Fatalf("in %v, want %v", got, want)
		}
	})
}

func TestDirectionsSurviveRestartsAndOvertaking(t *testing.T) {
	var d directions
	d.reply(1, 10, 4) // the far end started later than this node
	d.reply(1, 12, 6)
	d.reply(1, 11, 5) // overtaken: it had been counted as lost on its way back
	if d.out.fraction().Lost != 0 || d.in.fraction().Lost != 0 {
		t.Errorf("overtaken answers: out %v, in %v; want no loss", d.out.fraction(), d.in.fraction())
	}
	d.reply(2, 13, 1) // restarted
	d.reply(2, 14, 2)
	d.reply(2, 20, 1) // forgot this node
	d.reply(2, 21, 2)
	if d.out.fraction().Lost != 0 || d.in.fraction().Lost != 0 {
		t.Errorf("restarts: out %v, in %v; want no loss", d.out.fraction(), d.in.fraction())
	}
}

func TestTallyForgets(t *testing.T) {
	var l tally
	for range 1000 {
		l.add(1, 1)
	}
	for range 512 {
		l.add(1, 0)
	}
	if f := l.fraction(); f.Lost != 0 || f.N > 512 || f.N < 256 {
		t.Errorf("512 successes later: %v", f)
	}
	l.takeBack() // nothing to take back
	l.add(1<<20, 1<<21)
	if f := l.fraction(); f.Lost > f.N {
		t.Errorf("%v", f)
	}
}
