package policytest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/balance"
)

const sec = time.Second

// step is one decision about machines a, b, c. Its starts are accepted, unless refused is set.
type step struct {
	at       time.Duration
	see      string // that a machine is in that state now
	inFlight int
	parked   int
	do       string
	refused  bool
}

// The rules of the modelled proxy, and what is wrong with them.
func TestWindowedRules(t *testing.T) {
	for _, tc := range []struct {
		name  string
		p     policy.Policy
		steps []step
	}{
		{"synchronous: one per wait", NewSynchronous(0, 0), []step{
			{parked: 1, do: "start a"}, {at: sec, see: "a starting", parked: 1}, {at: 19 * sec, parked: 1}, {at: 20 * sec, parked: 1, do: "start b"}, {at: 40 * sec, see: "b starting", parked: 1, do: "start c"}, {at: 41 * sec, see: "a started", inFlight: 1}}},
		{"synchronous: as many as wait", NewSynchronous(0, 0), []step{{parked: 25, do: "start a b c"}, {at: sec, parked: 25}}},
		{"asynchronous: one per window", NewAsynchronous(0, 0), []step{
			{parked: 25, do: "start a"}, {at: sec, see: "a starting", parked: 25}, {at: 20 * sec, parked: 25, do: "start b"}, {at: 21 * sec, see: "b started", inFlight: 25}, {at: 40 * sec, inFlight: 25, do: "start c"}}},
		{"asynchronous: below soft nothing is started, at soft it is", NewAsynchronous(0, 0), []step{{see: "a started", inFlight: 9}, {inFlight: 10, do: "start b"}}},
		{"a window of one's own", NewAsynchronous(5*sec, 0), []step{{parked: 1, do: "start a"}, {at: 4 * sec, see: "a starting", parked: 1}, {at: 5 * sec, parked: 1, do: "start b"}}},
		{"what is refused was never asked for", NewSynchronous(0, 0), []step{{parked: 1, do: "start a", refused: true}, {at: sec, parked: 1, do: "start a"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ids := []balance.MachineID{"m0", "m1", "m2"}
			slices.SortFunc(ids, func(a, b balance.MachineID) int {
				return cmp.Compare(
					balance.MachineKey{App: "web", ID: a}.Rank(), balance.MachineKey{App: "web", ID: b}.Rank(),
				)
			})
			app := balance.App{ID: "web", Autostart: true, Limits: balance.Limits{Soft: 10}}
			rows := make([]*balance.Machine, len(ids))
			for i, id := range ids {
				rows[i] = &balance.Machine{ID: id, App: "web", Region: "nrt"}
			}
			var answers []policy.Answer
			for i, st := range tc.steps {
				if name, state, ok := strings.Cut(st.see, " "); ok {
					m := new(*rows[name[0]-'a'])
					if m.Epoch++; state == "started" {
						if m.State == balance.StateStarting {
							m.Epoch--
						}
						m.State = balance.StateStarted
					} else {
						m.State = balance.StateStarting
					}
					rows[name[0]-'a'] = m
				}
				d := tc.p.Plan(epoch0.Add(st.at), policy.Input{
					App: app, Machines: slices.Clone(rows), Regions: []string{"nrt"},
					InFlight: st.inFlight, Parked: st.parked, Answers: answers,
				})
				answers = nil
				got := ""
				for _, m := range d.Start {
					got += fmt.Sprintf(" %c", 'a'+slices.Index(ids, m.ID))
					a := policy.Answer{At: epoch0.Add(st.at), Machine: m, Start: balance.StartAccepted}
					if st.refused {
						a.Start = balance.StartRefused
					}
					answers = append(answers, a)
				}
				if got != "" {
					got = "start" + got
				}
				if got != st.do {
					t.Fatalf("step %d at %v: %q, want %q", i, st.at, got, st.do)
				}
			}
		})
	}
}
