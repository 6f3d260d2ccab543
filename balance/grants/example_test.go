package grants_test

import (
	"fmt"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/grants"
)

// A GPU takes one request at a time: its owner hands the slot to the node at which one waits.
func Example() {
	owner, _ := balance.NewFleet(balance.FleetConfig{Node: "worker", Region: "nrt"})
	one := balance.Limits{Soft: 1, Hard: 1}
	owner.Apply(balance.PutApp{App: balance.App{ID: "gpu", Limits: one}})
	gate, _ := owner.Host(balance.Machine{ID: "gpu-1", App: "gpu", Region: "nrt"})
	token, _ := gate.Start(0)
	gate.Ready(token)

	rows := owner.Watch()
	defer rows.Close()
	edge, _ := balance.NewFleet(balance.FleetConfig{Node: "edge", Region: "nrt"})
	edge.Apply(rows.Take()...)
	b, _ := balance.New(edge, balance.Config{})

	granter, _ := grants.New(owner, grants.Config{
		// over a network, in practice
		Give: func(to balance.NodeID, g balance.Grant) { b.AcceptGrant(g) },
	})
	for owner, part := range b.Asks("gpu", 1) { // one request waits here
		fmt.Println("ask", owner, "for", part)
		granter.Ask("edge", "gpu", part) // likewise
	}

	r, _ := b.Pick(balance.Request{App: "gpu"})
	slot, _ := r.GrantToken()
	_, bounce := gate.Enter(slot, 0, 0) // the slot was kept for it
	fmt.Println(r.Machine().ID, bounce)

	gate.Leave()
	r.Release(balance.OutcomeDone)
	// Output:
	// ask worker for 1
	// gpu-1 admitted
}
