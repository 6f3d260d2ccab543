package autostart_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/balance"
)

// listeners is a driver whose machines are no more than listening sockets. Package process has a real one.
type listeners struct {
	mu      sync.Mutex
	running map[balance.MachineKey]net.Listener
}

func (d *listeners) Start(_ context.Context, m balance.Machine) (autostart.Booting, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return autostart.Booting{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running[m.Key()] = l
	return autostart.Booting{Addr: l.Addr().String()}, nil
}

func (d *listeners) Stop(_ context.Context, m balance.Machine) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if l, ok := d.running[m.Key()]; ok {
		delete(d.running, m.Key())
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

	driver := &listeners{running: map[balance.MachineKey]net.Listener{}}
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
		slot.Release(balance.OutcomeDone)
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
		{ID: "web-1", App: "web", Region: "nrt", State: balance.StateStarted},
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
	// expected 10s - suspect after 28s - a request waits at most 43s
	// a start of 4s needs about 6s more
}

// A driver whose provider limits its calls passes that on: the start is tried again, and no request
// is lost for it.
func ExampleTryAgain() {
	start := func(resp *http.Response) error {
		if resp.StatusCode != http.StatusTooManyRequests {
			return nil
		}
		after, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		return autostart.TryAgain{After: time.Duration(after) * time.Second, Err: errors.New(resp.Status)}
	}
	fmt.Println(start(&http.Response{
		StatusCode: 429, Status: "429 Too Many Requests", Header: http.Header{"Retry-After": {"2"}},
	}))
	// Output:
	// 429 Too Many Requests (try again after 2s)
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
		fmt.Println("503", e.Reason(), "- Retry-After:", e.RetryAfter().Seconds())
	}
	// Output: 503 no machine could be started: machine web-1: exit status 1 - Retry-After: 4
}

// Who looks knows how long an app's pauses are, and asks before it lets the app fall asleep.
func ExampleIdle() {
	var idle autostart.Idle
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for range 20 {
		idle.Seen(now, 1)
		idle.Seen(now.Add(time.Second), 0)
		now = now.Add(91 * time.Second) // a request every minute and a half
	}
	fmt.Println(idle.KeepAlive(0, 5*time.Minute).Round(time.Second))
	fmt.Println("as the app's row says:", idle.KeepAlive(time.Hour, 5*time.Minute))
	// Output:
	// 1m45s
	// as the app's row says: 1h0m0s
}

// A downscaler feeds and asks Idles where they are its Config.Habits. What they know lasts over a restart.
func ExampleIdles() {
	var idles autostart.Idles // downscale.Config{Habits: &idles}
	for range 20 {
		idles.Gap("shop", 6*time.Minute) // the downscaler does this
	}
	text, _ := json.Marshal(&idles)

	var later autostart.Idles
	if err := json.Unmarshal(text, &later); err != nil {
		fmt.Println(err)
	}
	fmt.Println("shop:", later.KeepAlive("shop", 5*time.Minute).Round(time.Minute))
	fmt.Println("another:", later.KeepAlive("another", 5*time.Minute))
	// Output:
	// shop: 7m0s
	// another: 5m0s
}

// An agent in the machine says when it is ready; nobody has to look.
func ExamplePush() {
	var push autostart.Push
	// Pass &push as StarterConfig.Readiness. Where the agent's message arrives:
	push.Ready("web", "web-1", 7)
	fmt.Println(push.Await(context.Background(), balance.Machine{App: "web", ID: "web-1", Epoch: 7}))
	push.Failed("web", "web-2", 1, errors.New("disk is full"))
	fmt.Println(push.Await(context.Background(), balance.Machine{App: "web", ID: "web-2", Epoch: 1}))
	// Output:
	// <nil>
	// disk is full
}

// Why machines are started can be read, before anything is: this is a dry run.
func ExampleDecision() {
	ctx, cancel := context.WithCancel(context.Background())
	fleet, _ := balance.NewFleet(balance.FleetConfig{Node: "laptop", Region: "nrt"})
	fleet.Apply(balance.PutApp{App: balance.App{ID: "web", Autostart: true, Min: 1}})
	fleet.Host(balance.Machine{ID: "web-1", App: "web", Region: "nrt"})
	balancer, _ := balance.New(fleet, balance.Config{})
	auto, _ := autostart.New(balancer, nil, autostart.Config{
		DryRun: true,
		Trace: autostart.Trace{Decided: func(d autostart.Decision) {
			fmt.Printf("%s: %d of %d there, would start %s: %s\n", d.App, d.Have, d.Want, d.Start[0].ID, d.Reason)
			cancel()
		}},
	})
	auto.Run(ctx)
	// Output: web: 0 of 1 there, would start web-1: demand 0, minimum 1 of which 0 there
}

// What has been learned of boots outlives the process.
func ExampleHistory() {
	before := autostart.NewPlanner(false)
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, state := range []balance.State{balance.StateStopped, balance.StateStarting, balance.StateStarted} {
		m := balance.Machine{ID: "web-1", App: "web", Region: "nrt", State: state}
		if state != balance.StateStopped {
			m.Epoch = 1
		}
		before.Plan(now, autostart.Input{App: balance.App{ID: "web"}, Machines: []*balance.Machine{&m}})
		now = now.Add(8 * time.Second)
	}
	text, _ := json.Marshal(before.History())
	fmt.Println(string(text))

	var history autostart.History
	json.Unmarshal(text, &history)
	after := autostart.NewPlanner(false)
	after.Restore(history)
	boots := after.Boots()
	fmt.Println("expected", boots.Expected())
	// Output:
	// {"boots":[{"all":true,"boots":{"lastNs":[8000000000]}},{"boots":{"lastNs":[8000000000]}}]}
	// expected 8s
}

// The rule of an older proxy, to be compared with: it forgets a start after 20 s.
func ExampleNewSynchronous() {
	policy := autostart.NewSynchronous(0, 0)
	rows := []*balance.Machine{{ID: "web-1", App: "web", Region: "nrt"}, {ID: "web-2", App: "web", Region: "nrt"}}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for range 3 {
		d := policy.Plan(now, autostart.Input{App: balance.App{ID: "web", Autostart: true}, Machines: rows, Regions: []string{"nrt"}, Parked: 1})
		for i, m := range rows {
			if len(d.Start) > 0 && d.Start[0].ID == m.ID {
				rows[i] = &balance.Machine{ID: m.ID, App: "web", Region: "nrt", State: balance.StateStarting, Epoch: 1}
				fmt.Println("start", m.ID)
			}
		}
		now = now.Add(15 * time.Second)
	}
	// Output:
	// start web-2
	// start web-1
}

// A machine is ready when its health path says so, and failing when three looks in a row say otherwise.
func ExampleCheck() {
	fleet, _ := balance.NewFleet(balance.FleetConfig{Node: "laptop", Region: "nrt"})
	_, err := autostart.NewStarter(fleet, &listeners{}, autostart.StarterConfig{Check: autostart.Check{Path: "/healthz", Every: 10 * time.Second}})
	fmt.Println(err)
	_, err = autostart.NewStarter(fleet, &listeners{}, autostart.StarterConfig{Check: autostart.Check{Path: "healthz"}})
	fmt.Println(err)
	// Output:
	// <nil>
	// autostart: Check.Path "healthz": want a path such as /healthz, percent-encoded where needed
}

// A Starter carries out one start, however often it is asked for.
func ExampleStarter() {
	ctx, cancel := context.WithCancel(context.Background())
	fleet, _ := balance.NewFleet(balance.FleetConfig{Node: "laptop", Region: "nrt"})
	fleet.Host(balance.Machine{ID: "web-1", App: "web", Region: "nrt"})
	ready := make(chan balance.MachineID)
	starter, _ := autostart.NewStarter(fleet, &listeners{running: map[balance.MachineKey]net.Listener{}}, autostart.StarterConfig{
		Trace: autostart.StarterTrace{Ready: func(m balance.Machine, kind autostart.BootKind, _ time.Duration) { ready <- m.ID }},
	})
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
