package machine_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/autostart/machinetest"
	"github.com/ebbkit/ebb/balance"
)

// A driver whose provider limits its calls returns TryAgain: the start is retried, and no request
// is lost.
func ExampleTryAgain() {
	start := func(resp *http.Response) error {
		if resp.StatusCode != http.StatusTooManyRequests {
			return nil
		}
		after, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		return machine.TryAgain{After: time.Duration(after) * time.Second, Err: errors.New(resp.Status)}
	}
	fmt.Println(start(&http.Response{
		StatusCode: 429, Status: "429 Too Many Requests", Header: http.Header{"Retry-After": {"2"}},
	}))
	// Output:
	// 429 Too Many Requests (try again after 2s)
}

// An agent in the machine says when it is ready; no checks are needed.
func ExamplePush() {
	var push machine.Push
	// Pass &push as Config.Readiness. Where the agent's message arrives:
	push.Ready("web", "web-1", 7)
	fmt.Println(push.Await(context.Background(), balance.Machine{App: "web", ID: "web-1", Epoch: 7}))
	push.Failed("web", "web-2", 1, errors.New("disk is full"))
	fmt.Println(push.Await(context.Background(), balance.Machine{App: "web", ID: "web-2", Epoch: 1}))
	// Output:
	// <nil>
	// disk is full
}

// A machine is ready when its health path says so, and failing when three checks in a row fail.
func ExampleCheck() {
	fleet, _ := balance.NewFleet(balance.FleetConfig{Node: "laptop", Region: "nrt"})
	_, err := machine.NewStarter(
		fleet, &machinetest.Fake{},
		machine.Config{Check: machine.Check{Path: "/healthz", Every: 10 * time.Second}},
	)
	fmt.Println(err)
	_, err = machine.NewStarter(
		fleet, &machinetest.Fake{}, machine.Config{Check: machine.Check{Path: "healthz"}},
	)
	fmt.Println(err)
	// Output:
	// <nil>
	// machine: Check.Path "healthz": want a path such as /healthz, percent-encoded where needed
}

// A Starter carries out one start, however often it is asked for.
func ExampleStarter() {
	ctx, cancel := context.WithCancel(context.Background())
	fleet, _ := balance.NewFleet(balance.FleetConfig{Node: "laptop", Region: "nrt"})
	fleet.Host(balance.Machine{ID: "web-1", App: "web", Region: "nrt"})
	fake := &machinetest.Fake{} // package process has a real driver
	ready := make(chan balance.MachineID)
	starter, _ := machine.NewStarter(
		fleet, fake,
		machine.Config{
			Check: machine.Check{Func: fake.Check},
			Trace: machine.Trace{
				Ready: func(m balance.Machine, resumed bool, _ time.Duration) { ready <- m.ID },
			},
		},
	)
	var running sync.WaitGroup
	running.Go(func() { starter.Run(ctx) })
	app, _ := fleet.App("web")
	row, _ := app.Machine("web-1")
	fmt.Println(starter.Start(ctx, row))
	fmt.Println(<-ready, "is ready")
	fmt.Println(starter.Start(ctx, row)) // the row is old by now
	cancel()
	running.Wait()
	// Output:
	// accepted <nil>
	// web-1 is ready
	// already started <nil>
}
