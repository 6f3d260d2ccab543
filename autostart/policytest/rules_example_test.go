package policytest_test

import (
	"fmt"
	"time"

	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/autostart/policytest"
	"github.com/ebbkit/ebb/balance"
)

// The rule of an older proxy, for comparison: it forgets a start after 20 s.
func ExampleNewSynchronous() {
	rule := policytest.NewSynchronous(0, 0)
	rows := []*balance.Machine{
		{ID: "web-1", App: "web", Region: "nrt"}, {ID: "web-2", App: "web", Region: "nrt"},
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for range 3 {
		d := rule.Plan(
			now,
			policy.Input{
				App: balance.App{ID: "web", Autostart: true}, Machines: rows, Regions: []string{"nrt"},
				Parked: 1,
			},
		)
		for i, m := range rows {
			if len(d.Start) > 0 && d.Start[0].ID == m.ID {
				rows[i] = &balance.Machine{
					ID: m.ID, App: "web", Region: "nrt", State: balance.StateStarting, Epoch: 1,
				}
				fmt.Println("start", m.ID)
			}
		}
		now = now.Add(15 * time.Second)
	}
	// Output:
	// start web-2
	// start web-1
}
