package balance

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

// Scores compare like the machines that they represent.
func TestWordsCompareLikeMachines(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string) (w score, tier Tier, busy bool, use float64, full bool) {
			tier = Tier(rapid.IntRange(0, int(TierNone)).Draw(t, label+" tier"))
			l := Limits{Soft: rapid.IntRange(0, 20).Draw(t, label+" soft"), Hard: 30}
			own := rapid.IntRange(0, 32).Draw(t, label+" own")
			others := rapid.Float32Range(0, 10).Draw(t, label+" others")
			e := est(0).withOthers(others)
			w = scoreOf(newBase(tier, l), own, -1, e)
			load := float64(own) + float64(e.others())
			return w, tier, l.Soft > 0 && load >= float64(l.Soft), load / float64(max(1, l.Soft)), load >= 30
		}
		a, tierA, busyA, useA, fullA := draw("a")
		b, tierB, busyB, useB, fullB := draw("b")
		if got := a >= noUse; got != (fullA || tierA == TierNone) {
			t.Fatalf("word %x of tier %v, full %v", a, tierA, fullA)
		}
		if a >= noUse || b >= noUse || fullB {
			return
		}
		less := tierA < tierB ||
			tierA == tierB && (!busyA && busyB || busyA == busyB && useA < useB*(1-1e-3))
		if less && a >= b {
			t.Fatalf(
				"word %x of (%v, busy %v, %v) is not below %x of (%v, %v, %v)", a, tierA, busyA, useA, b, tierB,
				busyB, useB,
			)
		}
		if got := float64(useOf(a)); math.Abs(got-useA) > 1e-3*(1+useA) {
			t.Fatalf("use %v reads as %v", useA, got)
		}
	})
}

// Each field of an estimate is read as it was written, and changes no other.
func TestEstimatesHoldTheirFields(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		others, penalty := rapid.Float32Range(0, MaxLimit).Draw(t, "others"), rapid.Float32Range(0, 1000).Draw(t, "penalty")
		fails, grant := rapid.IntRange(0, 15).Draw(t, "fails"), rapid.IntRange(0, maxGrant).Draw(t, "grant")
		slow, ramp := rapid.Float32Range(1, 8).Draw(t, "slow"), rapid.Float32Range(0.1, 1).Draw(t, "ramp")
		e := est(0) | saidFullBit | cordonedBit
		e = e.withGrant(grant, true).
			withRamp(ramp).
			withSlow(slow).
			withFails(fails).
			withPenalty(penalty).
			withOthers(others)
		near := func(a, b, off float32) bool { return math.Abs(float64(a-b)) <= float64(off) }
		n, ok := e.grant()
		if !near(e.others(), others, 0.2) || !near(e.penalty(), penalty, 0.2) || e.fails() != fails || n != grant || !ok ||
			!near(e.slow(), slow, 0.13) || !near(e.ramp(), ramp, 1.0/16) || e&saidFullBit == 0 ||
			e&cordonedBit == 0 ||
			e&(awayBit|probeBit|heardBit) != 0 {
			t.Fatalf(
				"%x: others %v penalty %v fails %d grant %d %v slow %v ramp %v", e, e.others(), e.penalty(),
				e.fails(), n, ok, e.slow(), e.ramp(),
			)
		}
	})
}

// Where a load is at, above or below a limit: each row is one rule of score.go.
func TestLimits(t *testing.T) {
	for _, c := range []struct {
		rule string
		got  bool
		want bool
	}{
		{"below the soft limit others are not preferred", atSoft(float32(19.9), 20), false},
		{"at the soft limit others are preferred", atSoft(float32(20), 20), true},
		{"without a soft limit nobody is busy", atSoft(float32(1e6), 0), false},
		{"the last request below the soft limit starts no machine", overSoft(20, 20), false},
		{"the first one above it does", overSoft(20.1, 20), true},
		{"below the hard limit there is room", atHard(49.9, 50), false},
		{"at the hard limit there is none", atHard(50, 50), true},
		{"without a hard limit there is room", atHard(1e6, 0), false},
		{"what a gate cannot count is full", atHard(MaxLimit, 0), true},
		{"a granted slot is there whatever the load", est(0).withGrant(1, true).full(0, 50, 50), false},
		{"without one there is none, while the owner grants", est(0).withGrant(0, true).full(0, 0, 50), true},
		{"a machine whose owner said that it is full", saidFullBit.full(0, 0, 50), true},
		{"on probation there is room for one", probeBit.full(0, 0, 50), false},
		{"and not for two", probeBit.full(1, 1, 50), true},
	} {
		if c.got != c.want {
			t.Errorf("%s: %v", c.rule, c.got)
		}
	}
	if n := most(2, est(0).withGrant(1, true)); n != MaxLimit {
		t.Errorf("with a grant a node may have %d of its own in flight: want no limit", n)
	}
	if n := most(2, 0); n != 2 {
		t.Errorf("below a hard limit of 2 a node may have %d of its own in flight", n)
	}
}
