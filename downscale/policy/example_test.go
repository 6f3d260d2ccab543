package policy_test

import (
	"fmt"
	"strings"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale/policy"
	"github.com/ebbkit/ebb/downscale/policytest"
)

// A decider is given the situation and returns which machines are surplus, and why.
func ExampleDecider() {
	d, _ := policy.NewDecider(policy.Config{Window: time.Minute, KeepAlive: 30 * time.Second})
	seen := func(id balance.MachineID, load int) policy.Seen {
		return policy.Seen{
			ID: id, Region: "nrt", Rank: balance.MachineKey{App: "web", ID: id}.Rank(), State: balance.StateStarted,
			Limits: balance.Limits{Soft: 20}, Own: true, Load: load,
		}
	}
	web := balance.App{ID: "web", Autostop: balance.AutostopStop, Min: 1}
	start := time.Now()
	for s := range 120 {
		load := 6 // on each of two machines
		if s >= 70 {
			load = 0
		}
		now := start.Add(time.Duration(s) * time.Second)
		for _, x := range d.Decide(now, policy.Situation{App: web, Machines: []policy.Seen{seen("nrt-1", load), seen("nrt-2", load)}}) {
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
	b := policy.Bounded{Policy: &policytest.Excess{}}
	s := policy.Situation{App: balance.App{ID: "web", Autostop: balance.AutostopStop}, Parked: 2,
		Machines: []policy.Seen{
			{ID: "nrt-1", Region: "nrt", State: balance.StateStarted, Own: true, Leaving: true},
		}}
	for _, d := range b.Decide(time.Time{}, s) {
		fmt.Println(d.Verdict, d.Machine, "because of", d.Rule, "-", d.Reason())
	}
	// Output:
	// recall nrt-1 because of parked - 2 requests parked
}

// nightly lets machines go at night only.
type nightly struct{ policy.Policy }

func (n nightly) Decide(now time.Time, s policy.Situation) []policy.Decision {
	ds := n.Policy.Decide(now, s) // it must see every moment
	if h := now.UTC().Hour(); h >= 22 || h < 6 {
		return ds
	}
	for i := range ds {
		if ds[i].Verdict == policy.VerdictSpare {
			ds[i] = policy.Decision{App: ds[i].App, Region: ds[i].Region, Text: "it is day"}
		}
	}
	return ds
}

// A policy of your own can wrap the default or stand alone; package policytest checks it.
func ExamplePolicy() {
	ours, _ := policy.NewDecider(policy.Config{KeepAlive: time.Minute})
	var own policy.Policy = nightly{ours}
	s := policy.Situation{App: balance.App{ID: "web", Autostop: balance.AutostopStop},
		Machines: []policy.Seen{{ID: "nrt-1", Region: "nrt", State: balance.StateStarted, Own: true}}}
	for _, hour := range []int{12, 23} {
		start := time.Date(2026, 6, 1, hour, 0, 0, 0, time.UTC)
		for at := range 61 {
			for _, d := range own.Decide(start.Add(time.Duration(at)*time.Second), s) {
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
