package balance

import (
	"strings"
	"testing"
)

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
	if x.Picked.ID != "h1" || len(x.Regions) != 2 || x.Regions[0].Busy != 1 ||
		x.Regions[1].Excluded != 1 ||
		x.Regions[1].Best[0].ID != "h1" ||
		x.Strategy != "balance.Closest" {
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
	b, err := New(
		f, Config{Trace: Trace{Every: 4, Picked: func(x Explanation) { seen = append(seen, x) }}},
	)
	if err != nil {
		t.Fatal(err)
	}
	apply(t, f, PutMachine{machine("m", "nrt", StateStarted), Version{1, 1}})
	for range 400 {
		r, err := b.Pick(Request{App: "web"})
		if err != nil {
			t.Fatal(err)
		}
		r.Release(OutcomeDone)
	}
	if n := len(seen); n < 50 || n > 170 || !strings.HasPrefix(seen[0].Why, "m in nrt") {
		t.Errorf("%d of 400 picks were traced, want about a quarter", n)
	}
	if _, err := New(f, Config{Trace: Trace{Every: -1}}); err == nil {
		t.Error("Every -1 was taken")
	}
}
