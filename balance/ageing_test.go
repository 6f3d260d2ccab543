package balance

import (
	"fmt"
	"testing"
	"time"
)

// clock moves a world's balancer through its ticks.
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

// try sends n requests one by one; those that reach a machine in bad end as o. It returns how many did.
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
			r.Release(Done)
		}
	}
	return hit
}

func (w *world) tier(id MachineID) (t Tier) {
	w.b.Loads("web", func(m *Machine, c Candidate) bool {
		if m.ID == id {
			t = c.Tier
		}
		return true
	})
	return t
}

func TestOutliersAreEjectedAndProbed(t *testing.T) {
	w := newWorld(t, nil, Limits{Soft: 10, Hard: 20})
	for i := range 4 {
		w.put(MachineID(fmt.Sprint("m", i)), "nrt", nil)
	}
	c := w.clock()
	sick := map[MachineID]bool{"m2": true}
	for range 100 { // it fails at once
		w.try(50, sick, Errored)
		c.pass(tickEvery)
		if w.tier("m2") == TierFailing {
			break
		}
	}
	for _, step := range []struct {
		after time.Duration
		hits  int
	}{
		{0, 0},
		{29 * time.Second, 0},
		{2 * time.Second, 1}, // the probe alone
		{31 * time.Second, 0},
		{30 * time.Second, 1}, // the second ejection lasts twice as long
	} {
		c.pass(step.after)
		if hit := w.try(500, sick, Errored); hit != step.hits {
			t.Errorf("%v later %d of 500 requests went to the sick machine, want %d", step.after, hit, step.hits)
		}
		c.pass(tickEvery)
	}
	c.pass(91 * time.Second)
	w.try(200, nil, Errored) // it has recovered
	c.pass(time.Second)
	if hit := w.try(400, sick, Done); w.tier("m2") != TierReady || hit < 60 {
		t.Errorf("after recovery: tier %v, %d of 400 requests", w.tier("m2"), hit)
	}
}

// Client cancels say nothing about the machine, nor do bounces.
func TestCancelsNeverEject(t *testing.T) {
	for _, o := range []Outcome{Canceled, Bounced} {
		w := newWorld(t, nil, Limits{Soft: 10})
		w.put("m0", "nrt", nil)
		w.put("m1", "nrt", nil)
		c := w.clock()
		for range 20 {
			w.try(20, map[MachineID]bool{"m1": true}, o)
			c.pass(tickEvery)
		}
		if w.tier("m1") != TierReady {
			t.Errorf("outcome %v put a machine into tier %v", o, w.tier("m1"))
		}
	}
}

// Of a fleet half of which fails, no more is ejected than may be; what all fail ejects nobody. The share of ejected machines
// is that after the ejection.
func TestNotAllAreEjected(t *testing.T) {
	for _, tt := range []struct{ bad, want int }{{3, 3}, {4, 3}, {6, 0}} {
		w := newWorld(t, nil, Limits{Soft: 10, Hard: 20})
		bad := map[MachineID]bool{}
		for i := range 6 {
			id := MachineID(fmt.Sprint("m", i))
			bad[id] = i < tt.bad
			w.put(id, "nrt", nil)
		}
		c := w.clock()
		out := 0
		for range 600 {
			w.try(60, bad, Errored)
			c.pass(tickEvery)
			n := 0
			for id := range bad {
				if w.tier(id) == TierFailing {
					n++
				}
			}
			out = max(out, n)
		}
		if out != tt.want {
			t.Errorf("%d of 6 fail: at most %d are ejected, want %d", tt.bad, out, tt.want)
		}
	}
	for _, c := range []struct {
		n, out int
		share  float64
		want   bool
	}{{1, 0, 0.5, false}, {2, 0, 0.1, true}, {3, 1, 0.5, false}, {3, 0, 0.34, true}, {10, 4, 0.5, true}, {10, 5, 0.5, false}} {
		if got := ejectable(c.n, c.out, c.share); got != c.want {
			t.Errorf("one more of %d with %d out at %v: %v", c.n, c.out, c.share, got)
		}
	}
}

// The last ones are used however sick they are: panic is about health, never about limits.
func TestPanicKeepsHardLimits(t *testing.T) {
	w := newWorld(t, nil, Limits{Soft: 1, Hard: 2})
	for _, id := range []MachineID{"m0", "m1"} {
		w.put(id, "nrt", func(m *Machine) { m.Health = Failing })
	}
	for range 4 {
		r, err := w.b.Pick(Request{App: "web"})
		if err != nil {
			t.Fatal(err)
		}
		w.held["all"] = append(w.held["all"], r)
	}
	_, err := w.b.Pick(Request{App: "web"})
	want := `balance: no machine of app "web" available: 2 seen, 2 unhealthy and full`
	if err == nil || err.Error() != want {
		t.Errorf("fifth of four slots:\n%q, want\n%q", err, want)
	}
}

func TestSlowStart(t *testing.T) {
	w := newWorld(t, nil, Limits{Soft: 10})
	apply(t, w.f, PutApp{App{ID: "web", Limits: Limits{Soft: 10}, SlowStart: 10 * time.Second}})
	w.put("old", "nrt", nil)
	w.put("new", "nrt", func(m *Machine) { m.State = Starting })
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
			all[i].Release(Done)
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
	if n := w.try(30, map[MachineID]bool{"later": true}, Done); n < 9 {
		t.Errorf("a machine that has run all the time took %d of 30", n)
	}
}

// What an owner says in a bounce counts before the row that says it arrives.
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
		r.Release(Bounced)
	}
	bounce("a", Load{InFlight: 20, Limits: Limits{10, 20}, State: Started, Seq: 1})
	for range 10 {
		w.want("b")
	}
	bounce("b", Load{State: Stopping, Seq: 1})
	if id := w.pick(); id != "" {
		t.Errorf("picked %q: one is full, the other stops", id)
	}
	c.pass(300 * time.Millisecond)
	w.want("a") // full no more
	w.f.Report(Report{App: "web", ID: "b", Load: Load{State: Started, Seq: 2, Cordon: CordonSoft, CordonGen: 1}})
	if got := w.pick("a"); got != "b" {
		t.Errorf("a machine that reports that it runs: %q", got)
	}
	for range 10 {
		w.want("a") // b is cordoned, says its owner
	}
	w.put("b", "nrt", func(m *Machine) { m.CordonGen = 1 })
	if n := w.try(10, map[MachineID]bool{"b": true}, Done); n == 0 {
		t.Error("the row says that the cordon is over, and nobody goes there")
	}
}
