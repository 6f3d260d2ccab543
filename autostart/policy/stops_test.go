package policy

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
)

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

// A request that insists on a machine which stops slowly asks for it all the same.
func TestInsistsOnAMachineThatStops(t *testing.T) {
	s := newStory(t, balance.App{}, "nrt: a b")
	s.see("a started, b started")
	s.plan(0, 0, 0)
	s.see("a stopping")
	s.plan(sec, 0, 0)
	s.wants = []*balance.Want{{Force: balance.Target{Machines: []balance.MachineID{s.row("a").ID}}}}
	if got := s.plan(30*sec, 0, 1); got != "start a" {
		t.Errorf("%q, want that it is asked", got)
	}
	s.p.answered(t0.Add(30*sec), s.last.Start[0], balance.StartRemembered, nil)
	if got := s.plan(90*sec, 0, 1); got != "" || s.last.Wait < 180*sec {
		t.Errorf("%q, want that it is waited for; it may be parked for %v", got, s.last.Wait)
	}
}

// What is known of stops survives a restart of the process: through JSON, and before what has been
// seen since.
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
