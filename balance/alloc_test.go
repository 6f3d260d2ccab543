package balance

import (
	"fmt"
	"testing"
)

func benchFleet(tb testing.TB, regions, perRegion int, l Limits) (*Fleet, *Balancer) {
	tb.Helper()
	f, err := NewFleet(FleetConfig{Node: "edge", Region: "r00"})
	if err != nil {
		tb.Fatal(err)
	}
	b, err := New(f, Config{})
	if err != nil {
		tb.Fatal(err)
	}
	us := []Update{PutApp{App{ID: "web", Limits: l}}}
	for r := range regions {
		for i := range perRegion {
			us = append(us, PutMachine{Machine{ID: MachineID(fmt.Sprintf("m%02d-%05d", r, i)), App: "web", Region: fmt.Sprintf("r%02d", r), Owner: "w", State: StateStarted}, Version{1, 1}})
		}
	}
	if err := f.Apply(us...); err != nil {
		tb.Fatal(err)
	}
	return f, b
}

func TestHotPathDoesNotAllocate(t *testing.T) {
	f, b := benchFleet(t, 3, 30, Limits{Soft: 10, Hard: 20})
	pick := func(r Request) func() {
		return func() {
			res, err := b.Pick(r)
			if err != nil {
				t.Fatal(err)
			}
			res.Observe(Load{InFlight: 3, Limits: Limits{Soft: 10, Hard: 20}, Seq: 1})
			res.Release(OutcomeDone)
		}
	}
	seq := uint64(10)
	for name, op := range map[string]func(){
		"pick":        pick(Request{App: "web"}),
		"pick by key": pick(Request{App: "web", Key: "user-7"}),
		"pick, tried": pick(Request{App: "web", Tried: []MachineID{"m00-00001", "m00-00002"}}),
		"load report": func() { seq++; f.Report(Report{App: "web", ID: "m00-00001", Load: Load{InFlight: 4, Seq: seq}}) },
		"known apps":  func() { b.View("web") },
	} {
		if n := testing.AllocsPerRun(1000, op); n != 0 {
			t.Errorf("%s: %v allocations, want 0", name, n)
		}
	}
}
