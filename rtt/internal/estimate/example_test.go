package estimate_test

import (
	"fmt"
	"time"

	"github.com/ebbkit/ebb/rtt/internal/estimate"
)

// The base is what the path takes without queues; it follows when the path itself changes.
func ExampleEstimator() {
	var e estimate.Estimator
	now := time.Now()
	second := func(rtts ...time.Duration) {
		for _, d := range rtts {
			now = now.Add(time.Second)
			e.Observe(now, estimate.Sample{RTT: d, Source: estimate.SourceUDP, Kernel: true})
		}
	}
	const ms = time.Millisecond
	second(900*ms, 52*ms, 50*ms, 61*ms, 55*ms, 50*ms, 70*ms, 51*ms) // an outlier first, then queues
	s := e.Stat(now)
	fmt.Println(s.Base, s.State == estimate.StateFresh)

	for range 10 { // a route change
		second(80 * ms)
	}
	fmt.Println(e.Stat(now).Base)

	e.Miss()
	e.Miss()
	e.Miss()
	fmt.Println(e.Stat(now).Base, e.State(now) == estimate.StateLost)
	// Output:
	// 50ms true
	// 80ms
	// 80ms true
}

// Two regions that are nearly equal do not change places on noise.
func ExampleOrder() {
	var o estimate.Order
	now := time.Now()
	show := func(ams, fra time.Duration) {
		o.Update(now, []estimate.Candidate{
			{Name: "ams", RTT: ams, State: estimate.StateFresh, Settled: true},
			{Name: "fra", RTT: fra, State: estimate.StateFresh, Settled: true},
			{Name: "gru", State: estimate.StateUnknown},
		})
		var names []string
		for _, p := range o.Places() {
			names = append(names, p.Name)
		}
		fmt.Println(names)
		now = now.Add(5 * time.Second)
	}
	const ms = time.Millisecond
	show(20*ms, 21*ms)
	show(21*ms, 20*ms) // less than 2 ms better
	show(30*ms, 20*ms) // better, but only now
	show(30*ms, 20*ms) // for five seconds
	// Output:
	// [ams fra gru]
	// [ams fra gru]
	// [ams fra gru]
	// [fra ams gru]
}
