package balance

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Words compare like what they stand for.
func TestWordsCompareLikeMachines(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string) (w word, tier Tier, busy bool, use float64, full bool) {
			tier = Tier(rapid.IntRange(0, int(TierNone)).Draw(t, label+" tier"))
			l := Limits{Soft: rapid.IntRange(0, 20).Draw(t, label+" soft"), Hard: 30}
			own := rapid.IntRange(0, 32).Draw(t, label+" own")
			others := rapid.Float32Range(0, 10).Draw(t, label+" others")
			e := est(0).withOthers(others)
			w = score(newBase(tier, l), own, -1, e)
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
		less := tierA < tierB || tierA == tierB && (!busyA && busyB || busyA == busyB && useA < useB*(1-1e-3))
		if less && a >= b {
			t.Fatalf("word %x of (%v, busy %v, %v) is not below %x of (%v, %v, %v)", a, tierA, busyA, useA, b, tierB, busyB, useB)
		}
		if got := float64(useOf(a)); math.Abs(got-useA) > 1e-3*(1+useA) {
			t.Fatalf("use %v reads as %v", useA, got)
		}
	})
}

// Each field of an estimate is read as it was written, and touches no other.
func TestEstimatesHoldTheirFields(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		others, penalty := rapid.Float32Range(0, MaxLimit).Draw(t, "others"), rapid.Float32Range(0, 1000).Draw(t, "penalty")
		fails, grant := rapid.IntRange(0, 15).Draw(t, "fails"), rapid.IntRange(0, maxGrant).Draw(t, "grant")
		slow, ramp := rapid.Float32Range(1, 8).Draw(t, "slow"), rapid.Float32Range(0.1, 1).Draw(t, "ramp")
		e := est(0) | saidBit | cordonedBit
		e = e.withGrant(grant, true).withRamp(ramp).withSlow(slow).withFails(fails).withPenalty(penalty).withOthers(others)
		near := func(a, b, off float32) bool { return math.Abs(float64(a-b)) <= float64(off) }
		n, ok := e.grant()
		if !near(e.others(), others, 0.2) || !near(e.penalty(), penalty, 0.2) || e.fails() != fails || n != grant || !ok ||
			!near(e.slow(), slow, 0.13) || !near(e.ramp(), ramp, 1.0/16) || e&saidBit == 0 || e&cordonedBit == 0 || e&(awayBit|probeBit|heardBit) != 0 {
			t.Fatalf("%x: others %v penalty %v fails %d grant %d %v slow %v ramp %v", e, e.others(), e.penalty(), e.fails(), n, ok, e.slow(), e.ramp())
		}
	})
}

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
	// On late news the share settles: a region that is asked for 1.5 times what it has.
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
			t.Errorf("with news %d ticks late the share is between %v and %v, want 0.63", c.late, lowest, highest)
		}
	}
}

// Draws follow the room that machines have, and over late news all get some.
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
			t.Errorf("a machine at %v is accepted with %v, want %v (level %v, least %v)", c.use, got, c.want, c.level, c.least)
		}
	}
	if fresh, late := waterLevel(0.8, 10, 1), waterLevel(0.8, 10, 30); fresh >= late || fresh <= 0.8 {
		t.Errorf("levels %v and %v: older news must make draws more even", fresh, late)
	}
}

// Slices of all nodes reach every machine about equally often, and begin and end with what a node has in flight.
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
			t.Fatalf("%d machines, %d nodes, width %d: a machine is in %d to %d slices", n, nodes, width, lo, hi)
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
		t.Errorf("a node with nothing to do uses %d machines, want its slice of %d", len(seen), sliceLeast)
	}
	for id := range seen { // the slice has no room: all are looked at
		w.load(id, 10)
	}
	if id := w.pick(); seen[id] || id == "" {
		t.Errorf("picked %q of a slice that is at its soft limit", id)
	}
}

func TestPackFillsInOrder(t *testing.T) {
	w := newWorld(t, Pack{}, Limits{Soft: 2, Hard: 3})
	var ids []MachineID
	for i := range 5 {
		ids = append(ids, MachineID(fmt.Sprint("m", i)))
		w.put(ids[i], "nrt", nil)
	}
	w.put("far", "fra", nil)
	slices.SortFunc(ids, func(a, b MachineID) int {
		return CompareCanonical(&Machine{ID: a, App: "web"}, &Machine{ID: b, App: "web"})
	})
	var got []MachineID
	for range 12 {
		r, err := w.b.Pick(Request{App: "web"})
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, r.Machine().ID)
	}
	for i := range 10 {
		if got[i] != ids[i/2] {
			t.Fatalf("filled %v, want two each of %v", got, ids)
		}
	}
	if got[10] != "far" || got[11] != "far" {
		t.Errorf("with all near ones at soft: %v, want the next region", got[10:])
	}
	if r, err := w.b.Pick(Request{App: "web"}); err != nil || r.Machine().Region != "nrt" {
		t.Errorf("with all at soft: %v, want the nearest below hard", err)
	}
}

// Regions that are equally near are one.
func TestNearRegionsAreMerged(t *testing.T) {
	f := newFleet(t, "edge", "a")
	b, err := New(f, Config{Distance: distances{"a": 10 * time.Millisecond, "b": 11 * time.Millisecond, "c": 30 * time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	apply(t, f, PutApp{App{ID: "web", Limits: Limits{Soft: 10}}})
	for _, r := range []string{"a", "b", "c"} {
		apply(t, f, PutMachine{machine(MachineID(r), r, Started), Version{1, 1}})
	}
	got := map[MachineID]int{}
	for range 10 {
		r, err := b.Pick(Request{App: "web"})
		if err != nil {
			t.Fatal(err)
		}
		got[r.Machine().ID]++
	}
	if got["a"] != 5 || got["b"] != 5 {
		t.Errorf("10 requests went to %v, want 5 to each of the near ones", got)
	}
}

// SpillAt Hard leaves a region only when all its machines are at their hard limit.
func TestStrictLocality(t *testing.T) {
	w := newWorld(t, Closest{SpillAt: Hard}, Limits{Soft: 1, Hard: 3})
	w.put("near", "nrt", nil)
	w.put("far", "fra", nil)
	for i := range 6 {
		r, err := w.b.Pick(Request{App: "web"})
		if err != nil {
			t.Fatal(err)
		}
		if want := []MachineID{"near", "far"}[i/3]; r.Machine().ID != want {
			t.Errorf("request %d went to %s, want %s", i, r.Machine().ID, want)
		}
	}
}

func TestExplain(t *testing.T) {
	w := newWorld(t, nil, Limits{Soft: 1, Hard: 2})
	w.put("n1", "nrt", nil)
	w.put("h1", "hkg", nil)
	w.put("h2", "hkg", nil)
	w.load("n1", 1)
	x, err := w.b.Explain(Request{App: "web", Tried: []MachineID{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	if want := "all in nrt are at their soft limit; h1 in hkg: tier ready, load 0, of 1 usable there"; x.Why != want {
		t.Errorf("why: %q, want %q", x.Why, want)
	}
	if x.Picked.ID != "h1" || len(x.Regions) != 2 || x.Regions[0].Busy != 1 || x.Regions[1].Excluded != 1 || x.Regions[1].Best[0].ID != "h1" || x.Strategy != "balance.Closest" {
		t.Errorf("%+v", x)
	}
	if near, far := x.Regions[0], x.Regions[1]; !near.Known || near.RTT >= far.RTT || far.RTT == 0 {
		t.Errorf("round trips: %v (%v), %v (%v)", near.RTT, near.Known, far.RTT, far.Known)
	}
	if n := w.b.InFlight("web"); n != 1 {
		t.Errorf("explaining counted something in: %d in flight", n)
	}
	if _, err := w.b.Explain(Request{App: "none"}); err == nil {
		t.Error("an unknown app was explained")
	}
	x, err = w.b.Explain(Request{App: "web", Tried: []MachineID{"n1", "h1", "h2"}})
	if err != nil || x.Err == nil || x.Picked.ID != "" {
		t.Errorf("nothing usable: %+v, %v", x, err)
	}
}

func TestTraceSamples(t *testing.T) {
	f := newFleet(t, "edge", "nrt")
	var seen []Explanation
	b, err := New(f, Config{Trace: &Trace{Every: 4, Picked: func(x Explanation) { seen = append(seen, x) }}})
	if err != nil {
		t.Fatal(err)
	}
	apply(t, f, PutMachine{machine("m", "nrt", Started), Version{1, 1}})
	for range 400 {
		r, err := b.Pick(Request{App: "web"})
		if err != nil {
			t.Fatal(err)
		}
		r.Release(Done)
	}
	if n := len(seen); n < 50 || n > 170 || !strings.HasPrefix(seen[0].Why, "m in nrt") {
		t.Errorf("%d of 400 picks were traced, want about a quarter", n)
	}
	if _, err := New(f, Config{Trace: &Trace{Every: -1}}); err == nil {
		t.Error("Every -1 was taken")
	}
}
