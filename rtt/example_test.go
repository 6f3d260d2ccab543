package rtt_test

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/ebbkit/ebb/rtt"
)

// Two nodes on one machine measure each other.
func Example() {
	key := []byte("thirty-two bytes, better random!")
	measured := make(chan struct{})
	var once sync.Once

	fra, err := rtt.New(rtt.Config{Self: rtt.Node{ID: "fra-1", Region: "fra"}, Key: key, Listen: "127.0.0.1:0"})
	if err != nil {
		panic(err)
	}
	ams, err := rtt.New(rtt.Config{
		Self: rtt.Node{ID: "ams-1", Region: "ams"}, Key: key, Listen: "127.0.0.1:0",
		Peers: rtt.PeerList{fra.Self()},
		Trace: &rtt.Trace{Table: func(t *rtt.Table) {
			if _, ok := t.RTT("fra"); ok {
				once.Do(func() { close(measured) })
			}
		}},
	})
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, m := range []*rtt.Mesh{fra, ams} {
		wg.Go(func() {
			if err := m.Run(ctx); err != nil {
				fmt.Println(err)
			}
		})
	}
	<-measured

	d, ok := ams.RTT("fra")
	fmt.Println("fra is measured:", ok && d > 0)
	d, ok = ams.RTT("ams")
	fmt.Println("the own region:", d, ok)
	d, ok = ams.RTT("nrt")
	fmt.Println("unknown is not near:", d, ok)
	cancel()
	wg.Wait()
	// Output:
	// fra is measured: true
	// the own region: 0s true
	// unknown is not near: 0s false
}

// The base is what the path takes without queues; it follows when the path itself changes.
func ExampleEstimator() {
	var e rtt.Estimator
	now := time.Now()
	second := func(rtts ...time.Duration) {
		for _, d := range rtts {
			now = now.Add(time.Second)
			e.Observe(now, rtt.Sample{RTT: d, Source: rtt.SourceUDP, Kernel: true})
		}
	}
	const ms = time.Millisecond
	second(900*ms, 52*ms, 50*ms, 61*ms, 55*ms, 50*ms, 70*ms, 51*ms) // an outlier first, then queues
	s := e.Stat(now)
	fmt.Println(s.Base, s.State, s.Kernel)

	for range 10 { // a route change
		second(80 * ms)
	}
	fmt.Println(e.Stat(now).Base)

	e.Miss()
	e.Miss()
	e.Miss()
	fmt.Println(e.Stat(now).Base, e.State(now))
	// Output:
	// 50ms fresh true
	// 80ms
	// 80ms lost
}

// Two regions that are nearly equal do not change places on noise.
func ExampleOrder() {
	var o rtt.Order
	now := time.Now()
	show := func(ams, fra time.Duration) {
		o.Update(now, []rtt.Candidate{
			{Name: "ams", RTT: ams, State: rtt.StateFresh, Settled: true},
			{Name: "fra", RTT: fra, State: rtt.StateFresh, Settled: true},
			{Name: "gru", State: rtt.StateUnknown},
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

// One lost packet of one is no evidence of a bad path.
func ExampleFraction() {
	few, many := rtt.Fraction{Lost: 1, N: 10}, rtt.Fraction{Lost: 50, N: 500}
	fmt.Printf("%.2f at least %.2f\n", few.Value(), few.Lower())
	fmt.Printf("%.2f at least %.2f\n", many.Value(), many.Lower())
	// Output:
	// 0.10 at least 0.02
	// 0.10 at least 0.08
}
