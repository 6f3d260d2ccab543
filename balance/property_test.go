package balance

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Scaling all loads and all limits, and all distances, changes nothing for Closest.
func TestScalingChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type mach struct{ region, soft, load int }
		ms := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) mach {
			return mach{
				rapid.IntRange(0, 2).Draw(t, "region"), rapid.IntRange(1, 4).Draw(t, "soft"),
				rapid.IntRange(0, 5).Draw(t, "load"),
			}
		}), 1, 8).Draw(t, "machines")
		pick := func(times int) MachineID {
			f, _ := NewFleet(FleetConfig{Node: "edge", Region: "r0"})
			b, _ := New(f, Config{Distance: distances{"r0": time.Duration(times) * 10 * time.Millisecond, "r1": time.Duration(times) * 60 * time.Millisecond, "r2": time.Duration(times) * 200 * time.Millisecond}})
			for i, x := range ms {
				m := machine(MachineID(fmt.Sprint("m", i)), fmt.Sprint("r", x.region), StateStarted)
				m.Limits = Limits{Soft: x.soft * times}
				if err := f.Apply(PutMachine{m, Version{1, 1}}); err != nil {
					t.Fatal(err)
				}
				c := (*f.apps.Load())["web"].cells.find(m.ID)
				c.count.Store(uint64(x.load * times))
				c.rescore(c.count.Load())
			}
			r, err := b.Pick(Request{App: "web", Rand: 5})
			if err != nil {
				t.Fatal(err)
			}
			return r.Machine().ID
		}
		if a, b := pick(1), pick(8); a != b {
			t.Fatalf("%+v: picked %s, and %s when all is eight times as much", ms, a, b)
		}
	})
}

// What LeastLoad picks is within one request of the least that it could have looked at.
func TestLeastLoadIsWithinOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		loads := rapid.SliceOfN(rapid.IntRange(0, 30), 1, 40).Draw(t, "loads")
		f, _ := NewFleet(FleetConfig{Node: "edge", Region: "r0"})
		b, _ := New(f, Config{Strategy: LeastLoad{}, Distance: far{}})
		least := math.MaxInt
		for i, n := range loads {
			m := machine(MachineID(fmt.Sprint("m", i)), fmt.Sprintf("r%02d", i%4), StateStarted)
			m.Limits = Limits{Soft: 10}
			if err := f.Apply(PutMachine{m, Version{1, 1}}); err != nil {
				t.Fatal(err)
			}
			c := (*f.apps.Load())["web"].cells.find(m.ID)
			c.count.Store(uint64(n))
			c.rescore(c.count.Load())
			least = min(least, n)
		}
		r, err := b.Pick(Request{App: "web"})
		if err != nil {
			t.Fatal(err)
		}
		if n := r.row.cell.own() - 1; n > least+1 {
			t.Fatalf("picked a machine with %d, the least has %d", n, least)
		}
	})
}

// 64 goroutines pick, observe and release while machines come, go, change and age: no hard limit is
// exceeded, no snapshot is torn, no count is negative, and all counts return to zero.
func TestUnderContention(t *testing.T) {
	for name, s := range map[string]Strategy{"closest": nil, "leastload": LeastLoad{}, "pack": Pack{}} {
		t.Run(name, func(t *testing.T) {
			const hard, machines = 3, 20
			w := newWorld(t, s, Limits{Soft: 2, Hard: hard})
			var inside [machines]atomic.Int64
			var over, torn, negative atomic.Int64
			for i := range machines {
				w.put(MachineID(fmt.Sprintf("m%02d", i)), []string{"nrt", "hkg"}[i%2], nil)
			}
			stop := make(chan struct{})
			var changes, work sync.WaitGroup
			changes.Go(func() {
				now := time.Unix(0, 0)
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					m := machine(
						MachineID(fmt.Sprintf("m%02d", i%machines)), []string{"nrt", "hkg"}[i%machines%2], State(i%7),
					)
					w.f.Apply(PutMachine{m, Version{1, uint64(1000 + i)}})
					if i%5 == 0 { // never below a machine that is counted in: its cell would be new
						w.f.Apply(
							PutMachine{machine("x", "nrt", StateStarted), Version{1, uint64(1000 + i)}},
							RemoveMachine{"web", "x", Version{1, uint64(1001 + i)}},
						)
					}
					now = now.Add(50 * time.Millisecond)
					w.b.Tick(now)
					w.f.Report(
						Report{
							App: "web", ID: m.ID, Load: Load{InFlight: i % 5, State: StateStarted, Seq: uint64(i)},
						},
					)
				}
			})
			changes.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					s, _ := w.f.App("web")
					n, last := 0, MachineID("")
					for m := range s.All() {
						if m.ID == last {
							torn.Add(1)
						}
						last = m.ID
						n++
					}
					if n != s.Len() || n < machines {
						torn.Add(1)
					}
					if w.b.InFlight("web") < 0 {
						negative.Add(1)
					}
				}
			})
			for g := range 64 {
				work.Go(func() {
					for i := range 150 {
						r, err := w.b.Pick(Request{App: "web"})
						if err != nil {
							if !errors.Is(err, ErrNoMachine) {
								t.Error(err)
							}
							continue
						}
						var k int
						fmt.Sscanf(string(r.Machine().ID), "m%d", &k)
						if r.Machine().ID != "x" && inside[k].Add(1) > hard {
							over.Add(1)
						}
						if i%3 == 0 {
							r.Observe(
								Load{
									InFlight: i % 4, Limits: Limits{2, hard}, State: StateStarted, Seq: uint64(g*1000 + i),
								},
							)
						}
						if r.Machine().ID != "x" {
							inside[k].Add(-1)
						}
						r.Release(Outcome(i % 4))
					}
				})
			}
			work.Wait()
			close(stop)
			changes.Wait()
			if over.Load()+torn.Load()+negative.Load() > 0 {
				t.Errorf(
					"%d above the hard limit, %d torn snapshots, %d negative counts", over.Load(), torn.Load(),
					negative.Load(),
				)
			}
			if n := w.b.InFlight("web"); n != 0 {
				t.Errorf("%d in flight after all releases", n)
			}
			s, _ := w.f.App("web") // and each word agrees with its cell
			for m := range s.rows() {
				if got, want := m.cell.score.Load()&^keep, m.cell.compute(m.cell.count.Load()); got != want {
					t.Errorf("%s: word %x, its cell says %x", m.id, got, want)
				}
			}
		})
	}
}

// Older observations change nothing; a machine of which nothing was heard for long, or ever, looks
// like the others.
func TestOldNewsNeverAttract(t *testing.T) {
	w := newWorld(t, nil, Limits{Soft: 100})
	for i := range 4 {
		w.put(MachineID(fmt.Sprint("m", i)), "nrt", nil)
	}
	c := w.clock()
	report := func(id MachineID, n int, seq uint64) bool {
		return w.f.Report(
			Report{App: "web", ID: id, Load: Load{InFlight: n, State: StateStarted, Seq: seq}},
		)
	}
	report("m3", 0, 1) // idle, and never heard of again
	for seq := uint64(1); seq < 200; seq++ {
		for _, id := range []MachineID{"m0", "m1", "m2"} {
			if !report(id, 40, seq) || report(id, 0, seq) || report(id, 0, seq-1) {
				t.Fatal("an older report was taken, or a newer one was not")
			}
		}
		c.pass(tickEvery)
	}
	for m, c := range w.b.Loads("web") {
		if c.Load < 38 {
			t.Errorf("%s: %v by estimate, want about 40 as the others", m.ID, c.Load)
		}
	}
	w.put("new", "nrt", nil)
	for m, c := range w.b.Loads("web") {
		if m.ID == "new" && c.Load < 38 {
			t.Errorf("a machine that nobody has heard of looks idle: %v", c.Load)
		}
	}
}

// Affinity moves only the keys that it must: those of a machine that leaves, and the newcomer's
// share.
func TestAffinityMovesLittle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 30).Draw(t, "machines")
		gone := MachineID(fmt.Sprintf("m%02d", rapid.IntRange(0, n-1).Draw(t, "leaves")))
		f, _ := NewFleet(FleetConfig{Node: "edge", Region: "nrt"})
		b, _ := New(f, Config{})
		for i := range n {
			f.Apply(
				PutMachine{machine(MachineID(fmt.Sprintf("m%02d", i)), "nrt", StateStarted), Version{1, 1}},
			)
		}
		homes := func() map[string]MachineID {
			m := map[string]MachineID{}
			for i := range 200 {
				k := fmt.Sprint("key", i)
				r, err := b.Pick(Request{App: "web", Key: k})
				if err != nil {
					t.Fatal(err)
				}
				m[k] = r.Machine().ID
				r.Release(OutcomeDone)
			}
			return m
		}
		before := homes()
		f.Apply(RemoveMachine{"web", gone, Version{1, 2}})
		for k, m := range homes() {
			if before[k] != gone && m != before[k] {
				t.Fatalf("%s moved from %s to %s when %s left", k, before[k], m, gone)
			}
		}
		f.Apply(PutMachine{machine(gone, "nrt", StateStarted), Version{1, 3}})
		for k, m := range homes() {
			if m != before[k] {
				t.Fatalf("%s is at %s after %s came back, was at %s", k, m, gone, before[k])
			}
		}
	})
}

// One app's flood, limits and failures are its own.
func TestAppsAreIsolated(t *testing.T) {
	f := newFleet(t, "edge", "nrt")
	b, err := New(f, Config{})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []AppID{"flooded", "calm"} {
		apply(t, f, PutApp{App{ID: id, Limits: Limits{Soft: 2, Hard: 4}}})
		for i := range 3 {
			m := machine(MachineID(fmt.Sprint(id, i)), "nrt", StateStarted)
			m.App = id
			apply(t, f, PutMachine{m, Version{1, 1}})
		}
	}
	var held []Reservation
	for {
		r, err := b.Pick(Request{App: "flooded"})
		if err != nil {
			break
		}
		held = append(held, r)
	}
	if len(held) != 12 || b.InFlight("flooded") != 12 || b.InFlight("calm") != 0 {
		t.Errorf(
			"%d, %d and %d in flight, want 12, 12 and 0", len(held), b.InFlight("flooded"),
			b.InFlight("calm"),
		)
	}
	for i := range held {
		held[i].Release(OutcomeError)
	}
	for m, c := range b.Loads("calm") {
		if c.Load != 0 || c.Full() {
			t.Errorf("%s of the calm app: %+v", m.ID, c)
		}
	}
	apply(t, f, PutApp{App{ID: "calm", Limits: Limits{Soft: 1, Hard: 1}}}) // limits change live
	n := 0
	for ; ; n++ {
		if _, err := b.Pick(Request{App: "calm"}); err != nil {
			break
		}
	}
	if n != 3 {
		t.Errorf("%d picks under a hard limit of 1 on three machines", n)
	}
	apply(t, f, PutApp{App{ID: "calm", Limits: Limits{Hard: 2}}})
	if _, err := b.Pick(Request{App: "calm"}); err != nil {
		t.Errorf("after the limit was raised: %v", err)
	}
}

// FuzzUpdates feeds the update path with invalid input: it never causes a panic or a wrong pick.
func FuzzUpdates(f *testing.F) {
	f.Add(
		[]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24},
	)
	f.Add(
		[]byte("PutMachine RemoveMachine NodeGone PutApp RemoveApp and again, in any order there is"),
	)
	f.Fuzz(fuzzOne)
}

func fuzzOne(t *testing.T, data []byte) {
	fl := newFleet(t, "edge", "nrt")
	b, err := New(fl, Config{Distance: distances{"nrt": -5, "hkg": 1 << 60}})
	if err != nil {
		t.Fatal(err)
	}
	next := func() int {
		if len(data) == 0 {
			return 0
		}
		x := int(data[0])
		data = data[1:]
		return x
	}
	names := []string{"", "a", "b", "c"}
	now := time.Unix(0, 0)
	for len(data) > 0 {
		app, id := AppID(names[next()%4]), MachineID(names[next()%4])
		v := Version{uint64(next() % 4), uint64(next() % 8)}
		switch next() % 8 {
		case 0:
			fl.Apply(PutApp{App{ID: app, Limits: Limits{Soft: next()%5 - 1, Hard: next()%5 - 1}, SlowStart: time.Duration(next()-1) * time.Second}})
		case 1:
			fl.Apply(RemoveApp{app})
		case 2:
			fl.Apply(RemoveMachine{app, id, v})
		case 3:
			fl.Apply(NodeGone{NodeID(names[next()%4]), v.Incarnation})
		case 4:
			fl.Report(Report{App: app, ID: id, Load: Load{InFlight: next() - 100, Limits: Limits{next(), next()}, State: State(next()), Seq: uint64(next())}, Incarnation: v.Incarnation})
		case 5:
			now = now.Add(time.Duration(next()-100) * 100 * time.Millisecond)
			b.Tick(now)
		default:
			fl.Apply(PutMachine{Machine{
				ID: id, App: app, Region: names[next()%4], Owner: NodeID(names[next()%4]), State: State(next() % 9), Health: Health(next() % 4),
				Cordon: Cordon(
					next() % 4,
				), Limits: Limits{Soft: next()%5 - 1, Hard: next()%5 - 1}, Epoch: uint64(next()), Recent: next()%2 == 0,
			}, v})
		}
		r, err := b.Pick(Request{App: app, Tried: []MachineID{MachineID(names[next()%4])}})
		if err != nil {
			continue
		}
		if m := r.Machine(); m.State != StateStarted || m.Cordon == CordonHard || m.App != app {
			t.Fatalf("picked %+v for app %q", m, app)
		}
		r.Observe(
			Load{
				InFlight: next(), Limits: Limits{next(), next()}, State: State(next()), Seq: uint64(next()),
				Epoch: uint64(next()),
			},
		)
		r.Release(Outcome(next() % 6))
		if n := b.InFlight(app); n != 0 {
			t.Fatalf("%d in flight after the release", n)
		}
	}
}

// A machine that leaves and comes back under its ID counts from zero, whatever its earlier self
// still has in flight.
func TestComesBackAnew(t *testing.T) {
	w := newWorld(t, nil, Limits{Soft: 2, Hard: 3})
	w.put("m", "nrt", nil)
	w.load("m", 3)
	old := w.held["m"]
	c := w.clock()
	apply(t, w.f, RemoveMachine{"web", "m", Version{1, 100}})
	c.pass(time.Second)
	w.seq = 200
	w.put("m", "nrt", nil)
	w.put("other", "hkg", nil)
	if n := w.b.InFlight("web"); n != 0 {
		t.Errorf("the new one begins with %d in flight", n)
	}
	for i := range old {
		old[i].Observe(Load{InFlight: 3, Limits: Limits{2, 3}, Seq: 9, State: StateStarted})
		old[i].Release(OutcomeError)
	}
	for m, c := range w.b.Loads("web") {
		if c.Own != 0 || c.Load != 0 || c.Full() {
			t.Errorf("%s after its former self's requests have ended: %+v", m.ID, c)
		}
	}
	w.want("m")
}

// The quick search of a view finds what a look at each machine finds.
func TestLeastAgreesWithLooking(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f, _ := NewFleet(FleetConfig{Node: "edge", Region: "nrt"})
		b, _ := New(f, Config{})
		n := rapid.IntRange(1, 64).Draw(t, "machines")
		for i := range n {
			m := machine(MachineID(fmt.Sprint("m", i)), "nrt", StateStarted)
			m.Cordon = rapid.SampledFrom([]Cordon{CordonNone, CordonSoft, CordonHard}).Draw(t, "cordon")
			m.Limits = Limits{Soft: rapid.IntRange(1, 5).Draw(t, "soft"), Hard: 6}
			f.Apply(PutMachine{m, Version{1, 1}})
			c := (*f.apps.Load())["web"].cells.find(m.ID)
			c.count.Store(uint64(rapid.IntRange(0, 6).Draw(t, "load")))
			c.rescore(c.count.Load())
		}
		v, _ := b.View("web")
		r := Request{App: "web", Tried: []MachineID{"m0", "m3"}}
		var best Candidate
		found := false
		for tier := range TierNone {
			for j := range v.Len(0, tier) {
				var c Candidate
				if v.Usable(v.Slot(0, tier, j), &r, &c) &&
					(!found || c.Tier == best.Tier && (!c.Busy() && best.Busy() || c.Busy() == best.Busy() && c.Use() < best.Use())) {
					best, found = c, true
				}
			}
		}
		s, ok := least(v, 0, &r)
		if ok != found {
			t.Fatalf("the quick look found %v, the slow one %v", ok, found)
		}
		var c Candidate
		if ok &&
			(!v.Usable(s, &r, &c) || c.Tier != best.Tier || c.Busy() != best.Busy() || math.Abs(c.Use()-best.Use()) > 1e-3) {
			t.Fatalf("the quick look found %+v, the slow one %+v", c, best)
		}
	})
}

// least looks at region i as the built-in strategies do.
func least(v *View, i int, r *Request) (Slot, bool) {
	l := newScan(v, r, 0)
	b := found{w: noUse}
	l.region(i, &b)
	return b.slot, b.w < noUse
}
