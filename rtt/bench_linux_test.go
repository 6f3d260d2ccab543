package rtt

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"
)

// BenchmarkMesh runs one node with real sockets against peers on loopback at the default schedule
// and reports its cost. The peers, in the same process, only answer: their work equals what the
// node would do to answer as many probes, so cpu% is that of a node that both probes and answers.
// One iteration is an answered probe; use -benchtime 2000x.
func BenchmarkMesh(b *testing.B) {
	for _, n := range []int{100, 500} {
		b.Run(fmt.Sprintf("peers=%d", n), func(b *testing.B) {
			ctx, cancel := context.WithCancel(b.Context())
			var wg sync.WaitGroup
			run := func(c Config) *Mesh {
				c.Key, c.Listen = secretA, "127.0.0.1:0"
				m, err := New(c)
				if err != nil {
					b.Fatal(err)
				}
				wg.Go(func() { m.Run(ctx) })
				return m
			}
			answers := func(into chan string) Trace {
				return Trace{Sample: func(peer string, _ time.Duration) {
					select {
					case into <- peer:
					default: // nobody waits
					}
				}}
			}
			var peers []Node
			for i := range n {
				c := Config{ID: fleetID(i), Region: fmt.Sprintf("region-%02d", i%40)}
				peers = append(peers, run(c).Self())
			}
			// The idle cost of so many Meshes is not a node's. The answers to another node, which
			// probes one of them, measure the time meanwhile.
			ticks := make(chan string)
			run(Config{ID: "clock", Region: "home", Peers: fixed(peers[:1]), Trace: answers(ticks)})
			<-ticks
			idle, begin := cpu(), time.Now()
			for range 3 {
				<-ticks
			}
			rest := (cpu() - idle).Seconds() / time.Since(begin).Seconds()

			answered := make(chan string, n)
			m := run(Config{
				ID: "me", Region: "home", Peers: fixed(peers), Trace: answers(answered),
			})
			for met := map[string]bool{}; len(met) < n; { // start-up
				met[<-answered] = true
			}
			before, sent, begin := cpu(), m.Counters().Sent, time.Now()
			for b.Loop() {
				<-answered
			}
			took := time.Since(begin).Seconds()
			b.ReportMetric(100*((cpu()-before).Seconds()/took-rest), "cpu%")
			b.ReportMetric(float64(m.Counters().Sent-sent)/took, "probes/s")
			cancel()
			wg.Wait()
		})
	}
}

// cpu returns the processor time this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
