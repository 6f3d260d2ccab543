package policytest_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale/policy"
	"github.com/ebbkit/ebb/downscale/policytest"
)

// A policy's own test calls the suite with a function that makes one, and says how soon idle apps
// sleep.
func ExampleTestPolicy() {
	_ = func(t *testing.T) { // func TestMyPolicy(t *testing.T)
		policytest.TestPolicy(t, policytest.Subject{
			New:    func() policy.Policy { return &policytest.Excess{Pass: time.Minute} },
			Sleeps: 2 * time.Minute,
		})
	}
	// Output:
}

func ExampleExcess() {
	var rule policytest.Excess
	s := policy.Situation{App: balance.App{ID: "web", Autostop: balance.AutostopStop}}
	for _, id := range []balance.MachineID{"nrt-1", "nrt-2", "nrt-3"} {
		s.Machines = append(
			s.Machines,
			policy.Seen{ID: id, Region: "nrt", Rank: balance.MachineKey{App: "web", ID: id}.Rank(),
				State: balance.StateStarted, Limits: balance.Limits{Soft: 20}, Own: true, Load: 19},
		)
	}
	start := time.Now()
	rule.Decide(start, s)
	for _, d := range rule.Decide(start.Add(3*time.Minute), s) {
		fmt.Println(d.Verdict, d.Machine, "although the others are nearly full:", d.Reason())
	}
	// Output:
	// spare nrt-3 although the others are nearly full: 3 machines running, 0 at the soft limit
}
