package downscale

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/google/go-cmp/cmp"
)

// policyFunc is a policy without a memory.
type policyFunc func(now time.Time, s Situation) []Decision

func (f policyFunc) Decide(now time.Time, s Situation) []Decision { return f(now, s) }

func TestAPolicyIsVetoed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		app := stopApp
		app.Min = 1
		c := quick
		c.Policy = func(balance.AppID) Policy {
			return policyFunc(func(_ time.Time, s Situation) (out []Decision) {
				for _, id := range []balance.MachineID{"ghost", "m1", "m1", "m2", "m3"} {
					out = append(out, Decision{App: s.App.ID, Region: "nrt", Machine: id, Verdict: Spare, Text: "because I say so"})
				}
				return append(out, Decision{Machine: "ghost", Verdict: Recall}, Decision{Machine: "m2", Verdict: Recall})
			})
		}
		b := newBench(t, c, app, "m1", "m2", "m3")
		var vetoed []string
		b.down.config.Trace.Vetoed = func(d Decision) { vetoed = append(vetoed, string(d.Machine)) }
		end := b.run()
		time.Sleep(1500 * time.Millisecond)
		b.want("0s cordon m1: because I say so", "0s cordon m3: because I say so", "1.1s stop m1: because I say so", "1.1s stop m3: because I say so",
			"1.2s stopped m1 in 100ms", "1.2s stopped m3 in 100ms")
		b.wantStates("m1 stopped gone, m2 started running, m3 stopped gone") // m2 is the first of the order
		end()
		if want := []string{"ghost", "m1", "m2", "m3"}; !slices.Equal(vetoed, want) { // m3 in the second tick: it is on its way
			t.Errorf("vetoed %v, want %v, each once", vetoed, want)
		}
	})
}

func TestTheDocumentedRule(t *testing.T) {
	stop := balance.App{ID: "web", Autostop: balance.AutostopStop}
	app := func(edit func(*balance.App)) balance.App { a := stop; edit(&a); return a }
	for _, c := range []struct {
		name string
		app  balance.App
		n    int
		do   func(*Situation)
		want string
	}{
		{"none is over: one goes, however full the others are", stop, 2, load(9, 9), "spare m2: 2 machines running, 0 at the soft limit"},
		{"one of two is over: nothing", stop, 2, load(10, 0), ""},
		{"one of three is over", stop, 3, load(10, 3, 5), "spare m2: 3 machines running, 1 at the soft limit"},
		{"one pass stops one machine", stop, 9, nil, "spare m9: 9 machines running, 0 at the soft limit"},
		{"a single machine stops at load 0", stop, 1, nil, "spare m1: 1 machine running, 0 at the soft limit"},
		{"and not at load 1", stop, 1, load(1), ""},
		{"the minimum", app(func(a *balance.App) { a.Min = 2 }), 2, nil, ""},
		{"parked", stop, 2, func(s *Situation) { s.Parked = 1 }, ""},
		{"busy", stop, 2, func(s *Situation) { s.Machines[1].Busy = true }, "spare m1: 2 machines running, 0 at the soft limit"},
		{"each region by itself", stop, 4, func(s *Situation) { s.Machines[0].Region, s.Machines[1].Region = "hkg", "hkg" },
			"spare m2: 2 machines running, 0 at the soft limit; spare m4: 2 machines running, 0 at the soft limit"},
		{"what others own", stop, 3, func(s *Situation) { s.Machines[1].Own, s.Machines[2].Own = false, false }, "spare m1: 1 machine running, 0 at the soft limit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var e Excess
			s := Situation{App: c.app, Machines: machines(10, c.n)}
			if c.do != nil {
				c.do(&s)
			}
			start := time.Unix(0, 0)
			for at := time.Duration(0); at < 3*time.Minute; at += 10 * sec {
				if ds := e.Decide(start.Add(at), s); len(ds) > 0 {
					t.Fatalf("at %v: %s", at, words(ds))
				}
			}
			if got := words(e.Decide(start.Add(3*time.Minute), s)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if ds := e.Decide(start.Add(4*time.Minute), s); len(ds) > 0 {
				t.Errorf("a minute later: %s", words(ds))
			}
		})
	}
}

func TestPresets(t *testing.T) {
	for p, want := range map[Preset]string{Balanced: "balanced 5m 0.8 5m 30s 1m", Cost: "cost 2m 0.9 1m 15s 24s", Latency: "latency 15m 0.7 30m 1m 3m"} {
		c, err := Config{Preset: p}.resolve()
		if got := fmt.Sprint(p, " ", short(c.Window), " ", c.Headroom, " ", short(c.KeepAlive), " ", short(c.Settle), " ", short(c.Backoff)); got != want || err != nil {
			t.Errorf("%s, %v, want %s", got, err, want)
		}
	}
	if c, err := (Config{Preset: Cost, Window: time.Hour}).resolve(); c.Window != time.Hour || c.Headroom != 0.9 || err != nil {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := (Config{Preset: 9}).resolve(); err == nil || !strings.Contains(err.Error(), "Config.Preset preset(9)") {
		t.Errorf("preset 9: %v", err)
	}
}

// known makes machines another node's, with a load that is known.
func known(ids ...balance.MachineID) func(*Situation) {
	return func(s *Situation) {
		for i := range s.Machines {
			if m := &s.Machines[i]; slices.Contains(ids, m.ID) {
				m.Own, m.Known, m.Stale = false, true, false
			}
		}
	}
}

// idle says how much of the first machine's load is idle.
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

// Several owners decide at the same time, each on what it sees of the others, which is late. Without agreeing on anything
// they keep the minimum, never stop more than the load leaves, and end where one decider would.
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
			// The load spreads over what runs and stays.
			var open []int
			for i := range truth {
				if truth[i].Load = 0; truth[i].counts() {
					open = append(open, i)
				}
			}
			if len(open) < app.Min || len(open)*10 < demand {
				t.Fatalf("seed %d, at %ds: %d machines for a load of %d, minimum %d", seed, at, len(open), demand, app.Min)
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
					case Spare:
						truth[i].Leaving, stops[i] = true, at
					case Recall:
						truth[i].Leaving = false
					}
				}
			}
			for i := range truth { // what left 5 s ago and was not recalled has stopped
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
			t.Errorf("seed %d: %d owners, %d s late: %d machines for a load of %d and a minimum of %d, want %d", seed, owners, late, got, demand, app.Min, want)
		}
	}
}

// Loads reach the policy through the shell.
type reports map[balance.MachineID][2]int // in flight, and idle

func (r reports) Load(_ balance.AppID, id balance.MachineID) (int, int, bool) {
	n, ok := r[id]
	return n[0], n[1], ok
}

func TestTheShellShowsLoads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var saw []string
		c := quick
		c.Loads = reports{"far-1": {3, 2}}
		c.Policy = func(balance.AppID) Policy {
			return policyFunc(func(_ time.Time, s Situation) []Decision {
				saw = nil
				for _, m := range s.Machines {
					saw = append(
						saw,
						fmt.Sprintf("%s own %v known %v stale %v load %d idle %d leaving %v", m.ID, m.Own, m.Known,
							m.Stale, m.Load, m.Idle, m.Leaving),
					)
				}
				slices.Sort(saw)
				return nil
			})
		}
		b := newBench(t, c, stopApp, "m1")
		for _, id := range []balance.MachineID{"far-1", "far-2"} {
			cordon := balance.CordonNone
			if id == "far-2" {
				cordon = balance.CordonSoft
			}
			row := balance.Machine{ID: id, App: "web", Region: "nrt", Owner: "elsewhere", State: balance.StateStarted, Cordon: cordon}
			if err := b.fleet.Apply(balance.PutMachine{Machine: row, Version: balance.Version{Incarnation: 1, Seq: 1}}); err != nil {
				t.Fatal(err)
			}
		}
		end := b.run()
		time.Sleep(sec / 2)
		end()
		want := []string{
			"far-1 own false known true stale false load 3 idle 2 leaving false",
			"far-2 own false known false stale true load 0 idle 0 leaving true",
			"m1 own true known false stale false load 0 idle 0 leaving false",
		}
		if d := cmp.Diff(want, saw); d != "" {
			t.Error(d)
		}
	})
}
