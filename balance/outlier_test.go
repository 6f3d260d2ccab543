package balance

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// traffic holds the requests of one node to a world's machines, tick by tick.
type traffic struct {
	*world
	*clock
	rand *rand.Rand
	rate float64 // requests per tick
	hold float64 // mean ticks that an answer takes; failures are immediate
	// fails reports whether request n fails, at that machine.
	fails func(n int, id MachineID) bool

	n, tick int
	pending []pending
	failed  map[MachineID]int // failures by machine
}

type pending struct {
	r   Reservation
	end int // tick
}

func newTraffic(t testing.TB, seed uint64, l Limits) *traffic {
	w := newWorld(t, nil, l)
	return &traffic{
		world: w, clock: w.clock(), rand: rand.New(rand.NewPCG(seed, 1)), rate: 10, hold: 1,
		failed: map[MachineID]int{},
	}
}

// pass runs some ticks and returns the machines that were out at one of them.
func (t *traffic) pass(ticks int) (out map[MachineID]bool) {
	out = map[MachineID]bool{}
	for range ticks {
		t.tick++
		left := t.pending[:0]
		for _, p := range t.pending {
			if p.end > t.tick {
				left = append(left, p)
				continue
			}
			p.r.Release(OutcomeDone)
		}
		t.pending = left
		for n := t.rate; n > 0; n-- {
			if n < 1 && t.rand.Float64() > n {
				break
			}
			t.one()
		}
		t.clock.pass(tickEvery)
		v, _ := t.b.View("web")
		for i := range v.Regions() {
			for j := range v.Len(i, TierFailing) {
				out[v.Machine(v.Slot(i, TierFailing, j)).ID] = true
			}
		}
	}
	return out
}

func (t *traffic) one() {
	t.n++
	r, err := t.b.Pick(Request{App: "web", Rand: t.rand.Uint64() | 1})
	if err != nil {
		return // all at their hard limits
	}
	id := r.Machine().ID
	switch {
	case t.fails(t.n, id):
		t.failed[id]++
		r.Release(OutcomeError)
	case t.hold == 0:
		r.Release(OutcomeDone)
	default:
		t.pending = append(t.pending, pending{r, t.tick + int(t.rand.ExpFloat64()*t.hold)})
	}
}

func names(n int, regions ...string) (ids []MachineID, of map[MachineID]string) {
	of = map[MachineID]string{}
	for i := range n {
		id := MachineID(fmt.Sprint("m", i))
		ids = append(ids, id)
		of[id] = regions[i%len(regions)]
	}
	return ids, of
}

// Failures that occur on every machine say nothing about any: whatever their share of the requests,
// in whatever order they come, however many machines there are, and however little of the traffic
// this node sees.
func TestWhatFailsEverywhereEjectsNobody(t *testing.T) {
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 2))
		n := []int{1, 2, 2, 3, 5, 10, 30}[r.IntN(7)]
		regions := [][]string{{"nrt"}, {"nrt", "hkg"}, {"nrt", "nrt", "hkg", "fra"}}[r.IntN(3)]
		limits := []Limits{{}, {Soft: 5}, {Soft: 10, Hard: 20}}[r.IntN(3)]
		tr := newTraffic(t, seed, limits)
		tr.rate = []float64{0.1, 0.5, 2, 10, 40}[r.IntN(5)]
		tr.hold = []float64{0, 1, 5}[r.IntN(3)]
		share := []float64{0.01, 0.1, 0.5, 0.5, 0.5, 0.9, 1}[r.IntN(7)]
		kind := []string{"any order", "in turn", "in rows", "in outages"}[r.IntN(4)]
		switch kind {
		case "any order":
			tr.fails = func(int, MachineID) bool { return r.Float64() < share }
		case "in turn":
			tr.fails = func(n int, _ MachineID) bool { return float64(n%100) < 100*share && (share != 0.5 || n%2 == 0) }
		case "in rows":
			long := 1 + r.IntN(50)
			tr.fails = func(n int, _ MachineID) bool { return float64(n/long%10) < 10*share }
		case "in outages":
			long := 1 + r.IntN(500)
			tr.fails = func(n int, _ MachineID) bool { return n/long%4 == 3 }
		}
		ids, of := names(n, regions...)
		for _, id := range ids[:(n+1)/2] {
			tr.put(id, of[id], nil)
		}
		out := tr.pass(200)
		for _, id := range ids { // the others join, and those that were there restart
			tr.put(id, of[id], func(m *Machine) { m.Epoch++ })
		}
		for id := range tr.pass(int(min(3000, 200+4000/tr.rate))) {
			out[id] = true
		}
		if len(out) > 0 {
			t.Errorf(
				"seed %d: %.2f of all fail %s, %v requests per tick, %d machines in %v: %v were ejected after %d requests",
				seed, share, kind, tr.rate, n, regions, out, tr.n,
			)
		}
	}
}

// A machine that fails alone is ejected soon, and no other: within as few failures as the comment
// on outliers says.
func TestAMachineThatFailsAloneIsEjected(t *testing.T) {
	for _, tt := range []struct {
		machines int
		sick     float64 // share of failures there
		most     int     // failures until it is out
	}{
		{machines: 2, sick: 1, most: 40},
		{machines: 3, sick: 1, most: 28},
		{machines: 10, sick: 1, most: 14},
		{machines: 30, sick: 1, most: 10},
		{machines: 2, sick: 0.9, most: 100},
		{machines: 10, sick: 0.7, most: 40},
	} {
		for _, rate := range []float64{0.2, 5, 50} {
			for seed := range uint64(5) {
				tr := newTraffic(t, seed, Limits{Soft: 10})
				tr.rate = rate
				tr.fails = func(_ int, id MachineID) bool { return id == "m1" && tr.rand.Float64() < tt.sick }
				ids, of := names(tt.machines, "nrt")
				for _, id := range ids {
					tr.put(id, of[id], nil)
				}
				out := map[MachineID]bool{}
				for tr.tick < 3000 && !out["m1"] {
					out = tr.pass(1)
				}
				// A decision at one tick holds from the next one on.
				if most := tt.most + int(2*rate)/tt.machines; len(out) != 1 || !out["m1"] ||
					tr.failed["m1"] > most {
					t.Errorf(
						"%d machines, one fails %.2f of all, %v requests per tick, seed %d: out %v after %d ticks and %d failures, want at most %d",
						tt.machines, tt.sick, rate, seed, out, tr.tick, tr.failed["m1"], most,
					)
				}
			}
		}
	}
}

// If something fails everywhere as well, a machine that fails more is avoided, whether it is
// ejected or not.
func TestAMachineThatFailsMoreIsAvoided(t *testing.T) {
	for _, tt := range []struct {
		machines int
		poison   float64 // share of failures everywhere; the sick one fails everything
	}{{2, 0.02}, {2, 0.1}, {10, 0.1}, {3, 0.5}, {10, 0.5}} {
		for _, rate := range []float64{2, 20} {
			tr := newTraffic(t, 1, Limits{Soft: 10})
			tr.rate = rate
			tr.fails = func(_ int, id MachineID) bool { return id == "m1" || tr.rand.Float64() < tt.poison }
			ids, of := names(tt.machines, "nrt")
			for _, id := range ids {
				tr.put(id, of[id], nil)
			}
			out := tr.pass(1000)
			learned, n := tr.failed["m1"], tr.n
			for id := range tr.pass(2000) {
				out[id] = true
			}
			if delete(out, "m1"); len(out) > 0 {
				t.Errorf("%+v, %v requests per tick: ejected %v", tt, rate, out)
			}
			if share := float64(tr.failed["m1"]-learned) / float64(tr.n-n); share > 0.1/float64(
				tt.machines,
			) {
				t.Errorf(
					"%+v, %v requests per tick: the sick machine gets %.4f of the requests", tt, rate, share,
				)
			}
		}
	}
}

// The figures of the comment on outliers: how many failures in a row are enough evidence if a
// machine gets that share of the requests and nothing else fails.
func TestProof(t *testing.T) {
	for _, tt := range []struct{ share, want int }{{2, 32}, {3, 20}, {10, 10}, {32, 6}, {1000, 6}} {
		var p float64
		n := 0
		for ; p < certain; n++ {
			against, _ := tally{failed: 1}.proof(tally{ok: int32(tt.share - 1), failed: 1})
			p += against
		}
		if n != tt.want {
			t.Errorf("with 1/%d of the requests: %d failures are proof, want %d", tt.share, n, tt.want)
		}
	}
	for _, tt := range []struct{ its, all tally }{
		{tally{failed: 1000}, tally{failed: 2000}},              // all fail
		{tally{}, tally{ok: 1000}},                              // it has answered nothing
		{tally{ok: 1, failed: 3}, tally{ok: 10, failed: 10}},    // no more than chance
		{tally{ok: 30, failed: 10}, tally{ok: 900, failed: 90}}, // worse, but not clearly
		{tally{ok: -1, failed: 1}, tally{ok: -1, failed: 1}},    // counted before its end
		{},
	} {
		if against, pro := tt.its.proof(tt.all); !(against-pro < certain/4) {
			t.Errorf("%v among %v: proof of %v where there is none", tt.its, tt.all, against-pro)
		}
	}
}

// A machine that is alone in its app is never ejected; one that is alone in its region is, if
// others serve elsewhere.
func TestTheLastOneIsNotEjected(t *testing.T) {
	tr := newTraffic(t, 1, Limits{})
	tr.fails = func(_ int, id MachineID) bool { return id == "m0" }
	tr.put("m0", "nrt", nil)
	if out := tr.pass(600); len(out) > 0 {
		t.Errorf("the only machine was ejected: %v", out)
	}
	tr.put("m1", "hkg", nil)
	if out := tr.pass(600); len(out) != 1 || !out["m0"] {
		t.Errorf("the near machine fails everything, the far one nothing: out %v", out)
	}
}

// Failures that occur everywhere do not decide where requests go: load does.
func TestWhatFailsEverywhereDoesNotWeigh(t *testing.T) {
	tr := newTraffic(t, 1, Limits{Soft: 100})
	tr.hold, tr.rate = 5, 20
	tr.fails = func(n int, _ MachineID) bool { return tr.rand.IntN(2) == 0 }
	ids, of := names(4, "nrt")
	for _, id := range ids {
		tr.put(id, of[id], nil)
	}
	tr.pass(100)
	worst := 0.0
	for range 200 {
		tr.pass(1)
		for _, c := range tr.b.Loads("web") {
			worst = max(worst, c.Load-float64(c.Own)-c.Others)
		}
	}
	if worst > 8 {
		t.Errorf(
			"half of all requests fail everywhere, and count as up to %v requests at one machine", worst,
		)
	}
}

// The failures of one run do not count against the next.
func TestFailuresOfAnEarlierRunAreForgotten(t *testing.T) {
	w := newWorld(t, nil, Limits{Soft: 10})
	w.put("a", "nrt", nil)
	w.put("b", "nrt", nil)
	c := w.clock()
	var held []Reservation
	for range 40 {
		r, err := w.b.Pick(Request{App: "web"})
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, r)
	}
	c.pass(tickEvery)
	w.put("a", "nrt", func(m *Machine) { m.Epoch = 2 })
	for i := range held {
		if held[i].Machine().ID == "a" {
			held[i].Release(OutcomeError)
		} else {
			held[i].Release(OutcomeDone)
		}
		c.pass(tickEvery)
	}
	for m, c := range w.b.Loads("web") {
		if c.Load != 0 || c.Tier != TierReady {
			t.Errorf("%s: load %v, tier %v", m.ID, c.Load, c.Tier)
		}
	}
}

func TestOutliersAreEjectedAndProbed(t *testing.T) {
	w := newWorld(t, nil, Limits{Soft: 10, Hard: 20})
	for i := range 4 {
		w.put(MachineID(fmt.Sprint("m", i)), "nrt", nil)
	}
	c := w.clock()
	sick := map[MachineID]bool{"m2": true}
	for range 100 { // it fails at once
		w.try(50, sick, OutcomeError)
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
		if hit := w.try(500, sick, OutcomeError); hit != step.hits {
			t.Errorf(
				"%v later %d of 500 requests went to the sick machine, want %d", step.after, hit, step.hits,
			)
		}
		c.pass(tickEvery)
	}
	c.pass(91 * time.Second)
	w.try(200, nil, OutcomeError) // it has recovered
	c.pass(time.Second)
	if hit := w.try(400, sick, OutcomeDone); w.tier("m2") != TierReady || hit < 60 {
		t.Errorf("after recovery: tier %v, %d of 400 requests", w.tier("m2"), hit)
	}
}

// Client cancels say nothing about the machine, nor do bounces.
func TestCancelsNeverEject(t *testing.T) {
	for _, o := range []Outcome{OutcomeCanceled, OutcomeBounced} {
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

// If half of a fleet fails, no more than the permitted share is ejected; failures on all machines
// eject none. The share of ejected machines is that after the ejection.
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
			w.try(60, bad, OutcomeError)
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
		want   bool
	}{{1, 0, false}, {2, 0, true}, {3, 1, false}, {3, 0, true}, {10, 4, true}, {10, 5, false}} {
		if got := ejectable(c.n, c.out); got != c.want {
			t.Errorf("one more of %d with %d out: %v", c.n, c.out, got)
		}
	}
}

// The last machines are used however sick they are: this overrides health, never limits.
func TestPanicKeepsHardLimits(t *testing.T) {
	w := newWorld(t, nil, Limits{Soft: 1, Hard: 2})
	for _, id := range []MachineID{"m0", "m1"} {
		w.put(id, "nrt", func(m *Machine) { m.Health = HealthFailing })
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
