package autostart_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/autostart/machinetest"
	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/balance"
)

// One process that is edge and owner at once: the first request wakes a machine, and the second
// finds it running.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	fleet, _ := balance.NewFleet(balance.FleetConfig{Node: "laptop", Region: "nrt"})
	fleet.Apply(
		balance.PutApp{
			App: balance.App{ID: "web", Autostart: true, Limits: balance.Limits{Soft: 10, Hard: 20}},
		},
	)
	fleet.Host(balance.Machine{ID: "web-1", App: "web", Region: "nrt"})
	fleet.Host(balance.Machine{ID: "web-2", App: "web", Region: "nrt"})
	balancer, _ := balance.New(fleet, balance.Config{})

	driver := &machinetest.Fake{} // package process has a real one
	starter, _ := machine.NewStarter(fleet, driver, machine.Config{
		Check: machine.Check{Func: driver.Check},
	})
	auto, _ := autostart.New(balancer, starter, autostart.Config{
		Trace: autostart.Trace{
			Decided: func(d policy.Decision) { fmt.Println("start", d.Start[0].ID+":", d.Reason) },
		},
	})
	var running sync.WaitGroup
	running.Go(func() { balancer.Run(ctx) })
	running.Go(func() { starter.Run(ctx) })
	running.Go(func() { auto.Run(ctx) })

	for range 2 {
		slot, err := auto.Acquire(ctx, &balance.Request{App: "web"})
		if err != nil {
			fmt.Println(err)
			break
		}
		fmt.Println("served by", slot.Machine().ID)
		// Enter slot.Gate(), dial slot.Machine().Addr, send the request, and then:
		slot.Release(balance.OutcomeDone)
	}
	cancel()
	running.Wait()
	// Output:
	// start web-2: demand 1, ready 0, starting 0
	// served by web-2
	// served by web-2
}

// Requests that wait take turns by tenant: a flood of one holds up no other.
func ExampleAutostart_Acquire_tenants() {
	fleet, _ := balance.NewFleet(balance.FleetConfig{Node: "here", Region: "home"})
	gate, _ := fleet.Host(
		balance.Machine{ID: "gpu-1", App: "gpu", Region: "home", Limits: balance.Limits{Hard: 1}},
	)
	token, _ := gate.Start(0)
	gate.Ready(token) // it runs
	balancer, _ := balance.New(fleet, balance.Config{})
	waits := make(chan int)
	room, _ := autostart.New(balancer, nil, autostart.Config{
		Trace: autostart.Trace{Parked: func(_ balance.AppID, n int) { waits <- n }},
	})

	ctx := context.Background()
	slot, _ := room.Acquire(ctx, &balance.Request{App: "gpu", Tenant: "busy"})
	served := make(chan string)
	for _, tenant := range []string{"busy", "busy", "busy", "quiet"} {
		go func() {
			slot, _ := room.Acquire(ctx, &balance.Request{App: "gpu", Tenant: tenant})
			served <- tenant
			slot.Release(balance.OutcomeDone)
		}()
		<-waits // one after the other
	}
	slot.Release(balance.OutcomeDone)
	for range 4 {
		fmt.Println(<-served)
	}
	// Output:
	// busy
	// quiet
	// busy
	// busy
}

// Errors say what to tell the client, and when it may come back.
func ExampleError() {
	var err error = &autostart.Error{App: "web", Class: autostart.ErrStart, Fault: "machine web-1: exit status 1", After: 4 * time.Second}
	if e, ok := errors.AsType[*autostart.Error](err); ok && errors.Is(err, autostart.ErrStart) {
		fmt.Println("503", e.Reason(), "- Retry-After:", e.RetryAfter().Seconds())
	}
	// Output: 503 no machine could be started: machine web-1: exit status 1 - Retry-After: 4
}

// overRPC is an owner in another process, as an edge sees it. The gate stands for what is there.
type overRPC struct{ gate *balance.Gate }

// Start says what to start, and from which epoch: whoever asks late learns what has become of it.
func (o overRPC) Start(_ context.Context, m balance.Machine) (balance.StartAnswer, error) {
	fmt.Println("POST /start", m.Key(), "epoch", m.Epoch)
	token, answer := o.gate.Start(m.Epoch)
	o.gate.Ready(token) // it boots in no time
	return answer, nil
}

// Recall ends a soft cordon.
func (o overRPC) Recall(_ context.Context, m balance.Machine) error {
	fmt.Println("POST /recall", m.Key(), "cordon", m.CordonGen)
	return nil
}

// The owner of a machine is reached by whatever there is between the nodes.
func ExampleOwner() {
	ctx, cancel := context.WithCancel(context.Background())
	fleet, _ := balance.NewFleet(balance.FleetConfig{Node: "edge", Region: "nrt"})
	fleet.Apply(balance.PutApp{App: balance.App{ID: "web", Autostart: true}})
	gate, _ := fleet.Host(balance.Machine{ID: "web-1", App: "web", Region: "nrt"})
	balancer, _ := balance.New(fleet, balance.Config{})
	auto, _ := autostart.New(balancer, overRPC{gate}, autostart.Config{})
	var running sync.WaitGroup
	running.Go(func() { auto.Run(ctx) })

	if slot, err := auto.Acquire(ctx, &balance.Request{App: "web"}); err == nil {
		fmt.Println("served by", slot.Machine().ID)
		slot.Release(balance.OutcomeDone)
	}
	cancel()
	running.Wait()
	// Output:
	// POST /start web/web-1 epoch 0
	// served by web-1
}
