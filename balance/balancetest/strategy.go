package balancetest

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ebbkit/ebb/balance"
	"pgregory.net/rapid"
)

// TestStrategy checks that a strategy keeps the contract of [balance.Strategy], whatever it
// prefers. For strategies that are to use every machine, run [TestSpreads] too.
func TestStrategy(t *testing.T, newStrategy func() balance.Strategy) {
	clause := func(name string, check func(t *rapid.T, s balance.Strategy)) {
		t.Run(name, rapid.MakeCheck(func(t *rapid.T) { check(t, newStrategy()) }))
	}
	clause("a picked machine runs, takes more, and is not excluded", func(t *rapid.T, s balance.Strategy) {
		ms := drawMachines(t, 12)
		r := drawRequest(t, ms)
		id, ok := newWorld(t, s, ms).pick(t, s, r)
		if m := find(ms, id); ok && (!m.usable() || !admits(r, m)) {
			t.Fatalf("picked %s, %d in flight, for %+v; %q", show(m), m.load, r, "a picked machine runs, takes more, and is not excluded")
		}
	})
	clause("ok is false only when no machine is usable", func(t *rapid.T, s balance.Strategy) {
		ms := drawMachines(t, 12)
		r := drawRequest(t, ms)
		_, ok := newWorld(t, s, ms).pick(t, s, r)
		for i := range ms {
			if m := &ms[i]; !ok && m.usable() && admits(r, m) {
				t.Fatalf("nothing picked although %s could serve %+v; %q", show(m), r, "ok is false only when no machine is usable")
			}
		}
	})
	clause("a worse tier only when no better one has a usable machine", func(t *rapid.T, s balance.Strategy) {
		ms := drawMachines(t, 12)
		r := drawRequest(t, ms)
		id, ok := newWorld(t, s, ms).pick(t, s, r)
		if !ok {
			return
		}
		for i := range ms {
			if m := &ms[i]; m.usable() && admits(r, m) && m.tier() < find(ms, id).tier() {
				t.Fatalf("picked %s although %s is usable; %q", show(find(ms, id)), show(m), "a worse tier only when no better one has a usable machine")
			}
		}
	})
	clause("an equal view and an equal request give an equal answer", func(t *rapid.T, s balance.Strategy) {
		ms := drawMachines(t, 12)
		r := drawRequest(t, ms)
		w := newWorld(t, s, ms)
		first, ok := w.pick(t, s, r)
		for range 3 {
			if again, k := w.pick(t, s, r); again != first || k != ok {
				t.Fatalf("first %q, then %q; %q", first, again, "an equal view and an equal request give an equal answer")
			}
		}
	})
	clause("an unusable row changes nothing", func(t *rapid.T, s balance.Strategy) {
		ms := drawMachines(t, 12)
		r := drawRequest(t, ms)
		first, _ := newWorld(t, s, ms).pick(t, s, r)
		extra := machine{Machine: balance.Machine{ID: "extra", App: app, Owner: "w", Region: ms[0].Region, State: balance.StateStopped}}
		if again, _ := newWorld(t, s, append(ms[:len(ms):len(ms)], extra)).pick(t, s, r); again != first {
			t.Fatalf("a stopped machine in %s changed the pick from %q to %q; %q", ms[0].Region, first, again, "an unusable row changes nothing")
		}
	})
	clause("the order of the rows changes nothing, or only what chance does", func(t *rapid.T, s balance.Strategy) {
		ms := drawMachines(t, 6)
		a := newWorld(t, s, ms).shares(t, s)
		b := newWorld(t, s, rapid.Permutation(ms).Draw(t, "order")).shares(t, s)
		off := 0.0
		for id := range a {
			off += max(0, a[id]-b[id])
		}
		if off > 0.35 {
			t.Fatalf("shares %v became %v; %q", a, b, "the order of the rows changes nothing, or only what chance does")
		}
	})
	t.Run("no allocations", func(t *testing.T) {
		s := newStrategy()
		w := newWorld(t, s, equals(200))
		v, _ := w.b.View(app)
		for name, r := range map[string]balance.Request{"plain": {App: app, Rand: 7}, "tried": {App: app, Rand: 7, Tried: []balance.MachineID{"m000", "m001"}}, "key": {App: app, Rand: 7, Key: "user"}} {
			s.Pick(v, r)
			if n := testing.AllocsPerRun(1000, func() { s.Pick(v, r) }); n > 0 {
				t.Errorf("%s: %v allocations; %q", name, n, "Pick does not allocate")
			}
		}
	})
	t.Run("safe for concurrent use, and no hard limit is passed", func(t *testing.T) {
		ms := equals(10)
		for i := range ms {
			ms[i].Limits = balance.Limits{Soft: 2, Hard: 3}
		}
		w := newWorld(t, newStrategy(), ms)
		counts := map[balance.MachineID]*atomic.Int64{}
		for i := range ms {
			counts[ms[i].ID] = new(atomic.Int64)
		}
		var over atomic.Int64
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				for range 100 {
					r, err := w.b.Pick(balance.Request{App: app})
					if err != nil {
						continue // full
					}
					n := counts[r.Machine().ID]
					if n.Add(1) > 3 {
						over.Add(1)
					}
					n.Add(-1)
					r.Release(balance.OutcomeDone)
				}
			})
		}
		wg.Wait()
		if n := over.Load(); n > 0 {
			t.Errorf("%d times above the hard limit; %q", n, "a hard limit is never passed")
		}
		if n := w.b.InFlight(app); n != 0 {
			t.Errorf("%d in flight after all were released", n)
		}
	})
}

// TestSpreads checks that a strategy gives every usable machine of a region a chance, for
// strategies that promise it.
func TestSpreads(t *testing.T, newStrategy func() balance.Strategy) {
	for _, n := range []int{2, 10, 64, 100} {
		s := newStrategy()
		w := newWorld(t, s, equals(n))
		seen := map[balance.MachineID]bool{}
		for range 200 * n {
			r, err := w.b.Pick(balance.Request{App: app})
			if err != nil {
				t.Fatal(err)
			}
			seen[r.Machine().ID] = true
			r.Release(balance.OutcomeDone)
		}
		if len(seen) < n {
			t.Errorf("%d of %d equal machines were picked in %d requests; %q", len(seen), n, 200*n, "every usable machine has a chance")
		}
	}
}

// equals returns n identical machines.
func equals(n int) []machine {
	ms := make([]machine, n)
	for i := range ms {
		ms[i] = machine{Machine: balance.Machine{ID: balance.MachineID([]byte{'m', byte('0' + i/100), byte('0' + i/10%10), byte('0' + i%10)}), App: app, Owner: "w", Region: "nrt", State: balance.StateStarted}}
	}
	return ms
}

// shares runs the strategy with many random bits.
func (w *world) shares(t fataler, s balance.Strategy) map[balance.MachineID]float64 {
	const n = 400
	got := map[balance.MachineID]float64{}
	// not a plain sequence: a strategy's own generator could turn it into the same draws over and over
	bits := rand.NewPCG(1, 2)
	for range n {
		id, _ := w.pick(t, s, balance.Request{Rand: max(1, bits.Uint64())})
		got[id] += 1.0 / n
	}
	return got
}

func drawRequest(t *rapid.T, ms []machine) balance.Request {
	r := balance.Request{Rand: rapid.Uint64Min(1).Draw(t, "rand")}
	some := func(label string) (ids []balance.MachineID) {
		for range rapid.IntRange(0, 3).Draw(t, label) {
			ids = append(ids, ms[rapid.IntRange(0, len(ms)-1).Draw(t, "which")].ID)
		}
		return ids
	}
	r.Tried = some("tried")
	if rapid.IntRange(0, 3).Draw(t, "with key") == 0 {
		r.Key = rapid.SampledFrom([]string{"user1", "user2", "user3"}).Draw(t, "key")
	}
	if rapid.IntRange(0, 3).Draw(t, "with target") == 0 {
		r.Force = &balance.Target{Machines: some("forced"), Revision: rapid.SampledFrom([]string{"", "v1"}).Draw(t, "revision")}
	}
	return r
}

// admits says in the simplest way whether the request may go to a machine.
func admits(r balance.Request, m *machine) bool {
	for _, id := range r.Tried {
		if id == m.ID {
			return false
		}
	}
	if r.Force == nil {
		return true
	}
	forced := len(r.Force.Machines) == 0
	for _, id := range r.Force.Machines {
		forced = forced || id == m.ID
	}
	return forced && (r.Force.Revision == "" || r.Force.Revision == m.Revision)
}

func find(ms []machine, id balance.MachineID) *machine {
	for i := range ms {
		if ms[i].ID == id {
			return &ms[i]
		}
	}
	return nil
}

// show formats a machine for a failure's message.
func show(m *machine) string {
	return string(m.ID) + " (" + m.tier().String() + ", " + m.Region + ", " + m.Revision + ")"
}
