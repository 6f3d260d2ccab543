package nats_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange"
)

// pause is the time between two messages: it lets what follows the first, such as its
// acknowledgement, end.
const pause = 2 * time.Millisecond

// BenchmarkChange measures how long a change takes from one fleet to another and, for comparison in
// the same run, a bare message from one connection to another.
func BenchmarkChange(b *testing.B) {
	r := newRig(b, nil)
	quantiles := func(b *testing.B, took []time.Duration) {
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs-p50")
		b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "µs-p99")
	}
	b.Run("what=message", func(b *testing.B) {
		x, y := r.connect("x"), r.connect("y")
		got := make(chan struct{}, 1)
		s := exchange.Subject{Cluster: "bare", Kind: "row", Region: "nrt", Node: "x"}
		if _, err := y.Subscribe(exchange.Subject{Cluster: "bare"}, func(exchange.Message) { got <- struct{}{} }); err != nil {
			b.Fatal(err)
		}
		var took []time.Duration
		for b.Loop() {
			time.Sleep(pause)
			at := time.Now()
			x.Publish(s, make([]byte, 100))
			<-got
			took = append(took, time.Since(at))
		}
		quantiles(b, took)
	})
	b.Run("what=row", func(b *testing.B) {
		ctx, stop := context.WithCancel(b.Context())
		defer stop()
		start := func(id balance.NodeID) *balance.Fleet {
			f, err := balance.NewFleet(balance.FleetConfig{Node: id, Region: "nrt"})
			if err != nil {
				b.Fatal(err)
			}
			l, err := exchange.New(f, r.connect(id), exchange.Config{Edge: id == "e1", Worker: id == "w1"})
			if err != nil {
				b.Fatal(err)
			}
			go l.Run(ctx)
			return f
		}
		w, e := start("w1"), start("e1")
		seen := make(chan string, 9)
		e.OnChange(func(balance.AppID) {
			s, _ := e.App("web")
			m, _ := s.Machine("m1")
			seen <- m.Revision
		})
		if _, err := w.Host(balance.Machine{ID: "m1", App: "web", Region: "nrt"}); err != nil {
			b.Fatal(err)
		}
		<-seen
		var took []time.Duration
		for b.Loop() {
			time.Sleep(pause)
			at := time.Now()
			to := fmt.Sprint(len(took))
			w.Edit("web", "m1", func(m *balance.Machine) { m.Revision = to })
			for <-seen != to {
			}
			took = append(took, time.Since(at))
		}
		quantiles(b, took)
	})
}
