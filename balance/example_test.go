package balance_test

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// trips is a fixed table of round trips; package rtt measures them.
type trips map[string]time.Duration

func (t trips) RTT(region string) (time.Duration, bool) { d, ok := t[region]; return d, ok }

func put(f *balance.Fleet, seq uint64, id balance.MachineID, region string, s balance.State) {
	m := balance.Machine{ID: id, App: "web", Region: region, Owner: "worker-" + balance.NodeID(region), State: s}
	if err := f.Apply(balance.PutMachine{Machine: m, Version: balance.Version{Incarnation: 1, Seq: seq}}); err != nil {
		fmt.Println(err)
	}
}

func Example() {
	fleet, _ := balance.NewFleet(balance.FleetConfig{Node: "edge-nrt", Region: "nrt"})
	b, _ := balance.New(fleet, balance.Config{Distance: trips{"nrt": time.Millisecond, "hkg": 50 * time.Millisecond}})
	fleet.Apply(balance.PutApp{App: balance.App{ID: "web", Limits: balance.Limits{Soft: 1, Hard: 2}}})
	put(fleet, 1, "nrt-1", "nrt", balance.StateStarted)
	put(fleet, 2, "hkg-1", "hkg", balance.StateStarted)

	for range 4 {
		r, err := b.Pick(balance.Request{App: "web"})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(r.Machine().ID)
		// Send the request, then: r.Release(balance.OutcomeDone)
	}
	_, err := b.Pick(balance.Request{App: "web"})
	fmt.Println(errors.Is(err, balance.ErrFull), err)
	// Output:
	// nrt-1
	// hkg-1
	// nrt-1
	// hkg-1
	// true balance: no machine of app "web" available: 2 seen, 2 at the hard limit
}

func ExampleGate() {
	g, _ := balance.NewGate(balance.Limits{Soft: 1, Hard: 1})
	token, answer := g.Start(0)
	fmt.Println(answer, g.State())
	g.Ready(token)

	_, b := g.Enter(0, 0, 0)
	load, full := g.Enter(0, 0, 0)
	fmt.Println(b, full, load.InFlight)

	gen, _ := g.Cordon()
	_, ok := g.Close(gen, false)
	fmt.Println("closed under a request:", ok)
	g.Leave()
	_, ok = g.Close(gen, false)
	fmt.Println("closed at zero:", ok, g.State())
	// Output:
	// accepted starting
	// admitted full 1
	// closed under a request: false
	// closed at zero: true stopping
}

func ExampleFleet_Watch() {
	worker, _ := balance.NewFleet(balance.FleetConfig{Node: "worker", Region: "nrt"})
	edge, _ := balance.NewFleet(balance.FleetConfig{Node: "edge", Region: "nrt"})
	w := worker.Watch()
	defer w.Close()

	gate, _ := worker.Host(balance.Machine{ID: "m1", App: "web", Region: "nrt"})
	gate.Start(0) // the row follows its gate

	edge.Apply(w.Take()...) // over any transport
	web, _ := edge.App("web")
	m, _ := web.Machine("m1")
	fmt.Println(m.Owner, m.State, "epoch", m.Epoch)
	// Output: worker starting epoch 1
}

// A custom strategy: the first machine in canonical order that is below its soft limit.
func ExampleStrategyFunc() {
	fill := balance.StrategyFunc(func(v *balance.View, r balance.Request) (slot balance.Slot, ok bool) {
		var best, c balance.Candidate
		for i := range v.Regions() {
			for j := range v.Len(i, balance.TierReady) {
				s := v.Slot(i, balance.TierReady, j)
				if v.Usable(s, &r, &c) && !c.Busy() && (!ok || c.Rank < best.Rank) {
					slot, best, ok = s, c, true
				}
			}
		}
		return slot, ok
	})
	fleet, _ := balance.NewFleet(balance.FleetConfig{Node: "edge", Region: "nrt"})
	b, _ := balance.New(fleet, balance.Config{Strategy: fill})
	fleet.Apply(balance.PutApp{App: balance.App{ID: "web", Limits: balance.Limits{Soft: 2}}})
	for i := range 3 {
		put(fleet, uint64(i+1), balance.MachineID(fmt.Sprint("m", i)), "nrt", balance.StateStarted)
	}
	for range 4 {
		r, _ := b.Pick(balance.Request{App: "web"})
		fmt.Print(r.Machine().ID, " ")
	}
	// Output: m0 m0 m2 m2
}

// Nodes that do not talk to each other start machines in the same order.
func ExampleMachineKey_Rank() {
	ids := []balance.MachineID{"m1", "m2", "m3"}
	slices.SortFunc(ids, func(a, b balance.MachineID) int {
		return cmp.Compare(balance.MachineKey{App: "web", ID: a}.Rank(), balance.MachineKey{App: "web", ID: b}.Rank())
	})
	fmt.Println(ids)
	// Output: [m2 m1 m3]
}

// fleet of one node with some started machines.
func started(s balance.Strategy, l balance.Limits, regions ...string) (*balance.Fleet, *balance.Balancer) {
	fleet, _ := balance.NewFleet(balance.FleetConfig{Node: "edge-nrt", Region: "nrt"})
	b, _ := balance.New(fleet, balance.Config{Strategy: s, Distance: trips{"nrt": time.Millisecond, "hkg": 50 * time.Millisecond}})
	fleet.Apply(balance.PutApp{App: balance.App{ID: "web", Limits: l}})
	for i, r := range regions {
		put(fleet, uint64(i+1), balance.MachineID(fmt.Sprint(r, "-", i)), r, balance.StateStarted)
	}
	return fleet, b
}

// One request that must stay in a region, and one that prefers a region.
func ExampleTarget() {
	_, b := started(nil, balance.Limits{Hard: 1}, "nrt", "hkg")
	hkg := &balance.Target{Regions: []string{"hkg"}}
	for _, r := range []balance.Request{{Force: hkg}, {Prefer: hkg}, {Force: hkg}} {
		r.App = "web"
		r, err := b.Pick(r)
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(r.Machine().ID)
	}
	// Output:
	// hkg-1
	// nrt-0
	// balance: no machine of app "web" available: 2 seen, 1 not wanted, 1 at the hard limit
}

func ExampleBalancer_Explain() {
	_, b := started(nil, balance.Limits{Soft: 1}, "nrt", "hkg")
	b.Pick(balance.Request{App: "web"})
	x, _ := b.Explain(balance.Request{App: "web"})
	fmt.Println(x.Why)
	// Output: all in nrt are at their soft limit; hkg-1 in hkg: tier ready, load 0, of 1 usable there
}

// Pack fills one machine after the other, so that the rest can sleep.
func ExamplePack() {
	_, b := started(balance.Pack{}, balance.Limits{Soft: 2}, "nrt", "nrt", "nrt")
	for range 4 {
		r, _ := b.Pick(balance.Request{App: "web"})
		fmt.Print(r.Machine().ID, " ")
	}
	// Output: nrt-1 nrt-1 nrt-2 nrt-2
}

func ExampleLeastLoad() {
	_, b := started(balance.LeastLoad{}, balance.Limits{Soft: 10}, "nrt", "hkg")
	for range 5 { // a farther machine has to be better by more than one request
		r, _ := b.Pick(balance.Request{App: "web"})
		fmt.Print(r.Machine().ID, " ")
	}
	// Output: nrt-0 nrt-0 hkg-1 nrt-0 hkg-1
}

// Fifteen requests wait at an edge: the near owner is told of as many as it has slots for, and the
// far owner of the rest.
func ExampleBalancer_Asks() {
	fleet, _ := balance.NewFleet(balance.FleetConfig{Node: "edge-nrt", Region: "nrt"})
	b, _ := balance.New(fleet, balance.Config{Distance: trips{"nrt": time.Millisecond, "hkg": 50 * time.Millisecond}})
	fleet.Apply(balance.PutApp{App: balance.App{ID: "gpu", Limits: balance.Limits{Soft: 1, Hard: 1}}})
	for i := range 20 {
		m := balance.Machine{ID: balance.MachineID(fmt.Sprint("gpu-", i)), App: "gpu", Region: "nrt", Owner: "worker-nrt", State: balance.StateStarted}
		if i >= 10 {
			m.Region, m.Owner = "hkg", "worker-hkg"
		}
		fleet.Apply(balance.PutMachine{Machine: m, Version: balance.Version{Incarnation: 1, Seq: 1}})
	}
	for _, parked := range []int{3, 15} {
		for owner, part := range b.Asks("gpu", parked) {
			fmt.Println(parked, "wait: tell", owner, part)
		}
	}
	// Output:
	// 3 wait: tell worker-nrt 3
	// 3 wait: tell worker-hkg -1
	// 15 wait: tell worker-nrt 10
	// 15 wait: tell worker-hkg 5
}
