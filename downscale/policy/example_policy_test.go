package policy_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale/policy"
	"github.com/ebbkit/ebb/downscale/policytest"
)

// roomy is a custom policy: after a minute in which half of the machines would have been enough it
// stops the last of the order, and after one without a request all of them. It repeats none of the
// bounds, which hold without it.
type roomy struct{ since time.Time }

// Decide implements [policy.Policy].
func (r *roomy) Decide(now time.Time, s policy.Situation) (ds []policy.Decision) {
	load, room := 0, 0
	var machines []balance.MachineID
	for _, m := range s.Machines {
		if m.Own && m.State == balance.StateStarted && !m.Leaving && !m.Hard {
			load, room = load+max(m.Load, m.Peak), room+m.Limits.Soft
			machines = append(machines, m.ID)
		}
	}
	if r.since.IsZero() || load > room/2 {
		r.since = now
	}
	if now.Sub(r.since) < time.Minute || len(machines) == 0 {
		return nil
	}
	r.since = now
	if load > 0 {
		machines = machines[len(machines)-1:]
	}
	for _, id := range machines {
		text := fmt.Sprintf("a load of %d in room for %d", load, room)
		ds = append(ds, policy.Decision{Machine: id, Verdict: policy.VerdictSpare, Text: text})
	}
	return ds
}

// It passes the whole suite.
func TestRoomy(t *testing.T) {
	policytest.TestPolicy(t, policytest.Subject{
		New: func() policy.Policy { return &roomy{} }, Sleeps: 5 * time.Minute, Stories: 20,
	})
}

// A custom policy is made for each app, by Config.Policy of package downscale. Its bounds are
// enforced for it: see Bounded.
func ExampleBounded() {
	bounded := policy.Bounded{Policy: &roomy{}} // as a Downscaler asks it
	s := policy.Situation{App: balance.App{ID: "web", Autostop: balance.AutostopStop, Min: 1}}
	// in their order, all without load
	for i, id := range []balance.MachineID{"web-1", "web-2", "web-3"} {
		s.Machines = append(
			s.Machines,
			policy.Seen{
				ID: id, Rank: uint64(i), Region: "nrt", State: balance.StateStarted,
				Limits: balance.Limits{Soft: 10}, Own: true,
			},
		)
	}
	now := time.Unix(0, 0)
	bounded.Decide(now, s)
	for _, d := range bounded.Decide(now.Add(time.Minute), s) {
		fmt.Println(d.Verdict, d.Machine, "of", d.App, "in", d.Region+":", d.Reason())
	}
	s.Parked = 1 // a request waits for a machine
	fmt.Println(len(bounded.Decide(now.Add(2*time.Minute), s)), "while one waits")
	// Output:
	// spare web-2 of web in nrt: a load of 0 in room for 30
	// spare web-3 of web in nrt: a load of 0 in room for 30
	// 0 while one waits
}
