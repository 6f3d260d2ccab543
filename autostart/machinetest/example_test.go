package machinetest_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/autostart/machinetest"
	"github.com/ebbkit/ebb/balance"
)

// A driver's test calls the suite with a function that makes a driver and its machines.
func ExampleTestDriver() {
	_ = func(t *testing.T) { // func TestMyDriver(t *testing.T)
		machinetest.TestDriver(t, func(t *testing.T) machinetest.Subject {
			fake := &machinetest.Fake{} // yours listens at the addresses it returns: no Dial is needed
			return machinetest.Subject{
				Driver:     fake,
				Dial:       func(context.Context, string) error { return nil },
				NewMachine: func() balance.Machine { return balance.Machine{ID: "m-1", App: "app", Region: "nrt"} },
			}
		})
	}
	// Output:
}

// Tests of the code around machines need no real ones: these boot for a millisecond, and end when
// the test says so.
func ExampleFake() {
	fake := &machinetest.Fake{
		OnStart: func(context.Context, balance.Machine) (boot time.Duration, err error) {
			return time.Millisecond, nil
		},
	}
	fleet, _ := balance.NewFleet(balance.FleetConfig{Node: "here", Region: "home"})
	fleet.Host(balance.Machine{App: "web", ID: "web-1", Region: "home"})
	told := make(chan string)
	starter, _ := machine.NewStarter(fleet, fake, machine.Config{
		Check: machine.Check{Func: fake.Check},
		Trace: machine.Trace{
			Ready:  func(m balance.Machine, _ bool, _ time.Duration) { told <- "ready at " + m.Addr },
			Exited: func(_ balance.Machine, e machine.Exit) { told <- "ended: " + e.Reason },
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { starter.Run(ctx) })

	starter.Start(ctx, balance.Machine{App: "web", ID: "web-1"})
	fmt.Println(<-told)
	fake.Exit(machine.Exit{App: "web", ID: "web-1", Code: 1, Reason: "exit status 1"})
	fmt.Println(<-told)
	fmt.Println(fake.Calls())
	cancel()
	running.Wait()
	// Output:
	// ready at web-1.web:80
	// ended: exit status 1
	// [start web/web-1@1]
}
