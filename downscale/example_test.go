package downscale_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale"
)

// platform runs the machines. This one can stop but not suspend.
type platform struct{}

func (platform) Stop(_ context.Context, m balance.Machine) error { return nil }

func (platform) Suspend(context.Context, balance.Machine) error { return errors.ErrUnsupported }

func Example() {
	fleet, _ := balance.NewFleet(balance.FleetConfig{Node: "worker", Region: "nrt"})
	fleet.Apply(balance.PutApp{App: balance.App{ID: "web", Autostop: balance.AutostopStop}})
	gate, _ := fleet.Host(balance.Machine{ID: "nrt-1", App: "web", Region: "nrt"})
	token, _ := gate.Start(0)
	gate.Ready(token)

	asleep := make(chan struct{})
	d, _ := downscale.New(fleet, platform{}, downscale.Config{
		Every:     time.Millisecond, // the defaults are a second each, or minutes
		Quiet:     time.Millisecond,
		KeepAlive: 10 * time.Millisecond,
		Trace: downscale.Trace{
			Cordoned: func(m balance.Machine, _ string) { fmt.Println("soft-cordoned", m.ID) },
			Stopped:  func(m balance.Machine, _ time.Duration) { fmt.Println("stopped", m.ID); close(asleep) },
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- d.Run(ctx) }()

	<-asleep
	_, bounce := gate.Enter(0, 0, 0)
	fmt.Println("a request that comes now:", bounce)
	cancel()
	fmt.Println(<-done)
	// Output:
	// soft-cordoned nrt-1
	// stopped nrt-1
	// a request that comes now: stopped
	// <nil>
}

func ExampleDownscaler_Drain() {
	fleet, _ := balance.NewFleet(balance.FleetConfig{Node: "worker", Region: "nrt"})
	gate, _ := fleet.Host(balance.Machine{ID: "nrt-1", App: "web", Region: "nrt"})
	token, _ := gate.Start(0)
	gate.Ready(token)
	gate.Enter(0, 0, 0)

	d, _ := downscale.New(fleet, platform{}, downscale.Config{})
	rows := fleet.Watch()
	defer rows.Close()
	go func() {
		for gate.State() == balance.StateStarted { // the request goes on behind the closed gate
			<-rows.C()
			rows.Take()
		}
		fmt.Println(gate.State(), "with", gate.InFlight(), "in flight")
		gate.Leave()
	}()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	fmt.Println(d.Drain(ctx), gate.State())
	// Output:
	// stopping with 1 in flight
	// <nil> stopped
}

// A deploy takes a machine out of service. Requests in flight get a minute behind the closed gate.
func ExampleDownscaler_Stop() {
	fleet, _ := balance.NewFleet(balance.FleetConfig{Node: "worker", Region: "nrt"})
	fleet.Apply(balance.PutApp{App: balance.App{ID: "web", Min: 1}})
	gate, _ := fleet.Host(balance.Machine{ID: "nrt-1", App: "web", Region: "nrt"})
	token, _ := gate.Start(0)
	gate.Ready(token)
	gate.Enter(0, 0, 0)

	d, _ := downscale.New(fleet, platform{}, downscale.Config{
		Every: time.Millisecond, Quiet: time.Millisecond,
		Trace: downscale.Trace{
			Draining: func(m balance.Machine, reason string) {
				fmt.Println("drains", m.ID, "for", reason)
				gate.Leave() // the request ends
			},
			Stopped: func(m balance.Machine, _ time.Duration) { fmt.Println("stopped", m.ID) },
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- d.Run(ctx) }()
	err := d.Stop(
		ctx, balance.Machine{App: "web", ID: "nrt-1"},
		downscale.Order{Reason: "a deploy", Drain: time.Minute},
	)
	fmt.Println(err, gate.State())
	cancel()
	<-done
	// Output:
	// drains nrt-1 for a deploy
	// stopped nrt-1
	// <nil> stopped
}

// phone forwards WebSockets and knows how to end them.
type phone struct{ open int }

func (p *phone) Long(_ balance.Machine, of balance.Class) int {
	if of&balance.ClassWebSocket == 0 {
		return 0
	}
	return p.open
}

// This phone does not look at what its connections carry: none is ever idle.
func (*phone) Idle(balance.Machine, balance.Class, time.Duration) int                  { return 0 }
func (*phone) NotifyIdle(balance.Machine, balance.Class, time.Duration, time.Duration) {}

func (p *phone) Notify(m balance.Machine, of balance.Class, within time.Duration) {
	fmt.Printf("close frame 1001 to %d clients of %s (%v, within %v)\n", p.open, m.ID, of, within)
}

// By default long connections keep their machine running. With Notify they are told first, and have
// 5 s to end.
func ExampleConnections() {
	p := &phone{open: 3}
	c := downscale.Config{Connections: p, Notify: balance.ClassWebSocket | balance.ClassEvents}
	fleet, _ := balance.NewFleet(balance.FleetConfig{Node: "worker", Region: "nrt"})
	_, err := downscale.New(fleet, platform{}, c)
	m := balance.Machine{App: "web", ID: "nrt-1"}
	fmt.Println(err, p.Long(m, c.Notify), p.Long(m, balance.ClassAll&^c.Notify))
	p.Notify(m, c.Notify, 5*time.Second)
	// Output:
	// <nil> 3 0
	// close frame 1001 to 3 clients of nrt-1 (events+websocket, within 5s)
}

// heard is what other nodes have told this node, in its simplest form.
type heard struct {
	mu     sync.Mutex
	parked map[balance.AppID]int
	cordon map[balance.MachineKey]uint64 // the generation that every node has acknowledged
	loads  map[balance.MachineKey]balance.Report
}

// Parked is always fresh here; a real one is fresh while every edge has reported recently.
func (h *heard) Parked(app balance.AppID) (n int, fresh bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.parked[app], true
}

func (h *heard) Acked(app balance.AppID, id balance.MachineID, gen uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cordon[balance.MachineKey{App: app, ID: id}] >= gen
}

// Load is fresh as soon as there is a report; a real one is fresh while the report is recent.
func (h *heard) Load(
	app balance.AppID, id balance.MachineID,
) (inFlight, idle int, told, fresh bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r, fresh := h.loads[balance.MachineKey{App: app, ID: id}]
	return r.Load.InFlight - r.Granted, r.Idle, true, fresh
}

// Other nodes tell this node their loads and what they have acknowledged.
func ExampleViews() {
	h := &heard{
		parked: map[balance.AppID]int{"web": 2},
		cordon: map[balance.MachineKey]uint64{{App: "web", ID: "web-1"}: 4},
		loads: map[balance.MachineKey]balance.Report{
			{App: "web", ID: "web-7"}: {Load: balance.Load{InFlight: 12}, Idle: 3},
		},
	}
	c := downscale.Config{Views: h}
	fmt.Println(c.Views.Parked("web"))            // a request waits: nothing is stopped
	fmt.Println(c.Views.Acked("web", "web-1", 5)) // not yet: the gate does not close
	fmt.Println(c.Views.Load("web", "web-7"))
	fmt.Println(c.Views.Load("web", "web-8")) // no report yet: nothing in its region is stopped
	// Output:
	// 2 true
	// false
	// 12 3 true true
	// 0 0 true false
}

// A downscaler feeds and asks Habits if they are its Config.Habits. They can be kept across a
// restart.
func ExampleHabits() {
	var habits downscale.Habits // downscale.Config{Habits: &habits}
	for range 20 {
		habits.Gap("shop", 6*time.Minute) // the downscaler does this
	}
	text, _ := json.Marshal(&habits)

	var later downscale.Habits
	if err := json.Unmarshal(text, &later); err != nil {
		fmt.Println(err)
	}
	fmt.Println("shop:", later.KeepAlive("shop", 5*time.Minute).Round(time.Minute))
	fmt.Println("another:", later.KeepAlive("another", 5*time.Minute))
	// Output:
	// shop: 7m0s
	// another: 5m0s
}
