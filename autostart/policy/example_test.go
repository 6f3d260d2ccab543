package policy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/balance"
)

// A decision depends only on its input values, so it can be replayed and explained.
func ExamplePlanner() {
	app := balance.App{ID: "web", Autostart: true, Limits: balance.Limits{Soft: 20}}
	rows := []*balance.Machine{
		{ID: "web-1", App: "web", Region: "nrt", State: balance.StateStarted},
		{ID: "web-2", App: "web", Region: "nrt"},
		{ID: "web-3", App: "web", Region: "nrt"},
	}
	p := new(policy.Planner)
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	in := policy.Input{App: app, Machines: rows, Regions: []string{"nrt"}, InFlight: 20, Parked: 3}
	for range 2 {
		d := p.Plan(now, in)
		for _, m := range d.Start {
			fmt.Println("start", m.ID, "because:", d.Reason)
			in.Answers = append(in.Answers, policy.Answer{At: now, Machine: m, Start: balance.StartAccepted})
		}
		fmt.Println("want", d.Want, "have", d.Have)
		now = now.Add(time.Second) // the machine is still starting: it counts
	}
	// Output:
	// start web-2 because: demand 23, ready 1x20, starting 0
	// want 2 have 1
	// want 2 have 2
}

func ExampleRegionOrder() {
	app := balance.App{ID: "web", Regions: []string{"hkg", "nrt"}}
	fmt.Println(policy.RegionOrder(app, "fra", []string{"fra", "hkg", "nrt"}))
	fmt.Println(
		policy.RegionOrder(balance.App{ID: "web"}, "fra", []string{"fra", "hkg", "nrt"})[0], "is home",
	)
	// Output:
	// [hkg nrt fra]
	// fra is home
}

// A decision says why machines would be started, before any is: this is a dry run.
func ExampleDecision() {
	ctx, cancel := context.WithCancel(context.Background())
	fleet, _ := balance.NewFleet(balance.FleetConfig{Node: "laptop", Region: "nrt"})
	fleet.Apply(balance.PutApp{App: balance.App{ID: "web", Autostart: true, Min: 1}})
	fleet.Host(balance.Machine{ID: "web-1", App: "web", Region: "nrt"})
	balancer, _ := balance.New(fleet, balance.Config{})
	auto, _ := autostart.New(balancer, nil, autostart.Config{
		DryRun: true,
		Trace: autostart.Trace{Decided: func(d policy.Decision) {
			fmt.Printf(
				"%s: %d of %d there, would start %s: %s\n", d.App, d.Have, d.Want, d.Start[0].ID, d.Reason,
			)
			cancel()
		}},
	})
	auto.Run(ctx)
	// Output: web: 0 of 1 there, would start web-1: demand 0, minimum 1 of which 0 there
}

// What has been learned of boots outlives the process.
func ExampleHistory() {
	before := new(policy.Planner)
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, state := range []balance.State{balance.StateStopped, balance.StateStarting, balance.StateStarted} {
		m := balance.Machine{ID: "web-1", App: "web", Region: "nrt", State: state}
		if state != balance.StateStopped {
			m.Epoch = 1
		}
		before.Plan(now, policy.Input{App: balance.App{ID: "web"}, Machines: []*balance.Machine{&m}})
		now = now.Add(8 * time.Second)
	}
	text, _ := json.Marshal(before.History())
	fmt.Println(string(text))

	var history policy.History
	json.Unmarshal(text, &history)
	after := new(policy.Planner)
	after.Restore(history)
	again, _ := json.Marshal(after.History())
	fmt.Println(string(again) == string(text))
	// Output:
	// {"boots":[{"all":true,"boots":{"lastNs":[8000000000]}},{"boots":{"lastNs":[8000000000]}}]}
	// true
}
