package machine_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/autostart/machinetest"
	"github.com/ebbkit/ebb/balance"
)

// hypervisor is a driver that sees into its machines. The fake starts and stops them.
type hypervisor struct {
	*machinetest.Fake
	paused atomic.Bool
}

// Describe makes it a machine.Describer: a machine that does not become ready then gets a reason.
func (h *hypervisor) Describe(context.Context, balance.Machine) (machine.Description, error) {
	return machine.Description{
		Listens: []string{"127.0.0.1:3000"}, Known: true, Output: "listening on port 3000",
	}, nil
}

// Inspect makes it a machine.Inspector: it knows of machines that still accept connections but
// answer nothing.
func (h *hypervisor) Inspect(context.Context, balance.Machine) error {
	if h.paused.Load() {
		return errors.New("it is paused")
	}
	return nil
}

// A driver that sees where its machines listen lets a Starter say why one does not become ready:
// here the app listens at another port than the one that is dialed.
func ExampleDescriber() {
	var driver machine.Driver = &hypervisor{Fake: &machinetest.Fake{}}
	m := balance.Machine{App: "web", ID: "web-1", Epoch: 1}
	booting, _ := driver.Start(context.Background(), m)
	if d, ok := driver.(machine.Describer); ok { // as a Starter asks while the machine boots
		seen, err := d.Describe(context.Background(), m)
		fmt.Println("dialed at", booting.Addr, "but listening at", seen.Listens, err)
		fmt.Println("last line:", seen.Output)
	}
	// Output:
	// dialed at web-1.web:80 but listening at [127.0.0.1:3000] <nil>
	// last line: listening on port 3000
}

// A machine whose check passes is failing if its driver knows that it is paused.
func ExampleInspector() {
	ctx, cancel := context.WithCancel(context.Background())
	fleet, _ := balance.NewFleet(balance.FleetConfig{Node: "laptop", Region: "nrt"})
	fleet.Apply(balance.PutApp{App: balance.App{ID: "web", RestartAfter: -1}})
	fleet.Host(balance.Machine{ID: "web-1", App: "web", Region: "nrt"})
	driver := &hypervisor{Fake: &machinetest.Fake{}}
	said := make(chan string)
	starter, _ := machine.NewStarter(fleet, driver, machine.Config{
		Check: machine.Check{Func: driver.Check, Every: 3 * time.Millisecond},
		Trace: machine.Trace{
			Ready: func(m balance.Machine, _ bool, _ time.Duration) {
				driver.paused.Store(true) // by somebody at the console
			},
			Health: func(m balance.Machine, h balance.Health, err error) {
				said <- fmt.Sprintf("%s is %v: %v", m.ID, h, err)
			},
		},
	})
	var running sync.WaitGroup
	running.Go(func() { starter.Run(ctx) })
	starter.Start(ctx, balance.Machine{App: "web", ID: "web-1"})
	fmt.Println(<-said)
	cancel()
	running.Wait()
	// Output:
	// web-1 is failing: it is paused
}

// A driver that lists its machines lets a restarted owner take over those that run.
func ExampleLister() {
	ctx, cancel := context.WithCancel(context.Background())
	driver := &machinetest.Fake{}                                         // it is a machine.Lister
	driver.Start(ctx, balance.Machine{App: "web", ID: "web-1", Epoch: 7}) // by the process before

	fleet, _ := balance.NewFleet(balance.FleetConfig{Node: "laptop", Region: "nrt"})
	gate, _ := fleet.Host(balance.Machine{ID: "web-1", App: "web", Region: "nrt"})
	ready := make(chan bool)
	starter, _ := machine.NewStarter(fleet, driver, machine.Config{
		Check: machine.Check{Func: driver.Check},
		Trace: machine.Trace{
			Adopted: func(m balance.Machine) { fmt.Printf("%s runs at %s\n", m.ID, m.Addr) },
			Ready:   func(balance.Machine, bool, time.Duration) { close(ready) },
		},
	})
	var running sync.WaitGroup
	running.Go(func() { starter.Run(ctx) })
	<-ready
	fmt.Println(gate.State(), "at epoch", gate.Load().Epoch, "after", driver.Calls())
	cancel()
	running.Wait()
	// Output:
	// web-1 runs at web-1.web:80
	// started at epoch 7 after [start web/web-1@7]
}
