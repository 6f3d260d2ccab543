package policy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const sec = time.Second

var stopApp = balance.App{ID: "web", Autostop: balance.AutostopStop}

// world of the decider: machines m1, m2, ... in canonical order, all started and of this node
// unless a row says otherwise.
func machines(soft int, n int) []Seen {
	ms := make([]Seen, n)
	for i := range ms {
		ms[i] = Seen{
			ID: balance.MachineID(
				fmt.Sprint("m", i+1),
			), Region: "nrt", Rank: uint64(i), State: balance.StateStarted,
			Limits: balance.Limits{Soft: soft}, Own: true,
		}
	}
	return ms
}

func words(ds []Decision) string {
	var b []string
	for _, d := range ds {
		s := d.Verdict.String()
		if d.Machine != "" && d.Verdict != VerdictHold {
			s += " " + string(d.Machine)
		}
		b = append(b, s+": "+d.Reason())
	}
	return strings.Join(b, "; ")
}

type act struct {
	at   time.Duration // asked each second up to here
	do   func(s *Situation)
	want string
}

// leave makes machines soft-cordoned, as the shell does with those that are spared.
func leave(ids ...balance.MachineID) func(*Situation) {
	return func(s *Situation) {
		for i := range s.Machines {
			if slices.Contains(ids, s.Machines[i].ID) {
				s.Machines[i].Leaving = true
			}
		}
	}
}

func load(per ...int) func(*Situation) {
	return func(s *Situation) {
		for i := range s.Machines {
			s.Machines[i].Load = 0
		}
		for i, n := range per {
			s.Machines[i].Load = n
		}
	}
}

// open gives a machine n long connections that may be told to end.
func open(i int, of balance.Class, n int) func(*Situation) {
	return func(s *Situation) { s.Machines[i].Open, s.Machines[i].Long = of, n }
}

func busy(i int) func(*Situation) { return func(s *Situation) { s.Machines[i].Busy = true } }

func state(i int, st balance.State) func(*Situation) {
	return func(s *Situation) { s.Machines[i].State = st }
}

func all(fs ...func(*Situation)) func(*Situation) {
	return func(s *Situation) {
		for _, f := range fs {
			f(s)
		}
	}
}

func TestDeciderStories(t *testing.T) {
	stop := balance.App{ID: "web", Autostop: balance.AutostopStop}
	app := func(edit func(*balance.App)) balance.App { a := stop; edit(&a); return a }
	remote := func(ms []Seen, ids ...balance.MachineID) []Seen {
		for i := range ms {
			if slices.Contains(ids, ms[i].ID) {
				ms[i].Own = false
			}
		}
		return ms
	}
	region := func(ms []Seen, region string, ids ...balance.MachineID) []Seen {
		for i := range ms {
			if slices.Contains(ids, ms[i].ID) {
				ms[i].Region = region
			}
		}
		return ms
	}
	c := Config{Window: 60 * sec, KeepAlive: 30 * sec, Settle: 10 * sec}
	for _, story := range []struct {
		name     string
		config   Config
		app      balance.App
		machines []Seen
		acts     []act
	}{
		{"a spare machine stays beside those that the load fills", c, app(func(a *balance.App) { a.Spare = 1 }), machines(10, 3), []act{
			{do: load(4, 4)},
			{at: 70 * sec, want: "spare m3: window 1m peak 8 <= 0.8 x 10 without m3"},
		}},
		{"and is not counted as room for them", c, app(func(a *balance.App) { a.Spare = 1 }), machines(10, 2), []act{
			{do: load(4, 4)},
			{at: 70 * sec, want: "hold: window 1m peak 8 > 0.8 x 0 without m2"},
		}},
		{"an idle app keeps no spares", c, app(func(a *balance.App) { a.Spare = 1 }), machines(10, 2), []act{
			{at: 30 * sec, want: "spare m2: keep-alive 30s over: no request since 30s; spare m1: keep-alive 30s over: no request since 30s"},
		}},
		{"an idle app sleeps when its keep-alive is over, all at once", c, stop, machines(10, 3), []act{
			{at: 29 * sec, want: "hold: watched for 29s of the window of 1m"},
			{at: 30 * sec, want: "spare m3: keep-alive 30s over: no request since 30s; spare m2: keep-alive 30s over: no request since 30s; spare m1: keep-alive 30s over: no request since 30s"},
		}},
		{"the app's own keep-alive beats the configured one", c, app(func(a *balance.App) { a.KeepAlive = 5 * sec }), machines(10, 1), []act{
			{at: 5 * sec, want: "spare m1: keep-alive 5s over: no request since 5s"},
		}},
		{"a request between two looks is a request", c, stop, machines(10, 1), []act{
			{at: 20 * sec, do: func(s *Situation) { s.Machines[0].Used = true }},
			{at: 49 * sec, do: func(s *Situation) { s.Machines[0].Used = false }, want: "hold: watched for 49s of the window of 1m"},
			{at: 50 * sec, want: "spare m1: keep-alive 30s over: no request since 30s"},
		}},
		{"a start counts as use: the keep-alive begins when it ends", c, stop, machines(10, 2), []act{
			{at: 0, do: state(1, balance.StateStarting), want: "hold: m2 is starting"},
			{at: 40 * sec, want: "hold: m2 is starting"},
			{at: 45 * sec, do: state(1, balance.StateStarted), want: "hold: settling: 5s of 10s since the last start"},
			{at: 69 * sec, want: "spare m2: window 1m peak 0 <= 0.8 x 10 without m2"},
			{at: 69 * sec, do: leave("m2"), want: "hold: 1 machine on the way already"},
			{at: 70 * sec, want: "spare m1: keep-alive 30s over: no request since 30s"},
		}},
		{"two are needed for the peak of the window, and two stay", c, stop, machines(20, 3), []act{
			{at: 30 * sec, do: load(10, 4, 8)},
			{at: 61 * sec, do: load(1, 1, 1), want: "spare m3: window 1m peak 22 <= 0.8 x 40 without m3"},
			{at: 62 * sec, do: leave("m3"), want: "hold: 1 machine on the way already"},
			{at: 63 * sec, do: state(2, balance.StateStopping), want: "hold: window 1m peak 22 > 0.8 x 20 without m2"},
			{at: 95 * sec, want: "spare m2: window 1m peak 3 <= 0.8 x 20 without m2"},
			{at: 96 * sec, do: state(1, balance.StateStopped), want: "hold: the last machine is in use"},
		}},
		{"the head-room rule leaves the last machine to a longer keep-alive", c, app(func(a *balance.App) { a.KeepAlive = 2 * time.Minute }), machines(10, 1), []act{
			{at: 61 * sec, want: "hold: the last machine waits for the keep-alive: idle for 1m1s of 2m"},
			{at: 120 * sec, want: "spare m1: keep-alive 2m over: no request since 2m"},
		}},
		{"without a keep-alive the last machine stays", Config{Window: 10 * sec, KeepAlive: -1}, stop, machines(10, 2), []act{
			{at: 10 * sec, want: "spare m2: window 10s peak 0 <= 0.8 x 10 without m2"},
			{at: 600 * sec, do: state(1, balance.StateStopped), want: "hold: the last machine stays: keep-alive is off"},
		}},
		{"load comes back: who leaves is recalled, from the front", c, stop, machines(10, 4), []act{
			{at: 60 * sec, do: load(1), want: "spare m4: window 1m peak 1 <= 0.8 x 30 without m4"},
			{at: 61 * sec, do: all(leave("m3", "m4"), load(9, 9)), want: "recall m3: window 1m peak 18 > 0.8 x 20 without m3"},
			{at: 62 * sec, do: load(9, 9, 9, 9), want: "recall m3: window 1m peak 36 > 0.8 x 20 without m3; recall m4: window 1m peak 36 > 0.8 x 30 without m4"},
		}},
		{"a request wakes an app that is going to sleep before its window is known", c, stop, machines(10, 2), []act{
			{at: 30 * sec, want: "spare m2: keep-alive 30s over: no request since 30s; spare m1: keep-alive 30s over: no request since 30s"},
			{at: 31 * sec, do: all(leave("m1", "m2"), load(1)), want: "recall m1: the last machine is in use; recall m2: watched for 31s of the window of 1m"},
		}},
		{"the first of the order are the minimum, whatever the rest does", c, app(func(a *balance.App) { a.Min = 2 }), machines(10, 4), []act{
			{at: 30 * sec, want: "spare m4: keep-alive 30s over: no request since 30s; spare m3: keep-alive 30s over: no request since 30s"},
			{at: 31 * sec, do: all(state(2, balance.StateStopped), state(3, balance.StateStopped)), want: "hold: minimum: 2 machines running"},
		}},
		{"a machine of the minimum that is down is made up for", c, app(func(a *balance.App) { a.Min = 2 }), machines(10, 4), []act{
			{at: 30 * sec, do: state(0, balance.StateFailed), want: "spare m4: keep-alive 30s over: no request since 30s"},
			{at: 31 * sec, do: leave("m4"), want: "hold: minimum: 2 machines running"},
		}},
		{"the minimum rises while machines leave", c, stop, machines(10, 3), []act{
			{at: 31 * sec, do: all(leave("m1", "m2", "m3"), func(s *Situation) { s.App.Min = 2 }), want: "recall m1: minimum: 0 machines running; recall m2: minimum: 1 machine running"},
		}},
		{"each region keeps its minimum", c, app(func(a *balance.App) { a.MinPerRegion = 1 }), region(machines(10, 4), "hkg", "m1", "m3"), []act{
			{at: 30 * sec, want: "spare m4: keep-alive 30s over: no request since 30s; spare m3: keep-alive 30s over: no request since 30s"},
		}},
		{"machines of others count for the minimum and are not touched", c, app(func(a *balance.App) { a.Min = 2 }), remote(machines(10, 4), "m1", "m2", "m4"), []act{
			{at: 30 * sec, want: "spare m3: keep-alive 30s over: no request since 30s"},
			{at: 31 * sec, do: all(state(0, balance.StateStopped), state(1, balance.StateStopped)), want: "hold: minimum: 2 machines running"},
		}},
		{"autostop off", c, balance.App{ID: "web"}, machines(10, 2), []act{
			{at: 600 * sec, want: "hold: autostop is off"},
			{at: 601 * sec, do: leave("m2"), want: "recall m2: autostop is off; hold: autostop is off"},
		}},
		{"nothing is stopped on doubt", c, stop, machines(10, 2), []act{
			{at: 59 * sec, do: func(s *Situation) { s.Stale = true }, want: "hold: what was last reported is too old"},
			{at: 60 * sec, do: func(s *Situation) { s.Stale = false }, want: "spare m2: keep-alive 30s over: no request since 1m; spare m1: keep-alive 30s over: no request since 1m"},
			{at: 61 * sec, do: all(leave("m1", "m2"), func(s *Situation) { s.Stale = true }), want: "recall m1: what was last reported is too old; recall m2: what was last reported is too old"},
		}},
		{"parked requests are demand", c, stop, machines(10, 2), []act{
			{at: 100 * sec, do: func(s *Situation) { s.Parked = 3 }, want: "hold: 3 requests parked"},
			{at: 101 * sec, do: leave("m2"), want: "recall m2: 3 requests parked; hold: 3 requests parked"},
		}},
		{"a tenth at once", c, stop, machines(10, 20), []act{
			{at: 60 * sec, do: load(8, 8, 8), want: "spare m20: window 1m peak 24 <= 0.8 x 190 without m20; spare m19: window 1m peak 24 <= 0.8 x 180 without m19"},
			{at: 61 * sec, do: leave("m20", "m19"), want: "hold: 2 machines on the way already"},
		}},
		{"old revisions first, then idle ones, then the back", Config{Window: 10 * sec, KeepAlive: time.Hour}, stop, machines(10, 4), []act{
			{at: 9 * sec, do: func(s *Situation) { s.Revision = "v2"; s.Machines[3].Load = 1 }},
			{at: 10 * sec, do: func(s *Situation) {
				for i := range s.Machines {
					s.Machines[i].Revision = "v2"
				}
				s.Machines[0].Revision = "v1"
			}, want: "spare m1: window 10s peak 1 <= 0.8 x 30 without m1"},
			{at: 11 * sec, do: func(s *Situation) { s.Machines[0].Revision = "v2" }, want: "spare m3: window 10s peak 1 <= 0.8 x 30 without m3"},
			{at: 12 * sec, do: load(1, 1, 1, 1), want: "spare m4: window 10s peak 4 <= 0.8 x 30 without m4"},
		}},
		{"a machine that was needed a moment ago is passed over, unless all is idle", c, stop, machines(10, 3), []act{
			{at: 60 * sec, do: all(load(1), func(s *Situation) { s.Machines[2].Veto = true }), want: "spare m2: window 1m peak 1 <= 0.8 x 20 without m2"},
			{at: 61 * sec, do: func(s *Situation) { s.Machines[0].Veto, s.Machines[1].Veto = true, true }, want: "hold: what could be spared was needed a moment ago"},
			{at: 91 * sec, do: load(), want: "spare m3: keep-alive 30s over: no request since 30s; spare m2: keep-alive 30s over: no request since 30s; spare m1: keep-alive 30s over: no request since 30s"},
		}},
		{"one of an old revision that was needed a moment ago is waited for, and no present one goes in its stead", Config{Window: 10 * sec, KeepAlive: time.Hour}, stop, machines(10, 3), []act{
			{at: 10 * sec, do: func(s *Situation) {
				s.Revision = "v2"
				for i := range s.Machines {
					s.Machines[i].Load, s.Machines[i].Revision = 1, "v2"
				}
				s.Machines[1].Revision, s.Machines[1].Veto = "v1", true
			}, want: "hold: what could be spared was needed a moment ago"},
			{at: 11 * sec, do: func(s *Situation) { s.Machines[1].Veto, s.Machines[1].Busy = false, true }, want: "spare m3: window 10s peak 3 <= 0.8 x 20 without m3"},
			{at: 12 * sec, do: func(s *Situation) { s.Machines[1].Busy = false }, want: "spare m2: window 10s peak 3 <= 0.8 x 20 without m2"},
		}},
		{"machines without long connections go first, and what keeps one is named", c, stop, machines(10, 3), []act{
			{at: 60 * sec, do: all(load(1, 2, 1), open(2, balance.ClassWebSocket, 1)), want: "spare m2: window 1m peak 4 <= 0.8 x 20 without m2"},
			{at: 61 * sec, do: all(load(1, 1, 1), open(0, balance.ClassTCP, 1), open(1, balance.ClassTCP, 1)), want: "spare m3: window 1m peak 4 <= 0.8 x 20 without m3"},
			{at: 62 * sec, do: all(busy(0), busy(1), busy(2)), want: "hold: m3 could be spared but for its long connections: websocket"},
			{at: 63 * sec, do: open(2, 0, 0), want: "hold: m3 could be spared and is busy"},
			{at: 64 * sec, do: all(state(1, balance.StateStopped), state(2, balance.StateStopped), func(s *Situation) { s.Machines[0].Busy = false }), want: "hold: the last machine is in use: tcp open"},
		}},
		{"without limits one machine takes everything", c, stop, machines(0, 3), []act{
			{at: 60 * sec, do: load(500, 500, 500), want: "spare m3: window 1m peak 1500 <= 0.8 x unlimited without m3"},
			{at: 61 * sec, do: all(state(1, balance.StateStopped), state(2, balance.StateStopped)), want: "hold: the last machine is in use"},
		}},
		{"a machine whose checks fail can take nothing", c, stop, machines(10, 3), []act{
			{at: 60 * sec, do: all(load(5, 4), func(s *Situation) { s.Machines[0].Failing = true }), want: "hold: window 1m peak 9 > 0.8 x 10 without m3"},
		}},
		{"an idle region of a busy app is governed by the window", c, stop, region(machines(10, 2), "hkg", "m2"), []act{
			{at: 59 * sec, do: load(1), want: "hold: watched for 59s of the window of 1m; hold: watched for 59s of the window of 1m"},
			{at: 60 * sec, want: "spare m2: window 1m peak 0 <= 0.8 x 0 without m2; hold: the last machine is in use"},
		}},
		{"time goes back and stands still", c, stop, machines(10, 1), []act{
			{at: 29 * sec},
			{at: -100 * sec, want: "hold: watched for 29s of the window of 1m"},
			{at: 29 * sec, want: "hold: watched for 29s of the window of 1m"},
			{at: 30 * sec, want: "spare m1: keep-alive 30s over: no request since 30s"},
		}},
	} {
		t.Run(story.name, func(t *testing.T) {
			d, err := NewDecider(story.config)
			if err != nil {
				t.Fatal(err)
			}
			s := Situation{App: story.app, Machines: story.machines}
			start, last := time.Unix(0, 0), -sec
			for _, a := range story.acts {
				if a.do != nil {
					a.do(&s)
				}
				var got string
				for now := min(last+sec, a.at); now < a.at; now += sec {
					d.Decide(start.Add(now), s)
				}
				got = words(d.Decide(start.Add(a.at), s))
				if last = a.at; a.want != "" && got != a.want {
					t.Errorf("at %v:\n got %s\nwant %s", a.at, got, a.want)
				}
			}
		})
	}
}

func TestAGapIsNotAWatchedWindow(t *testing.T) {
	d, err := NewDecider(Config{Window: 60 * sec, KeepAlive: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	s := Situation{
		App: balance.App{ID: "web", Autostop: balance.AutostopStop}, Machines: machines(10, 2),
	}
	start := time.Unix(0, 0)
	for i := range 30 {
		d.Decide(start.Add(time.Duration(i)*sec), s)
	}
	if got, want := words(d.Decide(start.Add(120*sec), s)), "hold: watched for 0s of the window of 1m"; got != want {
		t.Errorf("after a gap of 90s: %s, want %s", got, want)
	}
}

// A decider keeps nothing about a sleeping app except when it was last used: windows are for
// running machines. When the app wakes, it is observed anew.
func TestADeciderOfASleepingAppHoldsNoWindows(t *testing.T) {
	d, err := NewDecider(Config{})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1000, 0)
	look := func(state balance.State) {
		now = now.Add(sec)
		ms := machines(10, 3)
		for i := range ms {
			ms[i].State = state
		}
		d.Decide(now, Situation{Machines: ms})
	}
	for _, state := range []balance.State{balance.StateStarted, balance.StateStopping, balance.StateSuspending, balance.StateStarting} {
		look(state)
		if len(d.regions) != 1 {
			t.Errorf("%v: %d regions are remembered, want 1", state, len(d.regions))
		}
	}
	for _, state := range []balance.State{balance.StateStopped, balance.StateSuspended, balance.StateFailed} {
		look(balance.StateStarted)
		look(state)
		if d.regions != nil || d.out != nil || d.at != nil || d.order != nil {
			t.Errorf("%v: it still holds %v, %v, %v and %v", state, d.regions, d.out, d.at, d.order)
		}
	}
}

// In every situation only running machines of this node are spared, the minimums are kept, and a
// head-room decision leaves room.
func TestDeciderKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d, err := NewDecider(Config{Window: 20 * sec, KeepAlive: 10 * sec, Settle: 5 * sec})
		if err != nil {
			t.Fatal(err)
		}
		s := Situation{
			App: balance.App{
				ID: "web", Autostop: balance.AutostopStop, Min: rapid.IntRange(0, 3).Draw(t, "min"),
				MinPerRegion: rapid.IntRange(0, 2).Draw(t, "min per region"),
			},
		}
		s.Machines = machines(10, rapid.IntRange(1, 6).Draw(t, "machines"))
		for i := range s.Machines {
			s.Machines[i].Region = rapid.SampledFrom([]string{"nrt", "hkg"}).Draw(t, "region")
			s.Machines[i].Own = rapid.IntRange(0, 3).Draw(t, "own") > 0
		}
		now := time.Unix(0, 0)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 3).Draw(t, "seconds")) * sec)
			if rapid.IntRange(0, 4).Draw(t, "change") == 0 {
				m := &s.Machines[rapid.IntRange(0, len(s.Machines)-1).Draw(t, "which")]
				m.Load = rapid.IntRange(0, 12).Draw(t, "load")
				m.State = rapid.SampledFrom([]balance.State{balance.StateStarted, balance.StateStarted, balance.StateStarting, balance.StateStopped}).
					Draw(t, "state")
				m.Leaving = m.State == balance.StateStarted && m.Leaving
			}
			s.Parked = max(0, rapid.IntRange(-9, 1).Draw(t, "parked"))
			before := slices.Clone(s.Machines)
			ds := slices.Clone(d.Decide(now, s))
			up := func(region string) (n int) {
				for _, m := range s.Machines {
					if (m.State == balance.StateStarted || m.State == balance.StateStarting) &&
						!(m.Own && m.Leaving) &&
						(region == "" || m.Region == region) {
						n++
					}
				}
				return n
			}
			for _, x := range ds {
				if x.Reason() == "" || strings.Contains(x.Reason(), "rule(") {
					t.Fatalf("%+v has no reason", x)
				}
				i := slices.IndexFunc(s.Machines, func(m Seen) bool { return m.ID == x.Machine })
				switch m := &s.Machines[max(0, i)]; x.Verdict {
				case VerdictSpare:
					if !m.Own || m.State != balance.StateStarted || m.Leaving || s.Parked > 0 {
						t.Fatalf("%s of %+v with %d parked", words([]Decision{x}), *m, s.Parked)
					}
					if i < s.App.Min {
						t.Fatalf("%s belongs to the minimum", m.ID)
					}
					m.Leaving = true
					if up("") < s.App.Min || up(m.Region) < s.App.MinPerRegion {
						t.Fatalf("%d run, %d in %s, after %s", up(""), up(m.Region), m.Region, words([]Decision{x}))
					}
				case VerdictRecall:
					if !before[i].Leaving {
						t.Fatalf("%s does not leave", m.ID)
					}
					m.Leaving = false
				}
			}
		}
	})
}

// The order of the rows does not matter, and neither do stopped machines.
func TestDeciderIgnoresOrderAndStoppedRows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := Config{
			Window: 5 * sec, KeepAlive: time.Duration(rapid.IntRange(1, 20).Draw(t, "keep-alive")) * sec,
		}
		one, _ := NewDecider(c)
		two, _ := NewDecider(c)
		n := rapid.IntRange(1, 6).Draw(t, "machines")
		for i := range 12 {
			s := Situation{
				App: balance.App{ID: "web", Autostop: balance.AutostopStop}, Machines: machines(4, n),
			}
			for j := range s.Machines {
				s.Machines[j].Load = rapid.IntRange(0, 3).Draw(t, "load")
			}
			other := s
			other.Machines = rapid.Permutation(append(slices.Clone(s.Machines), Seen{ID: "m9", Region: "nrt", Rank: 99, Own: true})).
				Draw(t, "order")
			now := time.Unix(int64(i), 0)
			if d := cmp.Diff(words(one.Decide(now, s)), words(two.Decide(now, other))); d != "" {
				t.Fatalf("at %ds: %s", i, d)
			}
		}
	})
}

// The bounded window equals the plain one to within one slice.
func TestWindowAgainstEverySample(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const over = 30 * sec
	w := newWindow(over)
	type sample struct {
		at   time.Time
		load int
	}
	var samples []sample
	now := time.Unix(0, 0)
	for range 3000 {
		now = now.Add(time.Duration(r.IntN(2500)) * time.Millisecond)
		if r.IntN(100) == 0 {
			now = now.Add(2 * over)
		}
		load := r.IntN(50) * r.IntN(2)
		w.add(now, load)
		samples = append(samples, sample{now, load})
		exact, wider := 0, 0
		for _, s := range samples {
			if age := now.Sub(s.at); age <= over {
				exact = max(exact, s.load)
			}
			if age := now.Sub(s.at); age <= over+w.width {
				wider = max(wider, s.load)
			}
		}
		if p := w.peak(); p < exact || p > wider {
			t.Fatalf("peak %d, want %d to %d", p, exact, wider)
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	for _, rule := range []string{"headroom", "minimum"} {
		b.Run("rule="+rule+"/machines=10000", func(b *testing.B) {
			d, err := NewDecider(Config{Window: 10 * sec, KeepAlive: time.Hour})
			if err != nil {
				b.Fatal(err)
			}
			s := Situation{
				App: balance.App{ID: "web", Autostop: balance.AutostopStop}, Machines: machines(10, 10_000),
			}
			for i := range s.Machines {
				s.Machines[i].Load = 9 // nothing can be spared
			}
			if rule == "minimum" {
				s.App.Min = len(s.Machines)
			}
			now := time.Unix(0, 0)
			for range 20 {
				now = now.Add(sec)
				d.Decide(now, s)
			}
			b.ReportAllocs()
			for b.Loop() {
				d.Decide(now, s)
			}
		})
	}
}

// The noise of machines' peaks came at different times; anything beyond noise comes together.
func TestPeaksOfMachinesAddUp(t *testing.T) {
	type machine struct {
		load, peak int
		leaving    bool
	}
	many := func(n int, m machine) (ms []machine) {
		for range n {
			ms = append(ms, m)
		}
		return ms
	}
	for _, tt := range []struct {
		name     string
		machines []machine
		want     int
	}{
		{"no load", many(3, machine{}), 0},
		{"a steady one", many(3, machine{load: 5, peak: 5}), 15},
		{"a peak below the load is none", many(1, machine{load: 5, peak: 2}), 5},
		{"one machine's peak is what there was", many(1, machine{load: 4, peak: 9}), 9},
		{"noise of four machines: half of its sum", many(4, machine{load: 4, peak: 9}), 16 + 10},
		{"a burst over all of them", many(10, machine{peak: 8}), 10*5 + 9},
		{"what is leaving has moved to the others", append(many(2, machine{load: 10, peak: 10}), machine{peak: 7, leaving: true}), 20},
	} {
		d, err := NewDecider(Config{})
		if err != nil {
			t.Fatal(err)
		}
		s := Situation{App: balance.App{ID: "web"}}
		for i, m := range tt.machines {
			s.Machines = append(s.Machines, Seen{
				ID: balance.MachineID(
					fmt.Sprint("m", i),
				), Region: "r", Rank: uint64(i), State: balance.StateStarted, Own: true,
				Load: m.load, Peak: m.peak, Leaving: m.leaving, Limits: balance.Limits{Soft: 10},
			})
		}
		d.Decide(time.Unix(1, 0), s)
		if got := d.regions["r"].window.peak(); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

func TestNewDeciderNamesBadConfiguration(t *testing.T) {
	for _, c := range []struct {
		c    Config
		want string
	}{
		{Config{Every: -1}, "Config.Every -1ns"},
		{Config{Headroom: 1.1}, "Config.Headroom 1.1"},
		{Config{Headroom: -1}, "Config.Headroom -1"},
		{Config{Notify: 1 << 6}, "Config.Notify unknown"},
	} {
		if _, err := NewDecider(c.c); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.c, err, c.want)
		}
	}
	c, err := Config{Window: 20 * sec}.resolve()
	if want := (Config{20 * sec, 0.8, 5 * time.Minute, 20 * sec, sec, 0}); c != want || err != nil {
		t.Errorf("%+v, %v, want %+v", c, err, want)
	}
}
