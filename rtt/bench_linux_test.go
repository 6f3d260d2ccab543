package rtt

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"
)

// BenchmarkMesh runs one node with real sockets against peers on loopback at the default schedule and reports what it
// costs. The peers, in the same process, answer only: their part of the work equals what the node would do to answer as
// many, so cpu% is that of a node that both probes and answers. One iteration is a second; use -benchtime 10x.
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
			var peers PeerList
			for i := range n {
				m := run(Config{Self: Node{ID: fleetID(i), Region: fmt.Sprintf("region-%02d", i%40)}})
				peers = append(peers, m.Self())
			}
			idle := cpu()
			time.Sleep(2 * time.Second)
			rest := (cpu() - idle) / 2 // what so many Meshes cost when nobody asks: not a node's
			m := run(Config{Self: Node{ID: "me", Region: "home"}, Peers: peers})
			time.Sleep(time.Duration(n/50+2) * time.Second) // start-up
			before, sent := cpu(), m.Counters().Sent
			begin := time.Now()
			for b.Loop() {
				time.Sleep(time.Second)
			}
			took := time.Since(begin)
			used := cpu() - before - time.Duration(float64(rest)*took.Seconds())
			b.ReportMetric(100*used.Seconds()/took.Seconds(), "cpu%")
			b.ReportMetric(float64(m.Counters().Sent-sent)/took.Seconds(), "probes/s")
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
