package health

import (
	"strings"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
)

func TestLiveness(t *testing.T) {
	const ms = time.Millisecond
	type look struct {
		at     time.Duration
		found  Condition
		recent bool
		next   time.Duration
		do     string // "failing", "passing", "restart"
	}
	for _, tc := range []struct {
		name      string
		unchecked bool
		after     time.Duration
		tries     int // earlier restarts that did not help
		looks     []look
		left      int // tries, at the end
	}{
		{name: "well", looks: []look{{at: 5 * sec, next: 5 * sec}, {at: 10 * sec, next: 5 * sec}}},
		{name: "what fails is looked into more often, and is failing by the third", looks: []look{
			{at: 5 * sec, found: ConditionFailing, next: 5 * sec / 3}, {at: 7 * sec, found: ConditionFailing, next: 5 * sec / 3}, {at: 9 * sec, found: ConditionFailing, next: 5 * sec, do: "failing"}, {at: 14 * sec, next: 5 * sec, do: "passing"}}},
		{name: "a restart after 30 s of failures, to the moment", looks: []look{
			{at: 5 * sec, found: ConditionFailing, next: 5 * sec / 3}, {at: 7 * sec, found: ConditionFailing, next: 5 * sec / 3}, {at: 9 * sec, found: ConditionFailing, next: 5 * sec, do: "failing"},
			{at: 32 * sec, found: ConditionFailing, next: 3 * sec}, {at: 34900 * ms, found: ConditionFailing, next: 200 * ms}, {at: 35 * sec, found: ConditionFailing, next: 200 * ms, do: "restart"}}},
		{name: "one that passes begins anew", looks: []look{
			{at: 5 * sec, found: ConditionFailing, next: 5 * sec / 3}, {at: 30 * sec, next: 5 * sec}, {at: 36 * sec, found: ConditionFailing, next: 5 * sec / 3}, {at: 65 * sec, found: ConditionFailing, next: sec}, {at: 66 * sec, found: ConditionFailing, next: 200 * ms, do: "failing restart"}}},
		{name: "failures of a recent machine are expected", looks: []look{
			{at: 5 * sec, found: ConditionFailing, recent: true, next: 5 * sec / 3}, {at: 60 * sec, found: ConditionFailing, recent: true, next: 5 * sec / 3}, {at: 61 * sec, found: ConditionFailing, next: 5 * sec, do: "failing"}, {at: 90 * sec, found: ConditionFailing, next: 200 * ms, do: "restart"}}},
		{name: "nothing listens: within a second, also where it is recent", looks: []look{
			{at: 5 * sec, found: ConditionRefused, recent: true, next: 200 * ms}, {at: 5200 * ms, found: ConditionRefused, recent: true, next: 200 * ms}, {at: 5400 * ms, found: ConditionRefused, recent: true, next: 200 * ms, do: "failing"}, {at: 6 * sec, found: ConditionRefused, recent: true, next: 200 * ms, do: "restart"}}},
		{name: "a port that is opened anew", looks: []look{
			{at: 5 * sec, found: ConditionRefused, next: 200 * ms}, {at: 5800 * ms, found: ConditionRefused, next: 200 * ms}, {at: 6 * sec, next: 5 * sec}, {at: 11 * sec, found: ConditionRefused, next: 200 * ms}}},
		{name: "never", after: -1, looks: []look{
			{at: 5 * sec, found: ConditionRefused, next: 5 * sec / 3}, {at: 7 * sec, found: ConditionRefused, next: 5 * sec / 3}, {at: 9 * sec, found: ConditionRefused, next: 5 * sec, do: "failing"}, {at: 999 * sec, found: ConditionRefused, next: 5 * sec}}},
		{name: "no checks: what is looked at for a reason", unchecked: true, looks: []look{
			{at: 5 * sec, found: ConditionFailing}, {at: 99 * sec, found: ConditionFailing}, {at: 100 * sec, found: ConditionRefused, next: 200 * ms, do: "failing"}, {at: 101 * sec, found: ConditionRefused, next: 200 * ms, do: "restart"}}},
		{name: "each that does not help doubles it", tries: 2, looks: []look{
			{at: 5 * sec, found: ConditionFailing, next: 5 * sec / 3}, {at: 124 * sec, found: ConditionFailing, next: sec}, {at: 125 * sec, found: ConditionFailing, next: 200 * ms, do: "failing restart"}}, left: 2},
		{name: "so it is where nothing listens", tries: 2, looks: []look{
			{at: 5 * sec, found: ConditionRefused, next: 800 * ms}, {at: 8900 * ms, found: ConditionRefused, next: 800 * ms}, {at: 9 * sec, found: ConditionRefused, next: 800 * ms, do: "failing restart"}}, left: 2},
		{name: "up to 16 times", tries: 9, looks: []look{{at: 5 * sec, found: ConditionFailing, next: 5 * sec / 3}, {at: 485 * sec, found: ConditionFailing, next: 200 * ms, do: "restart"}}, left: 9},
		{name: "forgotten when it has run well for as long", tries: 1, looks: []look{{at: 59 * sec, next: 5 * sec}, {at: 60 * sec, next: 5 * sec}, {at: 61 * sec, found: ConditionFailing, next: 5 * sec / 3}, {at: 91 * sec, found: ConditionFailing, next: 200 * ms, do: "restart"}}},
		{name: "one failure begins that anew", tries: 1, looks: []look{{at: 59 * sec, found: ConditionFailing, next: 5 * sec / 3}, {at: 60 * sec, next: 5 * sec}, {at: 119 * sec, next: 5 * sec}}, left: 1},
		{name: "a clock that is set back", looks: []look{
			{at: 100 * sec, found: ConditionFailing, next: 5 * sec / 3}, {at: 5 * sec, found: ConditionFailing, next: 5 * sec / 3}, {at: 6 * sec, next: 5 * sec}, {at: 7 * sec, found: ConditionFailing, next: 5 * sec / 3}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			check := Checks{Every: 5 * sec, FailAfter: 3, PassAfter: 1}
			if tc.unchecked {
				check.Every = -1
			}
			after := tc.after
			if after == 0 {
				after = RestartDefault
			}
			l := Liveness{Check: check, Tries: tc.tries}
			l.Begin(t0)
			for i, k := range tc.looks {
				changed, restart, next := l.Look(t0.Add(k.at), k.found, after, k.recent)
				var do []string
				if changed {
					do = append(do, map[bool]string{true: "failing", false: "passing"}[l.streak.failing])
				}
				if restart {
					do = append(do, "restart")
				}
				if got := strings.Join(do, " "); got != k.do || next != k.next {
					t.Fatalf("look %d at %v: %q, next after %v; want %q, %v", i, k.at, got, next, k.do, k.next)
				}
			}
			if l.Tries != tc.left {
				t.Errorf("%d tries in the end, want %d", l.Tries, tc.left)
			}
		})
	}
}

// A failure of all machines is no reason to restart all; one is tried.
func TestBlames(t *testing.T) {
	ids := canonical("web", 4)
	for _, tc := range []struct {
		name string
		// in canonical order: w well, y well and recent, o restarted for the same, f failing, s stopped
		states string
		want   string // who may be restarted
	}{
		{"it is the only one", "fsss", "a"},
		{"another is well", "fwss", "a"},
		{"two of three", "ffws", "ab"},
		{"all that run fail", "fffs", "a"},
		{"all that run fail, and the first of the order sleeps", "sffs", "b"},
		{"another starts, to replace it", "yfss", "b"},
		{"one has been restarted: what comes of that is waited for", "offs", ""},
		{"one has been restarted, and another is well", "offw", "bc"},
	} {
		var ms []*balance.Machine
		trials := map[balance.MachineID]Trial{}
		for i, c := range tc.states {
			m := &balance.Machine{ID: ids[i], App: "web", State: balance.StateStarted}
			switch c {
			case 'f':
				m.Health = balance.HealthFailing
			case 's':
				m.State = balance.StateStopped
			case 'o':
				trials[m.ID] = TrialOpen
			case 'w':
				trials[m.ID] = TrialPassed
			}
			ms = append([]*balance.Machine{m}, ms...) // not in order
		}
		got := ""
		for i, c := range tc.states {
			if c == 'f' && MayRestart(ms, ids[i], func(m *balance.Machine) Trial { return trials[m.ID] }) {
				got += string(rune('a' + i))
			}
		}
		if got != tc.want {
			t.Errorf("%s (%s): %q may be restarted, want %q", tc.name, tc.states, got, tc.want)
		}
	}
}
