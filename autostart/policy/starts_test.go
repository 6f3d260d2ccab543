package policy

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/boots"
	"github.com/ebbkit/ebb/balance"
)

// A boot that is slower than all before it is waited for as long as it counts as capacity.
func TestPatienceFollowsTheStart(t *testing.T) {
	s := newStory(t, balance.App{}, "nrt: a")
	now := time.Duration(0)
	boot := func(d time.Duration) {
		s.see("a stopped")
		s.plan(now, 0, 1)
		s.p.answered(t0.Add(now), s.last.Start[0], balance.StartAccepted, nil)
		s.see("a starting")
		s.plan(now, 0, 1)
		now += d
	}
	for range 31 {
		boot(300 * time.Millisecond)
		s.see("a started")
		s.plan(now, 0, 0)
		now += time.Minute
	}
	s.plan(now, 3, 0)
	if s.last.Wait != boots.WaitMin || s.last.Await != 0 {
		t.Errorf("wait %v, await %v; want 10s: no start is in flight", s.last.Wait, s.last.Await)
	}
	boot(0)
	for _, tc := range []struct{ at, await time.Duration }{{0, 17 * sec}, {sec, 16 * sec}, {12 * sec, 5 * sec}, {16 * sec, sec}, {20 * sec, 0}} {
		s.plan(now+tc.at, 0, 1)
		if s.last.Wait != 17*sec || s.last.Await != tc.await {
			t.Errorf(
				"%v into the slow boot: wait %v, await %v; want 17s and %v", tc.at, s.last.Wait, s.last.Await,
				tc.await,
			)
		}
	}
}

// No request is sent away while any start in flight may still serve.
func TestDoubtOfStarts(t *testing.T) {
	type look struct {
		at    time.Duration
		see   string
		doubt string // "" while a start may serve
	}
	for _, tc := range []struct {
		name     string
		machines string
		looks    []look
	}{
		{"the only one is doubtful", "nrt: a", []look{
			{0, "", ""}, {0, "a starting", ""}, {3 * sec, "a doubtful", "a: hangs"}, {9 * sec, "", "a: hangs"}, {10 * sec, "a starts well", ""},
		}},
		{"another one is started, and then it is doubtful as well", "nrt: a b", []look{
			{0, "", ""}, {0, "a starting", ""}, {3 * sec, "a doubtful", ""}, {3 * sec, "b starting", ""}, {5 * sec, "b doubtful", "a: hangs"},
		}},
		{"one that may still serve", "nrt: a b c", []look{
			{0, "", ""}, {0, "a starting, b starting", ""}, {3 * sec, "a doubtful", ""}, {60 * sec, "", ""},
		}},
		{"the third only repeats two that have failed", "nrt: a b, hkg: c", []look{
			{0, "", ""}, {0, "a starting", ""}, {3 * sec, "a failed", ""}, {3 * sec, "b starting", ""}, {4 * sec, "b failed", "b: broken"},
			{4 * sec, "c starting", "b: broken"}, {10 * sec, "", "b: broken"}, {12 * sec, "", ""},
		}},
		{"those that began before the second failed may be better", "nrt: a b c d", []look{
			{0, "", ""}, {0, "a starting, b starting, c starting", ""}, {sec, "a failed", ""}, {2 * sec, "b failed", ""}, {3 * sec, "d starting", ""},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newStory(t, balance.App{}, tc.machines)
			for _, l := range tc.looks {
				for part := range strings.SplitSeq(l.see, ", ") {
					switch name, what, _ := strings.Cut(part, " "); what {
					case "doubtful":
						m := new(*s.row(name))
						m.Doubtful, m.Health, m.Fault = true, balance.HealthFailing, "hangs"
						s.replace(m)
					case "starts well":
						m := new(*s.row(name))
						m.Doubtful, m.Health, m.Fault = false, balance.HealthUnknown, ""
						s.replace(m)
					default:
						s.see(part)
					}
				}
				s.plan(l.at, 0, 1)
				for _, m := range s.last.Start {
					s.p.answered(t0.Add(l.at), m, balance.StartAccepted, nil)
				}
				got := strings.TrimPrefix(s.last.Doubt, "machine ")
				for id, name := range s.names {
					got = strings.ReplaceAll(got, string(id)+":", name+":")
				}
				if got != l.doubt {
					t.Errorf("at %v, %q: doubt %q, want %q", l.at, l.see, got, l.doubt)
				}
			}
		})
	}
}

// One of four machines is killed from outside each second, and boots take 5 ms: they are up nearly
// all the time, and no request is sent away.
func TestKilledMachinesStartAgainAtOnce(t *testing.T) {
	const tick = 5 * time.Millisecond
	for seed := range uint64(20) {
		s := newStory(t, balance.App{Limits: balance.Limits{Soft: 1}}, "nrt: a b c d")
		rng := rand.New(rand.NewPCG(seed, 1))
		s.plan(0, 0, 0)
		looks, up := 0, 0
		for at := time.Duration(0); at < 2*time.Minute; at += tick {
			for _, m := range s.rows {
				if m.State == balance.StateStarting {
					s.see(s.names[m.ID] + " started")
				}
			}
			if name := string("abcd"[rng.IntN(4)]); at%sec == 0 &&
				s.row(name).State == balance.StateStarted {
				s.see(name + " failed")
			}
			n := 0
			for _, m := range s.rows {
				if m.State == balance.StateStarted {
					n++
				}
			}
			looks, up = looks+4, up+n
			if s.plan(at, n, 4-n); s.last.Refuse != "" {
				t.Fatalf("seed %d, at %v: sent away: %s", seed, at, s.last.Refuse)
			}
			for _, m := range s.last.Start {
				s.p.answered(t0.Add(at), m, balance.StartAccepted, nil)
				s.see(s.names[m.ID] + " starting")
			}
		}
		if share := float64(up) / float64(looks); share < 0.9 {
			t.Errorf("seed %d: machines are up %.2f of the time, want 0.9", seed, share)
		}
	}
}

// A failed recall counts for the cordon that it was for, and not for the next one.
func TestLateAnswerToARecall(t *testing.T) {
	s := newStory(t, balance.App{}, "nrt: a b")
	want := func(at time.Duration, do string) {
		t.Helper()
		if got := s.plan(at, 1, 0); got != do {
			t.Errorf("after %v: %q, want %q", at, got, do)
		}
	}
	s.see("a started, a cordoned")
	want(0, "recall a")
	first := *s.row("a")
	s.see("a uncordoned") // somebody else was quicker
	s.see("a cordoned")
	want(sec, "recall a")
	s.p.recalled(t0.Add(sec), first, errors.New("no route"))
	want(sec, "") // the second recall is under way
	s.p.recalled(t0.Add(sec), *s.row("a"), errors.New("no route"))
	want(sec, "start b")
}

// While requests wait, an owner that does not answer costs no more than three round trips.
func TestPlannerPassesOverSilentOwners(t *testing.T) {
	const ms = time.Millisecond
	soft := balance.App{Limits: balance.Limits{Soft: 1}}
	for _, tc := range []struct {
		name     string
		app      balance.App
		machines string
		owners   map[string]balance.NodeID // by machine; the others are "live"
		rtt      []time.Duration
		steps    []step
	}{
		{"another owner's machine after 300 ms, where round trips are short", soft, "nrt: a b c", map[string]balance.NodeID{"a": "w", "b": "w"}, []time.Duration{ms}, []step{
			{parked: 1, do: "start a", later: true}, {at: 299 * ms, parked: 1}, {at: 300 * ms, parked: 1, do: "start c"}, {at: sec, see: "c starting", parked: 1}, {at: 9 * sec, parked: 1}}},
		{"after three round trips, where they are long", soft, "nrt: a b", map[string]balance.NodeID{"a": "w"}, []time.Duration{200 * ms}, []step{
			{parked: 1, do: "start a", later: true}, {at: 599 * ms, parked: 1}, {at: 600 * ms, parked: 1, do: "start b"}}},
		{"nobody knows how far it is: it is waited for", soft, "nrt: a b", map[string]balance.NodeID{"a": "w"}, nil, []step{{parked: 1, do: "start a", later: true}, {at: 9 * sec, parked: 1}}},
		{"nobody waits: there is time", soft, "nrt: a b c", map[string]balance.NodeID{"b": "w"}, []time.Duration{ms}, []step{
			{see: "a started", inFlight: 2, do: "start b", later: true}, {at: 9 * sec, inFlight: 2}, {at: 9 * sec, inFlight: 2, parked: 1, do: "start c"}}},
		{"an overdue answer counts when it comes", soft, "nrt: a b c", map[string]balance.NodeID{"a": "w"}, []time.Duration{ms}, []step{
			{parked: 1, do: "start a", later: true}, {at: sec, parked: 1, do: "start b"}, {at: sec, see: "a starting, b starting", parked: 2}}},
		{"an owner with nothing else is waited for, and nobody is sent away", soft, "nrt: a b", map[string]balance.NodeID{"a": "w", "b": "w"}, []time.Duration{ms}, []step{
			{parked: 1, do: "start a", later: true}, {at: sec, parked: 9}, {at: 9 * sec, parked: 9}}},
		{"the maximum holds: it may start all the same", balance.App{Max: 1}, "nrt: a b", map[string]balance.NodeID{"a": "w"}, []time.Duration{ms}, []step{
			{parked: 1, do: "start a", later: true}, {at: 9 * sec, parked: 1}}},
		{"in another region", soft, "nrt: a, hkg: b", map[string]balance.NodeID{"a": "w"}, []time.Duration{ms, ms}, []step{
			{parked: 1, do: "start a", later: true}, {at: sec, parked: 1, do: "start b"}}},
		{"what it has accepted it is trusted with", soft, "nrt: a b", map[string]balance.NodeID{"a": "w"}, []time.Duration{ms}, []step{
			{parked: 1, do: "start a"}, {at: 6 * sec, parked: 1, do: "start a", later: true}, {at: 9 * sec, parked: 1}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newStory(t, tc.app, tc.machines)
			for _, m := range s.rows {
				if m.Owner = tc.owners[s.names[m.ID]]; m.Owner == "" {
					m.Owner = "live"
				}
			}
			s.rtt = tc.rtt
			s.play(tc.steps)
		})
	}
}

func TestStopsAreLearned(t *testing.T) {
	var k stops
	left := func(age, want time.Duration) {
		t.Helper()
		if got := k.left(balance.StateStopping, age); got != want {
			t.Errorf("after %v of a stop %v is left, want %v", age, got, want)
		}
	}
	bound := func(age, want time.Duration) {
		t.Helper()
		if got := k.bound(balance.StateStopping, age); got != want {
			t.Errorf("after %v of a stop %v is left at most, want %v", age, got, want)
		}
	}
	left(0, 0)
	left(7*sec, 7*sec)
	left(-sec, 0)
	bound(0, stopUnknown)
	bound(50*sec, 50*sec)
	for _, took := range []time.Duration{3 * sec, 4 * sec, 5 * sec} {
		k.of(balance.StateStopping).Learn(took)
	}
	k.of(balance.StateSuspending).Learn(time.Minute)
	left(0, 4*sec)
	left(3*sec, sec)
	left(4*sec, sec)
	left(6*sec, 2*sec)
	bound(0, 10*sec)
	bound(30*sec, 26*sec)
}

// A machine that a request insists on is asked to start even if it stops slowly.
func TestInsistsOnAMachineThatStops(t *testing.T) {
	s := newStory(t, balance.App{}, "nrt: a b")
	s.see("a started, b started")
	s.plan(0, 0, 0)
	s.see("a stopping")
	s.plan(sec, 0, 0)
	s.wants = []*balance.Target{{Machines: []balance.MachineID{s.row("a").ID}}}
	if got := s.plan(30*sec, 0, 1); got != "start a" {
		t.Errorf("%q, want that it is asked", got)
	}
	s.p.answered(t0.Add(30*sec), s.last.Start[0], balance.StartRemembered, nil)
	if got := s.plan(90*sec, 0, 1); got != "" || s.last.Wait < 180*sec {
		t.Errorf("%q, want that it is waited for; it may be parked for %v", got, s.last.Wait)
	}
}

// What is known of stops survives a restart of the process: it goes through JSON, and counts as
// older than what has been seen since.
func TestStopsSurviveARestart(t *testing.T) {
	stopped := func(s *story, at, took time.Duration) {
		s.see("a started, b started")
		s.plan(at, 0, 0)
		s.see("a stopping")
		s.plan(at+sec, 0, 0)
		s.see("a stopped")
		s.plan(at+sec+took, 0, 0)
	}
	before := newStory(t, balance.App{}, "nrt: a b")
	stopped(before, 0, 15*sec)
	text, err := json.Marshal(before.p.History())
	if err != nil {
		t.Fatal(err)
	}
	var h History
	if err := json.Unmarshal(text, &h); err != nil {
		t.Fatal(err)
	}
	after := newStory(t, balance.App{}, "nrt: a b")
	stopped(after, 0, 16*sec)
	after.p.Restore(h)
	now := after.p.History().learned
	if got, want := taken(now.Stops), []time.Duration{15 * sec, 16 * sec}; !slices.Equal(got, want) ||
		now.Suspends.Known() ||
		!now.Known() {
		t.Errorf("learned stops of %v after a restart, and suspends %v; want %v. On paper: %s", got,
			taken(now.Suspends), want, text)
	}
	if text, err := json.Marshal(History{}); err != nil || string(text) != "{}" {
		t.Errorf("who knows nothing writes %s, %v", text, err)
	}
}
