package balance

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestSpillController(t *testing.T) {
	for _, c := range []struct {
		name string
		in   spilling
		from float32
		want func(s float32) bool
	}{
		{"over its target, and another has room: gives away", spilling{use: 1.2, target: 0.95, other: 9, limits: true}, 1, func(s float32) bool { return s < 1 && s >= 0.98 }},
		{"under its target: takes back", spilling{use: 0.5, target: 0.95, other: 9, limits: true}, 0.5, func(s float32) bool { return s > 0.5 && s <= 0.52 }},
		{"over its target, and nobody has room: takes back", spilling{use: 3, target: 0.95, limits: true}, 0.5, func(s float32) bool { return s > 0.5 }},
		{"no limits and no dearer than elsewhere: stays whole", spilling{use: 40, target: 0.95, cost: 1, other: 1}, 1, func(s float32) bool { return s == 1 }},
		{"dearer than elsewhere, limits or not: gives away", spilling{use: 0.2, target: 0.95, cost: 3, other: 1}, 1, func(s float32) bool { return s < 1 }},
		{"however far over, a tick moves it little", spilling{use: 1000, target: 0.95, other: 1, limits: true}, 1, func(s float32) bool { return s >= 0.98 }},
		{"never below what keeps it measured", spilling{use: 1000, target: 0.95, other: 1, limits: true}, 0.02, func(s float32) bool { return s == 0.02 }},
	} {
		if got := c.in.next(c.from, 1); !c.want(got) {
			t.Errorf("%s: %v became %v", c.name, c.from, got)
		}
	}
	// With late updates the share settles: a region with 1.5 times the demand that it can serve.
	for _, c := range []struct {
		late int // ticks
		gap  float32
	}{{1, 1}, {5, 3}, {20, 5}, {30, 10}, {50, 50}} {
		share, lowest, highest := float32(1), float32(1), float32(0)
		uses := make([]float32, c.late+1)
		for i := range 9000 {
			share = spilling{use: uses[0], target: 0.95, other: 1, limits: true, gap: c.gap}.next(share, 1)
			copy(uses, uses[1:])
			uses[c.late] = 1.5 * share
			if i > 6000 {
				lowest, highest = min(lowest, share), max(highest, share)
			}
		}
		if highest-lowest > 0.1 || lowest < 0.55 || highest > 0.7 {
			t.Errorf(
				"with news %d ticks late the share is between %v and %v, want 0.63", c.late, lowest, highest,
			)
		}
	}
}

// Draws follow the room that machines have; with old updates all machines get some.
func TestDrawsAreWeighted(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct {
		use, level, least float32
		want              float64
	}{{0.5, 1, 0.5, 1}, {0.75, 1, 0.5, 0.5}, {1, 1, 0.5, 0}, {3, 1, 0.5, 0}, {0.9, 0, 0, 1}, {2, 10, 0, 0.8}} {
		n := 0
		for range 10000 {
			if accept(c.use, c.level, c.least, r.Uint32()) {
				n++
			}
		}
		if got := float64(n) / 10000; math.Abs(got-c.want) > 0.03 {
			t.Errorf(
				"a machine at %v is accepted with %v, want %v (level %v, least %v)", c.use, got, c.want,
				c.level, c.least,
			)
		}
	}
	if fresh, late := waterLevel(0.8, 10, 1), waterLevel(0.8, 10, 30); fresh >= late || fresh <= 0.8 {
		t.Errorf("levels %v and %v: older news must make draws more even", fresh, late)
	}
}

// The slices of all nodes reach every machine about equally often, and begin and end with the
// number that a node has in flight.
func TestSlices(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n, nodes := rapid.IntRange(1, 200).Draw(t, "machines"), rapid.IntRange(1, 150).Draw(t, "nodes")
		own := rapid.Float32Range(0, 2).Draw(t, "own")
		width := sliceWidth(n, nodes, own, false)
		if width == 0 {
			return
		}
		if width < sliceLeast || width >= n || own >= sliceBelow || nodes < 2 {
			t.Fatalf("%d of %d machines for each of %d nodes at %v", width, n, nodes, own)
		}
		ring := make([]int32, n)
		for i := range ring {
			ring[i] = int32(i)
		}
		covered := make([]int, n)
		for i := range nodes {
			for _, m := range sliceOf(ring, i, nodes, width) {
				covered[m]++
			}
		}
		if lo, hi := slices.Min(covered), slices.Max(covered); lo == 0 || hi-lo > 2 {
			t.Fatalf(
				"%d machines, %d nodes, width %d: a machine is in %d to %d slices", n, nodes, width, lo, hi,
			)
		}
	})
	w := newWorld(t, nil, Limits{Soft: 10})
	for i := range 50 {
		w.put(MachineID(fmt.Sprintf("m%02d", i)), "nrt", nil)
	}
	peers := []NodeID{"edge"}
	for i := range 30 {
		peers = append(peers, NodeID(fmt.Sprint("e", i)))
	}
	w.b.SetPeers(peers...)
	w.clock().pass(time.Second)
	seen := map[MachineID]bool{}
	for range 1000 {
		seen[w.pick()] = true
	}
	if len(seen) != sliceLeast {
		t.Errorf(
			"a node with nothing to do uses %d machines, want its slice of %d", len(seen), sliceLeast,
		)
	}
	for id := range seen { // the slice has no room: the whole region is used
		w.load(id, 10)
	}
	if id := w.pick(); seen[id] || id == "" {
		t.Errorf("picked %q of a slice that is at its soft limit", id)
	}
}

// However requests are split, the parts add up, no owner is told of more than wait, and over many
// turns the owners of a region are told of numbers in proportion to their slots.
func TestSplitAddsUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 6).Draw(t, "owners")
		owners := make([]ownerPart, n)
		for i := range owners {
			owners[i] = ownerPart{
				slots: rapid.IntRange(0, 40).
					Draw(t, "slots"),
				near: rapid.IntRange(1, 3).Draw(t, "near"), share: rapid.Float64Range(0, 1).Draw(t, "share"),
				rtt: time.Duration(
					rapid.IntRange(0, 300).Draw(t, "rtt"),
				) * time.Millisecond, stay: time.Duration(rapid.IntRange(0, 3000).Draw(t, "stay")) * time.Millisecond,
			}
		}
		slices.SortStableFunc(owners, func(a, b ownerPart) int { return a.near - b.near })
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
			owners := []ownerPart{
				{slots: 8, near: 1, share: 1}, {slots: 1, near: 1, share: 1}, {slots: 3, near: 1, share: 1},
			}
			split(parked, owners, turn)
			for i := range owners {
				told[i] += float64(owners[i].part) / turns
			}
		}
		for i, slots := range []float64{8, 1, 3} {
			if want := float64(parked) * slots / 12; math.Abs(told[i]-want) > 0.01 {
				t.Errorf(
					"of %d the owner of %v in 12 slots is told of %.3f, want %.3f", parked, slots, told[i], want,
				)
			}
		}
	}
}

func TestSplitStory(t *testing.T) {
	far := func(parked int, nearSlots int, share float64, stay time.Duration) (near, far int) {
		owners := []ownerPart{
			{slots: nearSlots, near: 1, share: share, rtt: 2 * time.Millisecond, stay: stay},
			{slots: 10, near: 2, share: 1, rtt: 152 * time.Millisecond},
		}
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
