package balance

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestClosest(t *testing.T) {
	w := newWorld(t, nil, Limits{Soft: 2, Hard: 3})
	w.put("far", "fra", nil)
	w.put("mid", "hkg", nil)
	w.put("n1", "nrt", nil)
	w.put("n2", "nrt", nil)
	w.put("nowhere", "xyz", nil) // no distance known: never treated as near
	w.load("n1", 1)
	w.want("n2")
	w.want("n1", "n2") // tried machines are left out
	w.load("n1", 1)
	w.load("n2", 2)
	w.want("mid") // both near ones are at their soft limit
	w.load("mid", 2)
	w.load("far", 2)
	w.want("nowhere")
	w.load("nowhere", 2)
	if got := w.pick(); got != "n1" && got != "n2" {
		t.Errorf("all at soft: picked %q, want one of the nearest", got)
	}
	w.load("n1", 1)
	w.load("n2", 1)
	w.want("mid") // the near ones are at their hard limit
	w.put("n3", "nrt", func(m *Machine) { m.Cordon = CordonSoft })
	w.want("mid") // a cordoned one only if nothing plain is left
	w.load("mid", 1)
	w.load("far", 1)
	w.load("nowhere", 1)
	w.want("n3")
	w.put("n4", "nrt", func(m *Machine) { m.Health, m.Recent = HealthFailing, true })
	w.want("n4", "n3") // coming up is worse than cordoned
	w.put("n5", "nrt", func(m *Machine) { m.Health = HealthFailing })
	w.want("n5", "n3", "n4")
	w.put("n6", "nrt", func(m *Machine) { m.Cordon = CordonHard })
	w.put("n7", "nrt", func(m *Machine) { m.State = StateStarting })
	w.want("", "n3", "n4", "n5")
	for _, rs := range w.held {
		for i := range rs {
			rs[i].Release(OutcomeDone)
		}
	}
	if n := w.b.InFlight("web"); n != 0 {
		t.Errorf("%d in flight after all releases", n)
	}
}

func TestLeastLoad(t *testing.T) {
	w := newWorld(t, LeastLoad{}, Limits{Soft: 2})
	w.put("near", "nrt", nil)
	w.put("far", "fra", nil)
	w.load("near", 1)
	w.want("near") // within one request: the smaller round trip
	w.load("near", 1)
	w.want("far")
}

func TestAffinityHoldsAndYields(t *testing.T) {
	w := newWorld(t, nil, Limits{Soft: 2, Hard: 4})
	for i := range 5 {
		w.put(MachineID(fmt.Sprint("m", i)), "nrt", nil)
	}
	of := func(key string) MachineID {
		r, err := w.b.Pick(Request{App: "web", Key: key})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Release(OutcomeDone)
		return r.Machine().ID
	}
	home := map[string]MachineID{}
	used := map[MachineID]int{}
	for i := range 100 {
		k := fmt.Sprint("user", i)
		home[k] = of(k)
		used[home[k]]++
	}
	if len(used) != 5 {
		t.Errorf("100 keys went to %v", used)
	}
	w.put("m9", "nrt", nil)
	for k, m := range home {
		if now := of(k); now != m && now != "m9" {
			t.Errorf("%s moved from %s to %s when m9 came", k, m, now)
		}
	}
	w.load(home["user1"], 2)
	if m := of("user1"); m == home["user1"] {
		t.Error("affinity does not yield at the soft limit")
	}
}

// Relations that hold for every strategy of this package.
func TestStrategyRelations(t *testing.T) {
	for name, s := range map[string]Strategy{"closest": Closest{}, "leastload": LeastLoad{}} {
		t.Run(name, rapid.MakeCheck(func(t *rapid.T) {
			type mach struct {
				Machine
				n int
			}
			regions := []string{"nrt", "hkg", "fra"}
			ms := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) mach {
				m := machine(
					"", rapid.SampledFrom(regions).Draw(t, "region"),
					rapid.SampledFrom([]State{StateStarted, StateStarted, StateStarted, StateStopped, StateStarting}).
						Draw(t, "state"),
				)
				m.Cordon = rapid.SampledFrom([]Cordon{CordonNone, CordonNone, CordonSoft, CordonHard}).
					Draw(t, "cordon")
				m.Limits = Limits{Soft: 2, Hard: 4}
				return mach{m, rapid.IntRange(0, 4).Draw(t, "load")}
			}), 1, 12).Draw(t, "machines")
			pick := func(order []int, extra bool) (MachineID, *View, bool) {
				f, _ := NewFleet(FleetConfig{Node: "edge", Region: "nrt"})
				b, _ := New(f, Config{Strategy: s, Distance: distances{"nrt": 0, "hkg": 50, "fra": 200}})
				for _, i := range order {
					m := ms[i].Machine
					m.ID = MachineID(fmt.Sprint("m", i))
					if err := f.Apply(PutMachine{m, Version{1, 1}}); err != nil {
						t.Fatal(err)
					}
					c := (*f.apps.Load())["web"].cells.find(m.ID)
					c.count.Store(uint64(ms[i].n))
					c.rescore(c.count.Load())
				}
				if extra {
					m := machine("extra", "nrt", StateStopped)
					if err := f.Apply(PutMachine{m, Version{1, 1}}); err != nil {
						t.Fatal(err)
					}
				}
				v, _ := b.View("web")
				slot, ok := s.Pick(v, Request{App: "web", Rand: 7})
				if !ok {
					return "", v, false
				}
				return v.row(slot).id, v, true
			}
			order := make([]int, len(ms))
			for i := range order {
				order[i] = i
			}
			id, v, ok := pick(order, false)
			if again, _, _ := pick(rapid.Permutation(order).Draw(t, "order"), false); again != id {
				t.Fatalf("permuting the rows changed the pick from %q to %q", id, again)
			}
			if again, _, _ := pick(order, true); again != id {
				t.Fatalf("adding an unusable row changed the pick from %q to %q", id, again)
			}
			plain, usable := 0, 0
			for _, m := range ms {
				if m.State == StateStarted && m.Cordon != CordonHard && m.n < 4 {
					usable++
					if m.Cordon == CordonNone {
						plain++
					}
				}
			}
			if ok != (usable > 0) {
				t.Fatalf("%d usable machines, picked %q", usable, id)
			}
			if !ok {
				return
			}
			m, _ := v.snap.Machine(id)
			switch {
			case m.State != StateStarted || m.Cordon == CordonHard:
				t.Fatalf("picked an unusable machine %+v", m)
			case m.Cordon == CordonSoft && plain > 0:
				t.Fatalf("picked a soft-cordoned machine while %d plain ones were usable", plain)
			}
		}))
	}
}

// Beyond 64 machines some are drawn: distinct ones, and each has a chance.
func TestDrawsReachEverybody(t *testing.T) {
	w := newWorld(t, Closest{Choices: 2}, Limits{})
	for i := range 100 {
		w.put(MachineID(fmt.Sprintf("m%02d", i)), "nrt", nil)
	}
	seen := map[MachineID]int{}
	for range 5000 {
		seen[w.pick()]++
	}
	if len(seen) != 100 {
		t.Errorf("%d of 100 machines were ever picked", len(seen))
	}
}

func TestReleaseTwicePanics(t *testing.T) {
	w := newWorld(t, nil, Limits{})
	w.put("m", "nrt", nil)
	r, err := w.b.Pick(Request{App: "web"})
	if err != nil {
		t.Fatal(err)
	}
	r.Release(OutcomeDone)
	defer func() {
		if recover() == nil {
			t.Error("a second release went unnoticed")
		}
	}()
	r.Release(OutcomeDone)
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
		return (&Machine{ID: a, App: "web"}).Compare(&Machine{ID: b, App: "web"})
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

// Regions that are equally near count as one.
func TestNearRegionsAreMerged(t *testing.T) {
	f := newFleet(t, "edge", "a")
	b, err := New(f, Config{Distance: distances{"a": 10 * time.Millisecond, "b": 11 * time.Millisecond, "c": 30 * time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	apply(t, f, PutApp{App{ID: "web", Limits: Limits{Soft: 10}}})
	for _, r := range []string{"a", "b", "c"} {
		apply(t, f, PutMachine{machine(MachineID(r), r, StateStarted), Version{1, 1}})
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
	w := newWorld(t, Closest{SpillAt: -1}, Limits{Soft: 1, Hard: 3})
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
