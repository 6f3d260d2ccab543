package autostart_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/balance"
)

// listeners is a driver whose machines are no more than listening sockets. Package process has a real one.
type listeners struct {
	mu      sync.Mutex
	running map[balance.MachineID]net.Listener
}

func (d *listeners) Start(_ context.Context, m balance.Machine) (autostart.Booting, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return autostart.Booting{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running[m.ID] = l
	return autostart.Booting{Addr: l.Addr().String()}, nil
}

func (d *listeners) Stop(_ context.Context, m balance.Machine) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if l, ok := d.running[m.ID]; ok {
		delete(d.running, m.ID)
		return l.Close()
	}
	return nil
}

func (d *listeners) Suspend(context.Context, balance.Machine) error { return errors.ErrUnsupported }

func (d *listeners) Watch(ctx context.Context, _ func(autostart.Exit)) error {
	<-ctx.Done()
	return nil
}

// One process that is edge and owner at once: the first request wakes a machine, and the second finds it running.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	fleet, _ := balance.NewFleet(balance.FleetConfig{Node: "laptop", Region: "nrt"})
	fleet.Apply(balance.PutApp{App: balance.App{ID: "web", Autostart: true, Limits: balance.Limits{Soft: 10, Hard: 20}}})
	fleet.Host(balance.Machine{ID: "web-1", App: "web", Region: "nrt"})
	fleet.Host(balance.Machine{ID: "web-2", App: "web", Region: "nrt"})
	balancer, _ := balance.New(fleet, balance.Config{})

	driver := &listeners{running: map[balance.MachineID]net.Listener{}}
	starter, _ := autostart.NewStarter(fleet, driver, autostart.StarterConfig{})
	auto, _ := autostart.New(balancer, starter, autostart.Config{
		Trace: autostart.Trace{Decided: func(d autostart.Decision) { fmt.Println("start", d.Start[0].ID+":", d.Reason) }},
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
		slot.Release(balance.Done)
	}
	cancel()
	running.Wait()
	// Output:
	// start web-2: demand 1, ready 0, starting 0
	// served by web-2
	// served by web-2
}

// A decision is made from values only, so that it can be replayed and explained.
func ExamplePlanner() {
	app := balance.App{ID: "web", Autostart: true, Limits: balance.Limits{Soft: 20}}
	rows := []*balance.Machine{
		{ID: "web-1", App: "web", Region: "nrt", State: balance.Started},
		{ID: "web-2", App: "web", Region: "nrt"},
		{ID: "web-3", App: "web", Region: "nrt"},
	}
	p := autostart.NewPlanner(false)
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for range 2 {
		d := p.Plan(now, autostart.Input{App: app, Machines: rows, Regions: []string{"nrt"}, InFlight: 20, Parked: 3})
		for _, m := range d.Start {
			fmt.Println("start", m.ID, "because:", d.Reason)
			p.Answered(now, m, balance.StartAccepted, nil)
		}
		fmt.Println("want", d.Want, "have", d.Have)
		now = now.Add(time.Second) // the machine is still starting: it counts
	}
	// Output:
	// start web-2 because: demand 23, ready 1x20, starting 0
	// want 2 have 1
	// want 2 have 2
}

func ExampleBoots() {
	var b autostart.Boots
	fmt.Println("nothing is known: suspect after", b.Suspect())
	for _, took := range []time.Duration{9, 8, 14, 10} {
		b.Learn(took * time.Second)
	}
	fmt.Println("expected", b.Expected(), "- suspect after", b.Suspect(), "- a request waits at most", b.Wait())
	fmt.Println("a start of 4s needs about", b.Remaining(4*time.Second), "more")
	// Output:
	// nothing is known: suspect after 3m0s
	// expected 10s - suspect after 28s - a request waits at most 35s
	// a start of 4s needs about 6s more
}

func ExampleRegionOrder() {
	app := balance.App{ID: "web", Regions: []string{"hkg", "nrt"}}
	fmt.Println(autostart.RegionOrder(app, "fra", []string{"fra", "hkg", "nrt"}))
	fmt.Println(autostart.RegionOrder(balance.App{ID: "web"}, "fra", []string{"fra", "hkg", "nrt"})[0], "is home")
	// Output:
	// [hkg nrt fra]
	// fra is home
}

// Errors say what to tell the client, and when it may come back.
func ExampleError() {
	var err error = &autostart.Error{App: "web", Class: autostart.ErrStart, Fault: "machine web-1: exit status 1", After: 4 * time.Second}
	if e, ok := errors.AsType[*autostart.Error](err); ok && errors.Is(err, autostart.ErrStart) {
		fmt.Println("503", e.Cause(), "- Retry-After:", e.RetryAfter().Seconds())
	}
	// Output: 503 no machine could be started: machine web-1: exit status 1 - Retry-After: 4
}
