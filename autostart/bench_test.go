package autostart

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// warm returns a balancer over n running machines, and an Autostart over it.
func warm(tb testing.TB, n int, l balance.Limits) (*balance.Balancer, *Autostart) {
	tb.Helper()
	f, err := balance.NewFleet(balance.FleetConfig{Node: "edge", Region: "nrt"})
	if err != nil {
		tb.Fatal(err)
	}
	b, err := balance.New(f, balance.Config{})
	if err != nil {
		tb.Fatal(err)
	}
	us := []balance.Update{balance.PutApp{App: balance.App{ID: "web", Autostart: true, Limits: l}}}
	for i := range n {
		us = append(us, balance.PutMachine{
			Machine: balance.Machine{
				ID: balance.MachineID(fmt.Sprintf("m%05d", i)), App: "web", Region: "nrt", Owner: "w",
				State: balance.StateStarted,
			},
			Version: balance.Version{Incarnation: 1, Seq: 1},
		})
	}
	if err := f.Apply(us...); err != nil {
		tb.Fatal(err)
	}
	a, err := New(b, refusing{}, Config{})
	if err != nil {
		tb.Fatal(err)
	}
	return b, a
}

// refusing is an owner that is never asked.
type refusing struct{}

func (refusing) Start(context.Context, balance.Machine) (balance.StartAnswer, error) {
	return balance.StartRefused, nil
}
func (refusing) Recall(context.Context, balance.Machine) error { return nil }

func TestWarmPathDoesNotAllocate(t *testing.T) {
	_, a := warm(t, 30, balance.Limits{Soft: 10, Hard: 20})
	ctx := t.Context()
	r := &balance.Request{App: "web"}
	if n := testing.AllocsPerRun(1000, func() {
		slot, err := a.Acquire(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		slot.Release(balance.OutcomeDone)
	}); n != 0 {
		t.Errorf("Acquire: %v allocations, want 0", n)
	}
	// Above the soft limit each pick asks for a decision.
	_, a = warm(t, 1, balance.Limits{Soft: 1})
	first, err := a.Acquire(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Release(balance.OutcomeDone)
	if n := testing.AllocsPerRun(1000, func() {
		slot, err := a.Acquire(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		slot.Release(balance.OutcomeDone)
	}); n != 0 {
		t.Errorf("Acquire above soft: %v allocations, want 0", n)
	}
}

func BenchmarkAcquire(bb *testing.B) {
	for _, n := range []int{10, 50} {
		b, a := warm(bb, n, balance.Limits{Soft: 10, Hard: 20})
		ctx := context.Background()
		bb.Run(fmt.Sprintf("through=balance/machines=%d", n), func(bb *testing.B) {
			bb.ReportAllocs()
			for bb.Loop() {
				r := balance.Request{App: "web"}
				slot, err := b.Pick(r)
				if err != nil {
					bb.Fatal(err)
				}
				slot.Release(balance.OutcomeDone)
			}
		})
		bb.Run(fmt.Sprintf("through=autostart/machines=%d", n), func(bb *testing.B) {
			r := &balance.Request{} // as in a server: it is part of what is allocated for the request anyway
			bb.ReportAllocs()
			for bb.Loop() {
				*r = balance.Request{App: "web"}
				slot, err := a.Acquire(ctx, r)
				if err != nil {
					bb.Fatal(err)
				}
				slot.Release(balance.OutcomeDone)
			}
		})
	}
}

// BenchmarkWarmPath is what Acquire adds to the balancer's Pick where something serves. Both run by
// turns, a few hundred requests each, so that whatever else the host does falls on both; its
// figures are medians over the turns. ns/op is a request through each.
func BenchmarkWarmPath(bb *testing.B) {
	for _, n := range []int{10, 50} {
		bb.Run(fmt.Sprintf("machines=%d", n), func(bb *testing.B) {
			b, a := warm(bb, n, balance.Limits{Soft: 10, Hard: 20})
			ctx := context.Background()
			r := &balance.Request{} // as in a server: it is part of what is allocated for the request anyway
			const turn = 500
			var alone, through []time.Duration
			bb.ReportAllocs()
			for left := bb.N; left > 0; left -= turn {
				k := min(left, turn)
				began := time.Now()
				for range k {
					*r = balance.Request{App: "web"}
					slot, err := b.Pick(*r)
					if err != nil {
						bb.Fatal(err)
					}
					slot.Release(balance.OutcomeDone)
				}
				between := time.Now()
				for range k {
					*r = balance.Request{App: "web"}
					slot, err := a.Acquire(ctx, r)
					if err != nil {
						bb.Fatal(err)
					}
					slot.Release(balance.OutcomeDone)
				}
				if k == turn {
					alone, through = append(alone, between.Sub(began)), append(through, time.Since(between))
				}
			}
			if len(alone) == 0 {
				return
			}
			slices.Sort(alone)
			slices.Sort(through)
			ns := func(ds []time.Duration) float64 { return float64(ds[len(ds)/2]) / turn }
			bb.ReportMetric(ns(alone), "pick-ns")
			bb.ReportMetric(ns(through), "acquire-ns")
			bb.ReportMetric(ns(through)-ns(alone), "extra-ns")
		})
	}
}

// BenchmarkHandover measures from the instant in which a machine is ready to those in which its
// first requests have their slots, with a hard limit of 20. Its figures are the two percentiles;
// ns/op is the whole cycle, going to sleep included.
func BenchmarkHandover(bb *testing.B) {
	for _, n := range []int{1, 100, 10_000} {
		bb.Run(fmt.Sprintf("parked=%d", n), func(bb *testing.B) { benchHandover(bb, n, 20) })
	}
}

func benchHandover(bb *testing.B, parked, hard int) {
	f, _ := balance.NewFleet(balance.FleetConfig{Node: "n", Region: "nrt"})
	b, _ := balance.New(f, balance.Config{})
	if err := f.Apply(balance.PutApp{App: balance.App{ID: "web", Autostart: true, Limits: balance.Limits{Hard: hard}}}); err != nil {
		bb.Fatal(err)
	}
	g, err := f.Host(balance.Machine{ID: "m", App: "web", Region: "nrt"})
	if err != nil {
		bb.Fatal(err)
	}
	a, err := New(b, refusing{}, Config{MaxParked: parked, MaxWait: -1})
	if err != nil {
		bb.Fatal(err)
	}
	type given struct {
		slot balance.Reservation
		at   time.Time
	}
	slots := make(chan given, parked)
	waits := make(chan struct{}, parked)
	a.config.Trace.Parked = func(balance.AppID, int) { waits <- struct{}{} }
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	park := func(k int) {
		for range k {
			all.Go(func() {
				r := balance.Request{App: "web"}
				if slot, err := a.Acquire(ctx, &r); err == nil {
					slots <- given{slot, time.Now()}
				}
			})
		}
		for range k {
			<-waits // before the clock runs
		}
		for range 2 * k {
			runtime.Gosched() // until they sleep
		}
	}
	k := min(parked, hard)
	park(parked)
	var first, last []time.Duration
	for bb.Loop() {
		row, _ := f.App("web")
		m, _ := row.Machine("m")
		token, answer := g.Start(m.Epoch)
		if answer != balance.StartAccepted {
			bb.Fatal(answer)
		}
		began := time.Now()
		g.Ready(token)
		var held []balance.Reservation
		var ats []time.Duration
		for range k {
			s := <-slots
			ats = append(ats, s.at.Sub(began))
			held = append(held, s.slot)
		}
		first, last = append(first, slices.Min(ats)), append(last, slices.Max(ats))
		stop, _ := g.CloseNow()
		g.Closed(stop, false)
		for i := range held {
			held[i].Release(balance.OutcomeDone)
		}
		park(k)
	}
	cancel()
	all.Wait()
	p99 := func(ds []time.Duration) float64 {
		slices.Sort(ds)
		return float64(ds[(len(ds)-1)*99/100].Microseconds())
	}
	bb.ReportMetric(p99(first), "first-p99-us")
	bb.ReportMetric(p99(last), fmt.Sprintf("%dth-p99-us", k))
}

// BenchmarkPark is one request that waits and whose client leaves: what the room adds to a request.
func BenchmarkPark(bb *testing.B) {
	_, a := warm(bb, 1, balance.Limits{Hard: 1})
	held, err := a.Acquire(context.Background(), &balance.Request{App: "web"})
	if err != nil {
		bb.Fatal(err)
	}
	defer held.Release(balance.OutcomeDone)
	var leave context.CancelFunc
	a.config.Trace.Parked = func(balance.AppID, int) { leave() }
	bb.ReportAllocs()
	for bb.Loop() {
		ctx, cancel := context.WithCancel(context.Background())
		leave = cancel
		if _, err := a.Acquire(ctx, &balance.Request{App: "web"}); err == nil {
			bb.Fatal("a slot that is not there")
		}
		cancel()
	}
}
