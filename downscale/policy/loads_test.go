package policy

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// known gives machines to another node, with a known load.
func known(ids ...balance.MachineID) func(*Situation) {
	return func(s *Situation) {
		for i := range s.Machines {
			if m := &s.Machines[i]; slices.Contains(ids, m.ID) {
				m.Own, m.Known, m.Stale = false, true, false
			}
		}
	}
}

// idle sets how much of the first machine's load is idle.
func idle(n int) func(*Situation) { return func(s *Situation) { s.Machines[0].Idle = n } }

func TestLoadsOfOthers(t *testing.T) {
	stop := balance.App{ID: "web", Autostop: balance.AutostopStop}
	c := Config{Window: 10 * sec, KeepAlive: 30 * sec, Settle: sec}
	stale := func(id balance.MachineID) func(*Situation) {
		return func(s *Situation) {
			for i := range s.Machines {
				if m := &s.Machines[i]; m.ID == id {
					m.Own, m.Known, m.Stale = false, false, true
				}
			}
		}
	}
	for _, story := range []struct {
		name string
		n    int
		acts []act
	}{
		{"room on other nodes is room", 2, []act{
			{at: 10 * sec, do: all(known("m1"), load(1, 1)), want: "spare m2: window 10s peak 2 <= 0.8 x 10 without m2"},
		}},
		{"load on other nodes is load", 3, []act{
			{at: 10 * sec, do: all(known("m1"), load(10, 6)), want: "spare m3: window 10s peak 16 <= 0.8 x 20 without m3"},
			{at: 11 * sec, do: load(10, 7), want: "hold: window 10s peak 17 > 0.8 x 20 without m3"},
		}},
		{"without reports only what is ours counts", 2, []act{
			{at: 10 * sec, do: func(s *Situation) { s.Machines[0].Own = false; s.Machines[1].Load = 1 }, want: "hold: the last machine is in use"},
		}},
		{"a report that is missing holds, also an idle app", 3, []act{
			{at: 20 * sec, do: stale("m1"), want: "hold: what was last reported is too old"},
			{at: 60 * sec, want: "hold: what was last reported is too old"},
			{at: 60 * sec, do: known("m1"), want: "spare m3: window 10s peak 0 <= 0.8 x 20 without m3"},
			{at: 61 * sec, do: all(stale("m1"), leave("m3")), want: "recall m3: what was last reported is too old"},
		}},
		{"of a machine that does not run no report is missed", 2, []act{
			{at: 10 * sec, do: all(stale("m1"), state(0, balance.StateStopped), load(0, 1)), want: "hold: the last machine is in use"},
		}},
		{"load elsewhere keeps the app awake", 2, []act{
			{at: 40 * sec, do: all(known("m1"), load(9, 0)), want: "hold: window 10s peak 9 > 0.8 x 10 without m2"},
			{at: 41 * sec, do: load(0, 0)},
			{at: 70 * sec, want: "spare m2: keep-alive 30s over: no request since 30s"},
		}},
		{"idle connections elsewhere do not", 2, []act{
			{at: 40 * sec, do: all(known("m1"), load(9, 0), idle(8)), want: "hold: window 10s peak 9 > 0.8 x 10 without m2"},
			{at: 41 * sec, do: idle(9)},
			{at: 70 * sec, want: "spare m2: keep-alive 30s over: no request since 30s"},
		}},
		{"the last of the order goes first, whoever owns it, unless it does not for a while", 3, []act{
			{at: 10 * sec, do: all(known("m3"), load(1, 1, 1)), want: "hold: m3 goes first, and is not ours"},
			{at: 39 * sec, want: "hold: m3 goes first, and is not ours"},
			{at: 40 * sec, want: "spare m2: window 10s peak 3 <= 0.8 x 20 without m2"},
		}},
		{"an idle one goes before a busy one, whoever owns it", 3, []act{
			{at: 10 * sec, do: all(known("m3"), load(1, 0, 1)), want: "spare m2: window 10s peak 2 <= 0.8 x 20 without m2"},
		}},
		{"what leaves elsewhere is on the way, and no room", 3, []act{
			{at: 10 * sec, do: all(known("m3"), leave("m3"), load(1, 1)), want: "hold: 1 machine on the way already"},
			{at: 11 * sec, do: all(leave("m2"), load(9, 1)), want: "recall m2: window 10s peak 10 > 0.8 x 10 without m2"},
		}},
	} {
		t.Run(story.name, func(t *testing.T) {
			d, err := NewDecider(c)
			if err != nil {
				t.Fatal(err)
			}
			s := Situation{App: stop, Machines: machines(10, story.n)}
			start, last := time.Unix(0, 0), -sec
			for _, a := range story.acts {
				if a.do != nil {
					a.do(&s)
				}
				for now := min(last+sec, a.at); now < a.at; now += sec {
					d.Decide(start.Add(now), s)
				}
				got := words(d.Decide(start.Add(a.at), s))
				if last = a.at; a.want != "" && got != a.want {
					t.Errorf("at %v:\n got %s\nwant %s", a.at, got, a.want)
				}
			}
		})
	}
}

// Several owners decide at the same time, each with a late view of the others. Without agreeing on
// anything they keep the minimum, never stop more than the load allows, and end where one decider
// would.
func TestSeveralDecidersAtOnce(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 3))
		owners, n := 2+r.IntN(4), 6+r.IntN(6)
		late := r.IntN(4) // seconds
		app := balance.App{ID: "web", Autostop: balance.AutostopStop, Min: r.IntN(4)}
		truth := machines(10, n)
		owner := make([]int, n)
		for i := range owner {
			owner[i] = r.IntN(owners)
		}
		var deciders []*Decider
		for range owners {
			d, err := NewDecider(Config{Window: 20 * sec, KeepAlive: time.Hour, Settle: sec})
			if err != nil {
				t.Fatal(err)
			}
			deciders = append(deciders, d)
		}
		demand := r.IntN(8*n - 7)
		var past [][]Seen // what was true at each second
		stops := make([]int, n)
		for at := range 900 {
			// The load spreads over the machines that run and stay.
			var open []int
			for i := range truth {
				if truth[i].Load = 0; truth[i].counts() {
					open = append(open, i)
				}
			}
			if len(open) < app.Min || len(open)*10 < demand {
				t.Fatalf(
					"seed %d, at %ds: %d machines for a load of %d, minimum %d", seed, at, len(open), demand,
					app.Min,
				)
			}
			for k := range demand {
				truth[open[k%len(open)]].Load++
			}
			past = append(past, slices.Clone(truth))
			for k, d := range deciders {
				if len(past) <= late {
					continue
				}
				s := Situation{App: app, Machines: slices.Clone(past[len(past)-1-late])}
				for i := range s.Machines {
					m := &s.Machines[i]
					if m.Own = owner[i] == k; m.Own {
						*m = past[len(past)-1][i]
						m.Own = true
					} else {
						m.Known = true
					}
				}
				for _, x := range d.Decide(time.Unix(int64(at), 0), s) {
					i := slices.IndexFunc(truth, func(m Seen) bool { return m.ID == x.Machine })
					switch x.Verdict {
					case VerdictSpare:
						truth[i].Leaving, stops[i] = true, at
					case VerdictRecall:
						truth[i].Leaving = false
					}
				}
			}
			for i := range truth { // a machine that left 5 s ago and was not recalled has stopped
				if truth[i].Leaving && at-stops[i] >= 5 {
					truth[i].Leaving, truth[i].State = false, balance.StateStopped
				}
			}
		}
		got, want := 0, max(1, app.Min, (demand*10+79)/80)
		for i := range truth {
			if truth[i].counts() {
				got++
			}
		}
		if got != want {
			t.Errorf(
				"seed %d: %d owners, %d s late: %d machines for a load of %d and a minimum of %d, want %d",
				seed, owners, late, got, demand, app.Min, want,
			)
		}
	}
}

func TestWhatTheKeepAliveIs(t *testing.T) {
	for _, tc := range []struct {
		name                     string
		explicit, learned, usual time.Duration
		sleeps                   int // second at which the machine goes, 0 for never
	}{
		{"usual", 0, 0, 30 * sec, 30},
		{"learned beats usual", 0, 44 * sec, 30 * sec, 44},
		{"and may be shorter", 0, 12 * sec, 30 * sec, 12},
		{"explicit beats learned", 20 * sec, 44 * sec, 30 * sec, 20},
		{"explicit beats off", 20 * sec, 0, -1, 20},
		{"off", 0, 0, -1, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d, err := NewDecider(Config{Window: -1, KeepAlive: tc.usual})
			if err != nil {
				t.Fatal(err)
			}
			app := stopApp
			app.KeepAlive = tc.explicit
			s := Situation{App: app, Machines: machines(1, 1), KeepAlive: tc.learned}
			for at := range 120 {
				for _, of := range d.Decide(time.Unix(int64(at), 0), s) {
					if of.Verdict == VerdictSpare {
						if at != tc.sleeps {
							t.Errorf("spared after %d s, want %d", at, tc.sleeps)
						}
						return
					}
				}
			}
			if tc.sleeps != 0 {
				t.Errorf("not spared, want after %d s", tc.sleeps)
			}
		})
	}
}

func TestWhatIsUse(t *testing.T) {
	for _, tc := range []struct {
		name  string
		s     Situation
		inUse bool
	}{
		{"nothing", Situation{}, false},
		{"idle", Situation{Machines: []Seen{{Own: true}, {Known: true}}}, false},
		{"in flight", Situation{Machines: []Seen{{Own: true, Load: 1}}}, true},
		{"came and went", Situation{Machines: []Seen{{Own: true, Owned: Owned{Used: true}}}}, true},
		{"waits", Situation{Parked: 1}, true},
		{"at another owner", Situation{Machines: []Seen{{Own: true}, {Known: true, Load: 2}}}, true},
		{"at another owner, who has not told of late", Situation{Machines: []Seen{{Own: true}, {Stale: true, Load: 2}}}, false},
		{"a start is none", Situation{Machines: []Seen{{Own: true, Owned: Owned{Began: true}}}}, false},
		{"nonsense", Situation{Machines: []Seen{{Own: true, Load: -3}}, Parked: -1}, false},
	} {
		if got := tc.s.InUse(); got != tc.inUse {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

// Under a constant load the remaining machines can carry it, so nothing is started again.
func TestAConstantLoadIsCarried(t *testing.T) {
	for demand := range 150 {
		d, _ := NewDecider(Config{Window: 10 * sec, KeepAlive: 20 * sec, Settle: sec})
		s := Situation{App: stopApp, Machines: machines(10, 15)}
		s.App.ID = "web"
		for at := range 200 {
			var open []int
			for i := range s.Machines {
				m := &s.Machines[i]
				if m.Leaving {
					m.Leaving, m.State = false, balance.StateStopped
				}
				if m.Load = 0; m.counts() {
					open = append(open, i)
				}
			}
			if len(open)*10 < demand {
				t.Fatalf("%d machines for a load of %d", len(open), demand)
			}
			for k := range demand {
				s.Machines[open[k%len(open)]].Load++
			}
			for _, x := range d.Decide(time.Unix(int64(at), 0), s) {
				if x.Verdict == VerdictSpare {
					s.Machines[s.index(x.Machine)].Leaving = true
				}
			}
		}
	}
}

// A process that was itself suspended does not decide by what it missed.
func TestASuspendedDeciderWatchesAnew(t *testing.T) {
	d, _ := NewDecider(Config{Window: 60 * sec, KeepAlive: time.Hour, Settle: sec})
	s := Situation{App: stopApp, Machines: machines(10, 2)}
	load(9, 8)(&s)
	for at := range 70 {
		d.Decide(time.Unix(int64(at), 0), s)
	}
	load()(&s) // and then it is not asked for ten minutes
	if got := words(d.Decide(time.Unix(670, 0), s)); !strings.HasPrefix(got, "hold") {
		t.Error(got)
	}
}
