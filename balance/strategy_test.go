package balance

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

type distances map[string]time.Duration

func (d distances) RTT(region string) (time.Duration, bool) { rtt, ok := d[region]; return rtt, ok }

// world is a small fleet in which rows read as a story: machine, state, limits, requests of this node in flight.
type world struct {
	testing.TB
	f    *Fleet
	b    *Balancer
	seq  uint64
	held map[MachineID][]Reservation
}

func newWorld(t testing.TB, s Strategy, l Limits) *world {
	t.Helper()
	f := newFleet(t, "edge", "nrt")
	b, err := New(f, Config{Strategy: s, Distance: distances{"nrt": time.Millisecond, "hkg": 50 * time.Millisecond, "fra": 230 * time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	apply(t, f, PutApp{App{ID: "web", Limits: l}})
	return &world{TB: t, f: f, b: b, held: map[MachineID][]Reservation{}}
}

func (w *world) put(id MachineID, region string, change func(*Machine)) {
	w.Helper()
	w.seq++
	m := machine(id, region, Started)
	if change != nil {
		change(&m)
	}
	apply(w, w.f, PutMachine{m, Version{1, w.seq}})
}

// load puts n requests of this node on a machine.
func (w *world) load(id MachineID, n int) {
	w.Helper()
	s := mustApp(w, w.f)
	var others []MachineID
	for m := range s.All() {
		if m.ID != id {
			others = append(others, m.ID)
		}
	}
	for range n {
		r, err := w.b.Pick(Request{App: "web", Tried: others})
		if err != nil {
			w.Fatal(err)
		}
		w.held[id] = append(w.held[id], r)
	}
}

func (w *world) pick(tried ...MachineID) MachineID {
	w.Helper()
	r, err := w.b.Pick(Request{App: "web", Tried: tried})
	if err != nil {
		return ""
	}
	defer r.Release(Done)
	return r.Machine().ID
}

func (w *world) want(id MachineID, tried ...MachineID) {
	w.Helper()
	if got := w.pick(tried...); got != id {
		w.Errorf("picked %q, want %q", got, id)
	}
}

func TestClosest(t *testing.T) {
	w := newWorld(t, nil, Limits{Soft: 2, Hard: 3})
	w.put("far", "fra", nil)
	w.put("mid", "hkg", nil)
	w.put("n1", "nrt", nil)
	w.put("n2", "nrt", nil)
	w.put("nowhere", "xyz", nil) // no distance known: never near
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
	w.want("mid") // a cordoned one only when nothing plain is left
	w.load("mid", 1)
	w.load("far", 1)
	w.load("nowhere", 1)
	w.want("n3")
	w.put("n4", "nrt", func(m *Machine) { m.Health, m.Recent = Failing, true })
	w.want("n4", "n3") // coming up is worse than cordoned
	w.put("n5", "nrt", func(m *Machine) { m.Health = Failing })
	w.want("n5", "n3", "n4")
	w.put("n6", "nrt", func(m *Machine) { m.Cordon = CordonHard })
	w.put("n7", "nrt", func(m *Machine) { m.State = Starting })
	w.want("", "n3", "n4", "n5")
	for _, rs := range w.held {
		for i := range rs {
			rs[i].Release(Done)
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

func TestRepliesMoveTheEstimate(t *testing.T) {
	w := newWorld(t, nil, Limits{Soft: 10, Hard: 20})
	w.put("a", "nrt", nil)
	w.put("b", "nrt", nil)
	r, err := w.b.Pick(Request{App: "web"})
	if err != nil {
		t.Fatal(err)
	}
	first := r.Machine().ID
	r.Observe(Load{InFlight: 8, Limits: Limits{Soft: 10, Hard: 20}, Seq: 7}) // seven of them are others'
	r.Observe(Load{InFlight: 1, Seq: 6})                                     // older: dropped
	r.Release(Done)
	second := MachineID("a")
	if first == "a" {
		second = "b"
	}
	w.load(second, 5)
	w.want(second) // 5 against 7
	w.load(second, 3)
	w.want(first) // 8 against 7
	w.f.Report(Report{App: "web", ID: first, Load: Load{InFlight: 20, Limits: Limits{Soft: 10, Hard: 20}, Seq: 8}})
	w.want(second) // the owner just said "full"
	w.put(first, "nrt", func(m *Machine) { m.Epoch = 1 })
	w.want(first) // started again: what was heard of the old run is void
}

func TestSilenceFadesToTheMean(t *testing.T) {
	w := newWorld(t, nil, Limits{})
	for i := range 4 {
		id := MachineID(fmt.Sprint("m", i))
		w.put(id, "nrt", nil)
		w.f.Report(Report{App: "web", ID: id, Load: Load{InFlight: 10 * i, Seq: 1}})
	}
	w.put("silent", "nrt", nil)
	now := time.Unix(0, 0)
	w.b.Tick(now)
	loads := func() map[MachineID]float64 {
		got := map[MachineID]float64{}
		w.b.Loads("web", func(m *Machine, c Candidate) bool { got[m.ID] = c.Load; return true })
		return got
	}
	w.b.Tick(now.Add(100 * time.Millisecond))
	if l := loads(); l["silent"] < 10 {
		t.Errorf("a machine nobody heard of looks idle: %v", l)
	}
	w.b.Tick(now.Add(time.Minute))
	w.b.Tick(now.Add(time.Second)) // a clock that goes back changes nothing
	for id, l := range loads() {
		if l < 13 || l > 17 {
			t.Errorf("%s after a minute of silence: %v, want about the mean of 15", id, l)
		}
	}
}

func TestFailuresCountAsLoad(t *testing.T) {
	w := newWorld(t, nil, Limits{Soft: 10})
	w.put("good", "nrt", nil)
	w.put("sick", "nrt", nil)
	w.load("good", 3)
	sick := 0
	for range 100 { // fails at once, so it would always look idle
		r, err := w.b.Pick(Request{App: "web"})
		if err != nil {
			t.Fatal(err)
		}
		o := Done
		if r.Machine().ID == "sick" {
			sick++
			o = Errored
		}
		r.Release(o)
	}
	if sick > 5 {
		t.Errorf("a machine that fails fast took %d of 100 requests", sick)
	}
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
		defer r.Release(Done)
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
				m := machine("", rapid.SampledFrom(regions).Draw(t, "region"), rapid.SampledFrom([]State{Started, Started, Started, Stopped, Starting}).Draw(t, "state"))
				m.Cordon = rapid.SampledFrom([]Cordon{CordonNone, CordonNone, CordonSoft, CordonHard}).Draw(t, "cordon")
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
					m := machine("extra", "nrt", Stopped)
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
				if m.State == Started && m.Cordon != CordonHard && m.n < 4 {
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
			case m.State != Started || m.Cordon == CordonHard:
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
	r.Release(Done)
	defer func() {
		if recover() == nil {
			t.Error("a second release went unnoticed")
		}
	}()
	r.Release(Done)
}
