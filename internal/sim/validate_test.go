package sim

import (
	"math"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
)

const ms = time.Millisecond

// one is a world of one machine next to one edge, for which theory has the answer. n is about how
// many requests.
func one(n int, load float64, slots int, fifo bool, work Dist) World {
	length := time.Duration(float64(n) / (load * float64(slots)) * float64(work.Mean()))
	return World{
		Name: "one", Regions: Uniform(1, 1, 1), RTT: Line(1, 0, 0),
		Slots: slots, FIFO: fifo, Work: work, Load: load, Length: length, Warm: length / 20,
		Reports: Reports{Every: length}, // nobody asks
	}
}

// erlangC is the probability that an arrival at M/M/c has to wait.
func erlangC(c int, load float64) float64 {
	a := load * float64(c)
	sum, term := 0.0, 1.0
	for k := range c {
		sum += term
		term *= a / float64(k+1)
	}
	last := term / (1 - load)
	return last / (sum + last)
}

func TestAgainstTheory(t *testing.T) {
	work := 10 * ms
	n := 200_000
	switch {
	case raceEnabled:
		n = 5_000
	case testing.Short():
		n = 20_000
	}
	for _, c := range []struct {
		name string
		w    World
		want float64 // mean time at the machine, in units of the mean work
	}{
		{"M/M/1 at 50 %", one(n, 0.5, 1, true, Exponential(work)), 2},
		{"M/M/1 at 80 %", one(n, 0.8, 1, true, Exponential(work)), 5},
		{"M/D/1 at 80 %", one(n, 0.8, 1, true, Always(work)), 1 + 0.8/(2*0.2)},
		{"M/G/1 at 60 %, lognormal", one(n, 0.6, 1, true, Lognormal(work, 0.5)), 1 + 0.6*math.Exp(0.25)/(2*0.4)},
		{"M/M/4 at 80 %", one(n, 0.8, 4, true, Exponential(work)), 1 + erlangC(4, 0.8)/(4*0.2)},
		{"M/M/20 at 90 %", one(n, 0.9, 20, true, Exponential(work)), 1 + erlangC(20, 0.9)/(20*0.1)},
		// Processor sharing takes the same mean whatever the distribution.
		{"M/M/1-PS at 70 %", one(n, 0.7, 1, false, Exponential(work)), 1 / 0.3},
		{"M/D/1-PS at 70 %", one(n, 0.7, 1, false, Always(work)), 1 / 0.3},
		{"M/G/1-PS at 70 %, bimodal", one(n, 0.7, 1, false, Bimodal(5*ms, 105*ms, 0.05)), 1 / 0.3},
		{"M/G/1-PS at 50 %, lognormal", one(n, 0.5, 1, false, Lognormal(work, 1)), 2},
		// Shared by all beyond c, exponential work makes it M/M/c.
		{"M/M/4-PS at 80 %", one(n, 0.8, 4, false, Exponential(work)), 1 + erlangC(4, 0.8)/(4*0.2)},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := mustRun(t, c.w, Random(), 1)
			got := float64(r.Mean) / float64(c.w.Work.Mean())
			// The relative error of the mean of n samples that are correlated over 1/(1-load) of
			// them; 6 is generous.
			room := 6 * math.Sqrt(squares(c.w.Work)/2/float64(n)) / (1 - c.w.Load)
			if math.Abs(got/c.want-1) > room {
				t.Errorf("mean time %.3f x the work, want %.3f within %.1f %%", got, c.want, 100*room)
			}
			t.Logf("mean time %.3f x the work, theory %.3f (%+.1f %%)", got, c.want, 100*(got/c.want-1))
			little(t, &r)
		})
	}
}

// squares is the mean of the squared work over the square of its mean.
func squares(d Dist) float64 {
	switch d.shape {
	case exponential:
		return 2
	case lognormal:
		return math.Exp(d.sigma * d.sigma)
	case bimodal:
		return (d.pShort*d.pShort*(1-d.pLong) + d.long*d.long*d.pLong) / (d.mean * d.mean)
	}
	return 1
}

// Two choices with exact knowledge among many machines: the supermarket model, whose mean is known
// for infinitely many.
func TestTwoChoices(t *testing.T) {
	if raceEnabled {
		t.Skip("one goroutine has nothing to find for the race detector, and fewer machines are no theory")
	}
	const machines, load, seconds = 300, 0.9, 8.0
	w := World{
		Name: "supermarket", Regions: Uniform(1, machines, 1), RTT: Line(1, 0, 0), Slots: 1, FIFO: true, Work: Exponential(10 * ms), Load: load,
		Length: time.Duration(seconds * 1e9), Warm: 1500 * ms, Reports: Reports{Every: time.Hour},
	}
	want := 0.0
	for i := 1; i < 12; i++ {
		want += math.Pow(load, math.Exp2(float64(i))-2)
	}
	r := mustRun(t, w, TwoNearest(), 1)
	if got := float64(r.Mean) / float64(w.Work.Mean()); math.Abs(got/want-1) > 0.05 {
		t.Errorf("mean time %.3f x the work, want %.3f", got, want)
	} else {
		t.Logf("mean time %.3f x the work, theory %.3f for infinitely many machines", got, want)
	}
	if shortest := mustRun(t, w, Shortest(), 1); shortest.Mean > r.Mean || shortest.Mean > 11*ms*11/10 {
		t.Errorf("mean time %v with the shortest of all queues: want hardly more than the work", shortest.Mean)
	}
}

// little checks Little's law on a run of one machine at no distance: the mean number in flight,
// integrated at the machine, is the rate of arrivals times the mean time measured at the edge.
func little(t *testing.T, r *Result) {
	t.Helper()
	rate := float64(r.Requests) / r.Elapsed.Seconds()
	got, want := r.Machines[0].Load, rate*r.meanOfAll.Seconds()
	if math.Abs(got/want-1) > 1e-6 {
		t.Errorf("%v in flight on average, want rate x time = %v", got, want)
	}
}

// Every request ends once, whatever happens, and afterwards no count is left in flight.
func TestConservation(t *testing.T) {
	w := World{
		Name: "turmoil", Regions: Uniform(3, 6, 2), Limits: balance.Limits{Soft: 4, Hard: 5}, FIFO: true,
		Work: Lognormal(60*ms, 1), Load: 1.1, Length: 8 * time.Second, Skew: 1,
		Boot: Exponential(500 * ms), Stop: Exponential(200 * ms), Rows: time.Second, RowJitter: time.Second,
		Reports:  Reports{Every: 200 * ms, Delay: 500 * ms, Loss: 0.2},
		Burst:    Burst{Factor: 4, On: 200 * ms, Off: 500 * ms},
		Deadline: 2 * time.Second,
		Stopped:  func(i int) bool { return i%6 == 5 },
		Script: []Step{
			{1 * time.Second, func(s *Sim) { s.SetSick(0, true); s.SetSpeed(1, 0.1); s.Crash(2) }},
			{2 * time.Second, func(s *Sim) { s.Start(2); s.Start(5); s.Restart(3); s.SetDemand(1, 3); s.SetDemand(2, 0) }},
			{3 * time.Second, func(s *Sim) {
				s.SetSick(0, false)
				s.SetSpeed(1, 1)
				s.Stop(4)
				s.Crash(3)
				s.Cordon(6)
				s.SetDark(7, true)
			}},
			{4 * time.Second, func(s *Sim) {
				s.SetDemand(1, 1)
				s.SetDemand(2, 1)
				s.Start(4)
				s.Start(3)
				s.Uncordon(6, 1)
				s.SetDark(7, false)
			}},
		},
	}

	rules := append(References(), Balanced("closest", nil), Balanced("leastload", balance.LeastLoad{}))
	if raceEnabled {
		w.Work = Lognormal(300*ms, 1) // a fifth of the requests
		rules = rules[len(rules)-2:]
	}
	for _, queue := range []bool{false, true} {
		w.Queue = queue
		for _, rule := range rules {
			s, err := newSim(w, rule, 7)
			if err != nil {
				t.Fatal(err)
			}
			s.run()
			r := s.result(rule)

			ended := 0
			for _, n := range r.Ends {
				ended += n
			}
			if ended != r.Requests || r.Unfinished != 0 {
				t.Errorf("%s: %d requests, %d ended, %d unfinished", rule.Name, r.Requests, ended, r.Unfinished)
			}
			if r.Requests < 1000 || r.Ends[Served] == 0 || !queue && r.Ends[TimedOut] > 0 {
				t.Errorf("%s: %d requests ended as %v: not the turmoil that was meant", rule.Name, r.Requests, r.Ends)
			}
			for i := range s.machines {
				m := &s.machines[i]
				if m.inFlight != 0 || m.coming != 0 || m.gate.InFlight() != 0 || m.most > 5 {
					t.Errorf("%s: machine %d: %d in flight, %d by its gate, %d on the way; most %d, hard limit 5", rule.Name, i, m.inFlight, m.gate.InFlight(), m.coming, m.most)
				}
			}
			for i := range s.edges {
				if b := s.Balancer(i); b != nil && b.InFlight(app) != 0 {
					t.Errorf("%s: edge %d: the balancer counts %d in flight", rule.Name, i, b.InFlight(app))
				}
				if s.edges[i].tries != 0 || len(s.edges[i].parked) != 0 {
					t.Errorf("%s: edge %d: %d tries, %d parked", rule.Name, i, s.edges[i].tries, len(s.edges[i].parked))
				}
			}
		}
	}
}

// Equal seeds give equal results, whatever ran before; different seeds give different ones, and all
// rules meet the same requests.
func TestRepeatable(t *testing.T) {
	w := World{Name: "again", Regions: Uniform(2, 5, 3), Limits: balance.Limits{Soft: 5, Hard: 8}, Work: Exponential(50 * ms), Load: 0.8, Length: 5 * time.Second, Queue: true}
	var requests []int
	for _, rule := range []Rule{Balanced("closest", nil), Prequal()} {
		a, b, c := mustRun(t, w, rule, 3), mustRun(t, w, rule, 3), mustRun(t, w, rule, 4)
		if a.String() != b.String() || a.Mean != b.Mean || a.Max != b.Max {
			t.Errorf("equal seeds differ:\n%v\n%v", &a, &b)
		}
		if a.Mean == c.Mean {
			t.Errorf("another seed gives the same mean %v", a.Mean)
		}
		requests = append(requests, a.Requests)
	}
	if requests[0] != requests[1] {
		t.Errorf("rules met %v requests: want the same", requests)
	}
}

func TestWorldRefuses(t *testing.T) {
	good := one(100, 0.5, 1, true, Exponential(ms))
	for name, spoil := range map[string]func(*World){
		"no regions":   func(w *World) { w.Regions = nil },
		"no machines":  func(w *World) { w.Regions = Uniform(1, 0, 1) },
		"no work":      func(w *World) { w.Work = Dist{} },
		"no load":      func(w *World) { w.Load = 0 },
		"no length":    func(w *World) { w.Length = 0 },
		"all warm":     func(w *World) { w.Warm = w.Length },
		"wrong matrix": func(w *World) { w.RTT = Line(2, 0, 0) },
		"wrong limits": func(w *World) { w.Limits = balance.Limits{Soft: 2, Hard: 1} },
		"wrong burst":  func(w *World) { w.Burst.Factor = 0.5 },
		"one process":  func(w *World) { w.OneProcess, w.Regions = true, Uniform(1, 1, 2) },
		"grants":       func(w *World) { w.Grants = true },
		"wrong loss":   func(w *World) { w.Reports.Loss = 2 },
		"wrong poison": func(w *World) { w.Poison = 2 },
	} {
		w := good
		spoil(&w)
		if _, err := Run(w, Random(), 1); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func mustRun(t testing.TB, w World, rule Rule, seed uint64) Result {
	t.Helper()
	r, err := Run(w, rule, seed)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
