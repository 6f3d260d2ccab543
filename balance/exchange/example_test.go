package exchange_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange"
)

// A worker starts a machine, and an edge, which has a fleet of its own, sees it.
func Example() {
	engine := exchange.NewMemory(exchange.MemoryConfig{})
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	node := func(id balance.NodeID, c exchange.Config) (*balance.Fleet, *exchange.Link) {
		fleet, err := balance.NewFleet(balance.FleetConfig{Node: id, Region: "nrt"})
		if err != nil {
			log.Fatal(err)
		}
		link, err := exchange.New(fleet, engine.Connect(id), c)
		if err != nil {
			log.Fatal(err)
		}
		go link.Run(ctx)
		return fleet, link
	}
	worker, _ := node("worker-1", exchange.Config{Worker: true, Hop: "10.0.0.7:9000"})
	edge, link := node("edge-1", exchange.Config{Edge: true})

	gate, err := worker.Host(balance.Machine{ID: "m1", App: "web", Region: "nrt"})
	if err != nil {
		log.Fatal(err)
	}
	token, _ := gate.Start(0)
	gate.Ready(token)

	rows := edge.Watch()
	defer rows.Close()
	for {
		if web, ok := edge.App("web"); ok {
			if m, ok := web.Machine("m1"); ok && m.State == balance.StateStarted {
				owner, _ := link.Node(m.Owner)
				fmt.Printf("%s is %v at %s, which is reached at %s\n", m.Key(), m.State, m.Owner, owner.Hop)
				return
			}
		}
		<-rows.C() // something has changed at the edge
		rows.Take()
	}
	// Output: web/m1 is started at worker-1, which is reached at 10.0.0.7:9000
}

// Two people write an app's settings: the second one gets a conflict.
func ExampleStore() {
	ctx := context.Background()
	var store exchange.Store = exchange.NewMemory(exchange.MemoryConfig{}).Connect("edge-1")
	first, err := store.Put(ctx, "app.web", []byte(`{"ID":"web","Min":1}`), 0)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := store.Put(ctx, "app.web", []byte(`{"ID":"web","Min":2}`), first); err != nil {
		log.Fatal(err)
	}
	_, err = store.Put(ctx, "app.web", []byte(`{"ID":"web","Min":3}`), first)
	fmt.Println(errors.Is(err, exchange.ErrConflict))
	now, err := store.Get(ctx, "app.web")
	fmt.Println(string(now.Value), err)
	// Output:
	// true
	// {"ID":"web","Min":2} <nil>
}

func ExampleSubject_String() {
	fmt.Println(exchange.Subject{Cluster: "prod", Kind: "row", Region: "nrt", Node: "worker.1"})
	fmt.Println(exchange.Subject{Cluster: "prod", Kind: "row"})
	fmt.Println(exchange.Subject{Cluster: "prod", Kind: "snap", Node: "worker.1"})
	// Output:
	// ebb.prod.row.nrt.worker%2E1
	// ebb.prod.row.*.*
	// ebb.prod.snap.worker%2E1
}
