package sim

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ebbkit/ebb/balance"
)

// The queue returns events by time, and events of equal times in the order of pushing.
func TestQueue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q queue
		var want []event
		sorted := func() { slices.SortStableFunc(want, func(a, b event) int { return int(a.at - b.at) }) }
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				at := rapid.Int64Range(0, 20).Draw(t, "at")
				q.push(at, evTick, int32(len(want)), 0)
				want = append(want, event{at: at, seq: q.seq, kind: evTick, a: int32(len(want))})
			},
			"pop": func(t *rapid.T) {
				if len(want) == 0 {
					t.Skip("empty")
				}
				sorted()
				if got := q.pop(); got != want[0] {
					t.Fatalf("popped %+v, want %+v", got, want[0])
				}
				want = want[1:]
			},
			"": func(t *rapid.T) {
				if len(q.heap) != len(want) {
					t.Fatalf("%d events, want %d", len(q.heap), len(want))
				}
			},
		})
	})
}

func TestDist(t *testing.T) {
	const n = 400_000
	for _, c := range []struct {
		name  string
		d     Dist
		sigma float64 // deviation, in seconds
	}{
		{"always", Always(40 * ms), 0},
		{"exponential", Exponential(40 * ms), 0.04},
		{"lognormal", Lognormal(40*ms, 1), 0.04 * math.Sqrt(math.E-1)},
		{"bimodal", Bimodal(10*ms, 310*ms, 0.1), 0.09},
	} {
		r := newRng(1, forWork, 0)
		sum, squared := 0.0, 0.0
		for range n {
			x := c.d.draw(r)
			sum += x
			squared += x * x
		}
		mean := sum / n
		sigma := math.Sqrt(max(0, squared/n-mean*mean))
		if math.Abs(mean-0.04) > 1e-4+5*c.sigma/math.Sqrt(n) || math.Abs(sigma-c.sigma) > 1e-6+0.03*c.sigma {
			t.Errorf("%s: mean %.4f s, deviation %.4f s: want 0.04 and %.4f", c.name, mean, sigma, c.sigma)
		}
		if c.d.Mean() != 40*ms {
			t.Errorf("%s: Mean is %v", c.name, c.d.Mean())
		}
	}
}

// quiet is a world of two regions 100 ms apart with one machine each and one edge in the first,
// with little traffic.
func quiet() World {
	return World{
		Name: "quiet", Regions: []Region{{Machines: 1, Edges: 1}, {Machines: 1}}, RTT: Line(2, 10*ms, 90*ms), Work: Always(20 * ms),
		Load: 0.1, Length: 4 * time.Second, Reports: Reports{Every: 100 * ms, Delay: 300 * ms, Jitter: -1},
		Rows: 500 * ms, Boot: Always(time.Second), Stop: Always(100 * ms),
	}
}

// Starts and stops of a machine take the configured time, and an edge sees them late.
func TestLifecycle(t *testing.T) {
	w := quiet()
	var log []string
	note := func(s *Sim, what string) {
		b := s.Balancer(0)
		snap, _ := b.Fleet().App(app)
		row, _ := snap.Machine(machineID(1))
		log = append(log, fmt.Sprintf("%v %s: is %v, seen as %v", s.Now(), what, s.State(1), row.State))
	}
	at := func(d time.Duration, what string, do func(s *Sim)) {
		w.Script = append(w.Script, Step{d, func(s *Sim) {
			if do != nil {
				do(s)
			}
			note(s, what)
		}})
	}
	at(100*ms, "stop", func(s *Sim) { s.Stop(1) })
	at(250*ms, "stopped", nil)
	at(650*ms, "start", func(s *Sim) { s.Start(1) })
	at(1149*ms, "not seen", nil)
	at(1151*ms, "seen", nil)
	at(1651*ms, "booted", nil)
	at(2151*ms, "seen", nil)
	at(2200*ms, "crash", func(s *Sim) { s.Crash(1) })
	at(2701*ms, "seen", nil)
	at(2800*ms, "restart of what is down", func(s *Sim) { s.Restart(1) })
	r := mustRun(t, w, Balanced(ours, nil), 1)
	want := `100ms stop: is stopping, seen as started
250ms stopped: is stopped, seen as started
650ms start: is starting, seen as stopping
1.149s not seen: is starting, seen as stopped
1.151s seen: is starting, seen as starting
1.651s booted: is started, seen as starting
2.151s seen: is started, seen as started
2.2s crash: is failed, seen as started
2.701s seen: is failed, seen as failed
2.8s restart of what is down: is failed, seen as failed`
	if got := strings.Join(log, "\n"); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	if m := r.Machines[1]; m.Starts != 1 || m.Ran != 200*ms+1550*ms {
		t.Errorf("%d starts, ran for %v: want 1 and 1.75s", m.Starts, m.Ran)
	}
}

// A machine that is restarted comes back, also if gates are a fleet's: if a world lost one, that
// would count against the rule.
func TestARestartedMachineComesBack(t *testing.T) {
	for _, w := range []World{
		{Name: "of no fleet"},
		{Name: "one process", OneProcess: true},
		{Name: "grants", Grants: true, Limits: balance.Limits{Soft: 1, Hard: 1}},
	} {
		w.Regions, w.Queue, w.Work, w.Load, w.Length = Uniform(1, 3, 1), true, Exponential(
			50*ms,
		), 0.3, 20*time.Second
		w.Boot, w.Stop = Always(time.Second), Always(100*ms)
		w.Script = []Step{{5 * time.Second, func(s *Sim) { s.Restart(1) }}}
		r := mustRun(t, w, Balanced(ours, nil), 1)
		if m := r.Machines[1]; m.Starts != 1 || m.Ran < 19*time.Second {
			t.Errorf("%s: %d starts, and it ran for %v of 20s: want 1, and nearly all of it", w.Name,
				m.Starts, m.Ran)
		}
	}
}

// Requests take the round trip and their work; from afar, the longer one.
func TestRoundTrips(t *testing.T) {
	w := quiet()
	w.Load = 0.01
	w.Length = 100 * time.Second
	if r := mustRun(t, w, Balanced(ours, nil), 1); r.P50 != 30*ms || r.FarShare() != 0 {
		t.Errorf("median %v, %.2f far: want 30ms and 0", r.P50, r.FarShare())
	}
	w.Stopped = func(i int) bool { return i == 0 }
	if r := mustRun(t, w, Balanced(ours, nil), 1); r.P50 != 120*ms || r.FarShare() != 1 { // the nearest has no machine that is up
		t.Errorf("median %v, %.2f far: want 120ms and 1", r.P50, r.FarShare())
	}
}

// Reports arrive as late as the world says, and some are lost.
func TestReports(t *testing.T) {
	w := quiet()
	w.Length = 40 * time.Second
	w.Script = []Step{{time.Second, func(s *Sim) { s.Cordon(1) }}}
	for _, loss := range []float64{0, 0.3} {
		w.Reports.Loss = loss
		heard := &listener{}
		s, err := newSim(w, Rule{Name: "listener", build: func(s *Sim, e *edge) (picker, error) { heard.s = s; return heard, nil }}, 1)
		if err != nil {
			t.Fatal(err)
		}
		s.run()
		sent := 2 * 10 * (s.Now() - 300*ms).Seconds()
		if got := float64(heard.reports) / sent; math.Abs(got-(1-loss)) > 0.01+0.2*loss {
			t.Errorf("%.3f of the reports came: want %.2f", got, 1-loss)
		}
		// The next report is written within 100 ms and comes 300 ms later.
		if got := heard.cordoned - time.Second; loss == 0 && (got < 300*ms || got > 400*ms) {
			t.Errorf("the cordon was heard of after %v: want 300 to 400 ms", got)
		}
	}
}

// listener sends everything to machine 0, counts reports, and records when it hears of a cordon.
type listener struct {
	s        *Sim
	reports  int
	cordoned time.Duration
}

func (l *listener) pick(*request) (int32, bool) { return 0, true }
func (l *listener) answer(*request)             {}
func (l *listener) row(*sentRow)                {}
func (l *listener) tick(time.Time)              {}
func (l *listener) room() bool                  { return false }
func (l *listener) report(_ int32, load *balance.Load, _ int) {
	l.reports++
	if load.Cordon == balance.CordonSoft && l.cordoned == 0 {
		l.cordoned = l.s.Now()
	}
}

// Bursts and scripts change when requests come, not how many: the mean rate is the world's.
func TestArrivals(t *testing.T) {
	w := quiet()
	w.Work = Always(ms)
	w.Length = 100 * time.Second
	want := 0.1 * 2 / 0.001 * 100
	for name, change := range map[string]func(*World){
		"steady": func(*World) {},
		"bursty": func(w *World) { w.Burst = Burst{5, 100 * ms, 400 * ms} },
		"skewed": func(w *World) { w.Regions = []Region{{Machines: 1, Edges: 7}, {Machines: 1}}; w.Skew = 1.3 },
		"script": func(w *World) {
			w.Script = []Step{{25 * time.Second, func(s *Sim) { s.SetDemand(0, 2) }}, {50 * time.Second, func(s *Sim) { s.SetDemand(0, 0) }}, {75 * time.Second, func(s *Sim) { s.SetDemand(0, 1) }}}
		},
	} {
		w := w
		change(&w)
		s, err := newSim(w, TwoNearest(), 2)
		if err != nil {
			t.Fatal(err)
		}
		s.run()
		if got := float64(s.out.Requests); math.Abs(got/want-1) > 0.1 {
			t.Errorf("%s: %v requests: want %v", name, got, want)
		}
	}
}

// A round comes at the end of each of its periods, and may do what the script may.
func TestRounds(t *testing.T) {
	w := quiet()
	var at []time.Duration
	w.Every = []Round{{time.Second, func(s *Sim) { at = append(at, s.Now()) }}}
	mustRun(t, w, Random(), 1)
	if len(at) < 3 || at[0] != time.Second || at[2] != 3*time.Second {
		t.Errorf("rounds at %v: want one at each second", at)
	}
}

// Waiting requests go in the order of their arrival, including one that was bounced; a request that
// waits too long is told.
func TestWaitingRoom(t *testing.T) {
	w := one(4000, 1.5, 1, true, Exponential(10*ms))
	w.Queue, w.Deadline = true, 200*ms
	w.Limits = balance.Limits{Soft: 1, Hard: 1}
	r := mustRun(t, w, Oracle(), 1)
	if r.Max > 300*ms+unservedCost*10*ms || r.Ends[TimedOut] == 0 || r.Ends[Refused] > 0 {
		t.Errorf("the longest took %v, ends %v: want at most the deadline and its work, and some that timed out", r.Max, r.Ends)
	}
	// At 1.5 x its capacity the machine is always busy, and serves two thirds.
	if served := share(r.Ends[Served], r.Requests); math.Abs(served-1/1.5) > 0.05 {
		t.Errorf("%.2f were served: want 0.67", served)
	}
}

// If owners grant slots, hardly any request is bounced, and waiting requests are still served.
func TestGrants(t *testing.T) {
	w := World{
		Name: "grants", Regions: Uniform(1, 8, 4), RTT: Line(1, 10*ms, 0), Limits: balance.Limits{Soft: 1, Hard: 1}, PerOwner: 4,
		Work: Exponential(200 * ms), Load: 0.7, Length: 60 * time.Second, Queue: true,
	}
	guessed := mustRun(t, w, Balanced(ours, nil), 1)
	w.Grants = true
	granted := mustRun(t, w, Balanced(ours, nil), 1)
	if granted.Bounces*3 > guessed.Bounces || granted.Ends[Served] != granted.Requests || granted.Requests != guessed.Requests {
		t.Errorf("%d of %d bounced and %d served, without grants %d of %d bounced", granted.Bounces, granted.Requests, granted.Ends[Served], guessed.Bounces, guessed.Requests)
	}
	for i, m := range granted.Machines {
		if m.Most > 1 {
			t.Errorf("machine %d had %d in flight: the hard limit is 1", i, m.Most)
		}
	}
}
