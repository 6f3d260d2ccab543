package downscale_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale"
)

// platform is where the machines run. This one can stop and not suspend.
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
		Every:     time.Millisecond, // the defaults are a second each, and minutes
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
	_, bounce := gate.Admit(0, 0)
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
	gate.Admit(0, 0)

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

// A decider is told what there is and says what is surplus, and why.
func ExampleDecider() {
	d, _ := downscale.NewDecider(downscale.Config{Window: time.Minute, KeepAlive: 30 * time.Second})
	seen := func(id balance.MachineID, load int) downscale.Seen {
		return downscale.Seen{ID: id, Region: "nrt", Rank: balance.Rank("web", id), State: balance.StateStarted,
			Limits: balance.Limits{Soft: 20}, Own: true, Load: load}
	}
	web := balance.App{ID: "web", Autostop: balance.AutostopStop, Min: 1}
	start := time.Now()
	for s := range 120 {
		load := 6 // on each of two machines
		if s >= 70 {
			load = 0
		}
		now := start.Add(time.Duration(s) * time.Second)
		for _, x := range d.Decide(now, downscale.Situation{App: web, Machines: []downscale.Seen{seen("nrt-1", load), seen("nrt-2", load)}}) {
			if s == 60 || s == 99 {
				fmt.Println(s, x.Verdict, x.Machine, x.Reason())
			}
		}
	}
	// Output:
	// 60 spare nrt-2 window 1m peak 12 <= 0.8 x 20 without nrt-2
	// 99 spare nrt-2 keep-alive 30s over: no request since 30s
}

func ExampleDecision_Reason() {
	fmt.Println(downscale.Decision{Why: downscale.RuleKeepAlive, For: 31 * time.Second, Of: 30 * time.Second}.Reason())
	fmt.Println(downscale.Decision{Why: downscale.RuleHeadroom, Machine: "nrt-3", Peak: 12, Capacity: 20, Headroom: 0.8, Of: 5 * time.Minute}.Reason())
	// Output:
	// keep-alive 30s over: no request since 31s
	// window 5m peak 12 <= 0.8 x 20 without nrt-3
}

// A deploy takes a machine out of service. What is in flight has a minute behind the closed gate.
func ExampleDownscaler_Stop() {
	fleet, _ := balance.NewFleet(balance.FleetConfig{Node: "worker", Region: "nrt"})
	fleet.Apply(balance.PutApp{App: balance.App{ID: "web", Min: 1}})
	gate, _ := fleet.Host(balance.Machine{ID: "nrt-1", App: "web", Region: "nrt"})
	token, _ := gate.Start(0)
	gate.Ready(token)
	gate.Admit(0, 0)

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
	err := d.Stop(ctx, balance.Machine{App: "web", ID: "nrt-1"}, downscale.Order{Reason: "a deploy", Drain: time.Minute})
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

func (p *phone) Long(_ balance.Machine, of downscale.Class) int {
	if of&downscale.WebSocket == 0 {
		return 0
	}
	return p.open
}

// This phone does not look at what its connections carry: none is ever idle.
func (*phone) Idle(balance.Machine, downscale.Class, time.Duration) int                  { return 0 }
func (*phone) NotifyIdle(balance.Machine, downscale.Class, time.Duration, time.Duration) {}

func (p *phone) Notify(m balance.Machine, of downscale.Class, within time.Duration) {
	fmt.Printf("close frame 1001 to %d clients of %s (%v, within %v)\n", p.open, m.ID, of, within)
}

// By default long connections keep their machine. With Notify they are told first, and have Notice to end.
func ExampleConnections() {
	p := &phone{open: 3}
	c := downscale.Config{Connections: p, Notify: downscale.WebSocket | downscale.Events}
	fleet, _ := balance.NewFleet(balance.FleetConfig{Node: "worker", Region: "nrt"})
	_, err := downscale.New(fleet, platform{}, c)
	m := balance.Machine{App: "web", ID: "nrt-1"}
	fmt.Println(err, p.Long(m, c.Notify), p.Long(m, downscale.AllClasses&^c.Notify))
	p.Notify(m, c.Notify, 5*time.Second)
	// Output:
	// <nil> 3 0
	// close frame 1001 to 3 clients of nrt-1 (events+websocket, within 5s)
}

// nightly lets machines go at night only.
type nightly struct{ downscale.Policy }

func (n nightly) Decide(now time.Time, s downscale.Situation) []downscale.Decision {
	ds := n.Policy.Decide(now, s) // it has to see every moment
	if h := now.UTC().Hour(); h >= 22 || h < 6 {
		return ds
	}
	for i := range ds {
		if ds[i].Verdict == downscale.Spare {
			ds[i] = downscale.Decision{App: ds[i].App, Region: ds[i].Region, Why: downscale.RuleOther, Text: "it is day"}
		}
	}
	return ds
}

// A policy of your own stands on ours, or alone; package downscaletest checks it.
func ExamplePolicy() {
	ours, _ := downscale.NewDecider(downscale.Config{Preset: downscale.Cost})
	var policy downscale.Policy = nightly{ours}
	s := downscale.Situation{App: balance.App{ID: "web", Autostop: balance.AutostopStop},
		Machines: []downscale.Seen{{ID: "nrt-1", Region: "nrt", State: balance.StateStarted, Own: true}}}
	for _, hour := range []int{12, 23} {
		start := time.Date(2026, 6, 1, hour, 0, 0, 0, time.UTC)
		for at := range 61 {
			for _, d := range policy.Decide(start.Add(time.Duration(at)*time.Second), s) {
				if at == 60 {
					fmt.Println(strings.TrimSpace(fmt.Sprint(d.Verdict, " ", d.Machine))+":", d.Reason())
				}
			}
		}
	}
	// Output:
	// hold: it is day
	// spare nrt-1: keep-alive 1m over: no request since 11h1m
}

func ExampleExcess() {
	var rule downscale.Excess
	s := downscale.Situation{App: balance.App{ID: "web", Autostop: balance.AutostopStop}}
	for _, id := range []balance.MachineID{"nrt-1", "nrt-2", "nrt-3"} {
		s.Machines = append(s.Machines, downscale.Seen{ID: id, Region: "nrt", Rank: balance.Rank("web", id),
			State: balance.StateStarted, Limits: balance.Limits{Soft: 20}, Own: true, Load: 19})
	}
	start := time.Now()
	rule.Decide(start, s)
	for _, d := range rule.Decide(start.Add(3*time.Minute), s) {
		fmt.Println(d.Verdict, d.Machine, "although the others are nearly full:", d.Reason())
	}
	// Output:
	// spare nrt-3 although the others are nearly full: 3 machines running, 0 at the soft limit
}

func ExamplePreset() {
	for _, p := range []downscale.Preset{downscale.Cost, downscale.Balanced, downscale.Latency} {
		_, err := downscale.NewDecider(downscale.Config{Preset: p, KeepAlive: 10 * time.Minute}) // what is set beats the preset
		fmt.Println(p, err)
	}
	// Output:
	// cost <nil>
	// balanced <nil>
	// latency <nil>
}

// An owner of a region with other owners looks at their loads too. Reports hold them; each that arrives goes there.
func ExampleReports() {
	reports, err := downscale.NewReports(time.Second) // downscale.Config{Loads: reports}
	if err != nil {
		fmt.Println(err)
		return
	}
	reports.Put(
		balance.Report{
			App: "web", ID: "web-7", Load: balance.Load{InFlight: 12, Seq: 1}, Idle: 3,
			Version: balance.Version{Incarnation: 1},
		},
	)
	fmt.Println(reports.Load("web", "web-7"))
	fmt.Println(reports.Load("web", "web-8")) // nobody has told: nothing of the region is stopped
	// Output:
	// 12 3 true
	// 0 0 false
}
