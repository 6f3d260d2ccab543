package balance

import (
	"fmt"
	"testing"
	"time"
)

func TestSlowStart(t *testing.T) {
	w := newWorld(t, nil, Limits{Soft: 10})
	apply(t, w.f, PutApp{App{ID: "web", Limits: Limits{Soft: 10}, SlowStart: 10 * time.Second}})
	w.put("old", "nrt", nil)
	w.put("new", "nrt", func(m *Machine) { m.State = StateStarting })
	c := w.clock()
	w.put("new", "nrt", func(m *Machine) { m.Epoch = 1 })
	share := func() (n int) {
		var all []Reservation
		for range 12 {
			r, err := w.b.Pick(Request{App: "web"})
			if err != nil {
				t.Fatal(err)
			}
			if r.Machine().ID == "new" {
				n++
			}
			all = append(all, r)
		}
		for i := range all {
			all[i].Release(OutcomeDone)
		}
		return n
	}
	if n := share(); n < 1 || n > 3 {
		t.Errorf("a machine that has just started took %d of 12 at once", n)
	}
	c.pass(5 * time.Second)
	if n := share(); n < 3 || n > 5 {
		t.Errorf("half way through it took %d of 12 at once, want a third", n)
	}
	c.pass(6 * time.Second)
	if n := share(); n < 5 {
		t.Errorf("after slow start it took %d of 12", n)
	}
	w.put("later", "nrt", nil) // known as started from the first: no slow start
	if n := w.try(30, map[MachineID]bool{"later": true}, OutcomeDone); n < 9 {
		t.Errorf("a machine that has run all the time took %d of 30", n)
	}
}

// What an owner says in a bounce counts before the row that says the same arrives.
func TestBouncesTeach(t *testing.T) {
	w := newWorld(t, nil, Limits{Soft: 10, Hard: 20})
	w.put("a", "nrt", nil)
	w.put("b", "nrt", nil)
	c := w.clock()
	bounce := func(id MachineID, l Load) {
		other := MachineID("a")
		if id == "a" {
			other = "b"
		}
		r, err := w.b.Pick(Request{App: "web", Tried: []MachineID{other}})
		if err != nil {
			t.Fatal(err)
		}
		r.Observe(l)
		r.Release(OutcomeBounced)
	}
	bounce("a", Load{InFlight: 20, Limits: Limits{10, 20}, State: StateStarted, Seq: 1})
	for range 10 {
		w.want("b")
	}
	bounce("b", Load{State: StateStopping, Seq: 1})
	if id := w.pick(); id != "" {
		t.Errorf("picked %q: one is full, the other stops", id)
	}
	c.pass(300 * time.Millisecond)
	w.want("a") // no longer full
	w.f.Report(
		Report{
			App: "web", ID: "b", Load: Load{State: StateStarted, Seq: 2, Cordon: CordonSoft, CordonGen: 1},
		},
	)
	if got := w.pick("a"); got != "b" {
		t.Errorf("a machine that reports that it runs: %q", got)
	}
	for range 10 {
		w.want("a") // b is cordoned, by its owner's report
	}
	w.put("b", "nrt", func(m *Machine) { m.CordonGen = 1 })
	if n := w.try(10, map[MachineID]bool{"b": true}, OutcomeDone); n == 0 {
		t.Error("the row says that the cordon is over, and nobody goes there")
	}
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
	// seven of them are others'
	r.Observe(Load{InFlight: 8, Limits: Limits{Soft: 10, Hard: 20}, Seq: 7})
	r.Observe(Load{InFlight: 1, Seq: 6}) // older: dropped
	r.Release(OutcomeDone)
	second := MachineID("a")
	if first == "a" {
		second = "b"
	}
	w.load(second, 5)
	w.want(second) // 5 against 7
	w.load(second, 3)
	w.want(first) // 8 against 7
	w.f.Report(
		Report{
			App: "web", ID: first, Load: Load{InFlight: 20, Limits: Limits{Soft: 10, Hard: 20}, Seq: 8},
		},
	)
	w.want(second) // the owner just said "full"
	w.put(first, "nrt", func(m *Machine) { m.Epoch = 1 })
	w.want(first) // restarted: reports about the old run are invalid
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
		for m, c := range w.b.Loads("web") {
			got[m.ID] = c.Load
		}
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
		o := OutcomeDone
		if r.Machine().ID == "sick" {
			sick++
			o = OutcomeError
		}
		r.Release(o)
	}
	if sick > 5 {
		t.Errorf("a machine that fails fast took %d of 100 requests", sick)
	}
}
