package balance

import (
	"testing"
	"time"
)

func newFleet(t testing.TB, node NodeID, region string) *Fleet {
	t.Helper()
	f, err := NewFleet(FleetConfig{Node: node, Region: region})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func machine(id MachineID, region string, s State) Machine {
	return Machine{ID: id, App: "web", Region: region, Owner: "w", State: s}
}

func apply(t testing.TB, f *Fleet, us ...Update) {
	t.Helper()
	if err := f.Apply(us...); err != nil {
		t.Fatal(err)
	}
}

func rows(f *Fleet) (all []Machine) {
	s, ok := f.App("web")
	if !ok {
		return nil
	}
	for m := range s.All() {
		all = append(all, *m)
	}
	return all
}

func mustApp(t testing.TB, f *Fleet) *Snapshot {
	t.Helper()
	s, ok := f.App("web")
	if !ok {
		t.Fatal("no app web")
	}
	return s
}

type distances map[string]time.Duration

func (d distances) RTT(region string) (time.Duration, bool) { rtt, ok := d[region]; return rtt, ok }

// world is a small fleet in which rows are easy to read: machine, state, limits, requests of this
// node in flight.
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
	m := machine(id, region, StateStarted)
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
	defer r.Release(OutcomeDone)
	return r.Machine().ID
}

func (w *world) want(id MachineID, tried ...MachineID) {
	w.Helper()
	if got := w.pick(tried...); got != id {
		w.Errorf("picked %q, want %q", got, id)
	}
}

// clock steps a world's balancer through its ticks.
type clock struct {
	w   *world
	now time.Time
}

func (c *clock) pass(d time.Duration) {
	for range d / tickEvery {
		c.now = c.now.Add(tickEvery)
		c.w.b.Tick(c.now)
	}
}

func (w *world) clock() *clock {
	c := &clock{w, time.Unix(0, 0)}
	c.w.b.Tick(c.now)
	return c
}

// try sends n requests one by one; those that reach a machine in bad end as o. It returns how many
// did.
func (w *world) try(n int, bad map[MachineID]bool, o Outcome) (hit int) {
	w.Helper()
	for range n {
		r, err := w.b.Pick(Request{App: "web"})
		if err != nil {
			w.Fatal(err)
		}
		if bad[r.Machine().ID] {
			hit++
			r.Release(o)
		} else {
			r.Release(OutcomeDone)
		}
	}
	return hit
}

func (w *world) tier(id MachineID) (t Tier) {
	for m, c := range w.b.Loads("web") {
		if m.ID == id {
			t = c.Tier
		}
	}
	return t
}
