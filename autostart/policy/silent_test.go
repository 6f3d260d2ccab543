package policy

import (
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// An owner that does not answer within three round trips costs no more than that, while somebody
// waits.
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
