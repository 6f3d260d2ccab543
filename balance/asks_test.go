package balance

import (
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// However requests are split: the parts add up, nobody is told of more than wait, and over many turns the owners of a region
// are told of as much as they have slots.
func TestSplitAddsUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 6).Draw(t, "owners")
		owners := make([]asked, n)
		for i := range owners {
			owners[i] = asked{
				slots: rapid.IntRange(0, 40).Draw(t, "slots"), near: rapid.IntRange(1, 3).Draw(t, "near"), share: rapid.Float64Range(0, 1).Draw(t, "share"),
				rtt: time.Duration(rapid.IntRange(0, 300).Draw(t, "rtt")) * time.Millisecond, stay: time.Duration(rapid.IntRange(0, 3000).Draw(t, "stay")) * time.Millisecond,
			}
		}
		slices.SortStableFunc(owners, func(a, b asked) int { return a.near - b.near })
		parked := rapid.IntRange(0, 1000).Draw(t, "parked")
		split(parked, owners, rapid.Uint64().Draw(t, "turn"))
		sum := 0
		for _, o := range owners {
			sum += max(o.part, 0)
			if o.part < -1 || o.part > parked {
				t.Fatalf("told of %d of %d", o.part, parked)
			}
		}
		if sum != parked {
			t.Fatalf("the parts of %d are %d: %+v", parked, sum, owners)
		}
	})
	const turns = 10_000
	for _, parked := range []int{1, 7} {
		var told [3]float64
		for turn := range uint64(turns) {
			owners := []asked{{slots: 8, near: 1, share: 1}, {slots: 1, near: 1, share: 1}, {slots: 3, near: 1, share: 1}}
			split(parked, owners, turn)
			for i := range owners {
				told[i] += float64(owners[i].part) / turns
			}
		}
		for i, slots := range []float64{8, 1, 3} {
			if want := float64(parked) * slots / 12; math.Abs(told[i]-want) > 0.01 {
				t.Errorf("of %d the owner of %v in 12 slots is told of %.3f, want %.3f", parked, slots, told[i], want)
			}
		}
	}
}

func TestSplitStory(t *testing.T) {
	far := func(parked int, nearSlots int, share float64, stay time.Duration) (near, far int) {
		owners := []asked{{slots: nearSlots, near: 1, share: share, rtt: 2 * time.Millisecond, stay: stay}, {slots: 10, near: 2, share: 1, rtt: 152 * time.Millisecond}}
		split(parked, owners, 0)
		return owners[0].part, owners[1].part
	}
	for _, c := range []struct {
		name      string
		parked    int
		slots     int
		share     float64
		stay      time.Duration
		near, far int
	}{
		{"the near ones have room: the far ones need not even keep a slot at hand", 4, 10, 1, 0, 4, -1},
		{"nobody waits: a near slot at hand is enough", 0, 10, 1, 0, 0, -1},
		{"more wait than there are near slots", 25, 10, 1, 0, 10, 15},
		{"nothing near runs", 3, 0, 1, 0, 0, 3},
		{"the near region gives half away", 10, 10, 0.5, 0, 5, 5},
		{"requests stay for long: the way costs less than the wait for a second one", 10, 10, 1, 15 * time.Second, 1, 9},
		{"requests are short: the wait for ten costs less than the way", 10, 10, 1, 100 * time.Millisecond, 10, -1},
	} {
		if near, far := far(c.parked, c.slots, c.share, c.stay); near != c.near || far != c.far {
			t.Errorf("%s: near %d, far %d, want %d, %d", c.name, near, far, c.near, c.far)
		}
	}
}
