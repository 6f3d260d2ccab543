package balance

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// padded is a counter on a cache line of its own.
type padded struct {
	n atomic.Int64
	_ [56]byte
}

// p2c is what the picks are measured against: the lesser of two random counters, and nothing else.
func p2c(cs []padded) *padded {
	bits := rand.Uint64()
	n := uint64(len(cs))
	a, b := &cs[uint64(uint32(bits))*n>>32], &cs[(bits>>32)*n>>32]
	if b.n.Load() < a.n.Load() {
		a = b
	}
	a.n.Add(1)
	return a
}

var sizes = []int{10, 1000, 100_000}

func BenchmarkBaseline(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprintf("p2c/machines=%d", n), func(b *testing.B) {
			cs := make([]padded, n)
			b.ReportAllocs()
			for b.Loop() {
				p2c(cs).n.Add(-1)
			}
		})
		b.Run(fmt.Sprintf("p2c/machines=%d/parallel", n), func(b *testing.B) {
			cs := make([]padded, n)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					p2c(cs).n.Add(-1)
				}
			})
		})
	}
}

// far orders the regions of the benchmarks: r00 is here, each further one 10 ms more.
type far struct{}

func (far) RTT(region string) (time.Duration, bool) {
	var i int
	_, err := fmt.Sscanf(region, "r%d", &i)
	return time.Duration(i) * 10 * time.Millisecond, err == nil
}

func benchBalancer(tb testing.TB, s Strategy, machines, regions int) (*Fleet, *Balancer) {
	tb.Helper()
	f, err := NewFleet(FleetConfig{Node: "edge", Region: "r00"})
	if err != nil {
		tb.Fatal(err)
	}
	b, err := New(f, Config{Strategy: s, Distance: far{}})
	if err != nil {
		tb.Fatal(err)
	}
	us := []Update{PutApp{App{ID: "web", Limits: Limits{Soft: 10, Hard: 20}}}}
	for i := range machines {
		us = append(us, PutMachine{Machine{ID: MachineID(fmt.Sprintf("m%06d", i)), App: "web", Region: fmt.Sprintf("r%02d", i%regions), Owner: "w", State: StateStarted}, Version{1, 1}})
	}
	if err := f.Apply(us...); err != nil {
		tb.Fatal(err)
	}
	b.Tick(time.Unix(0, 0))
	return f, b
}

func BenchmarkPick(b *testing.B) {
	for _, s := range []struct {
		name string
		s    Strategy
	}{{"closest", nil}, {"closest/choices=2", Closest{Choices: 2}}, {"leastload", LeastLoad{}}, {"pack", Pack{}}} {
		for _, n := range sizes {
			_, lb := benchBalancer(b, s.s, n, 20)
			op := func(b *testing.B) {
				r, err := lb.Pick(Request{App: "web"})
				if err != nil {
					b.Fatal(err)
				}
				r.Release(OutcomeDone)
			}
			name := fmt.Sprintf("strategy=%s/machines=%d/regions=20", s.name, n)
			b.Run(name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					op(b)
				}
			})
			b.Run(name+"/parallel", func(b *testing.B) {
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						op(b)
					}
				})
			})
		}
	}
}

func BenchmarkObserve(b *testing.B) {
	_, lb := benchBalancer(b, nil, 1000, 20)
	r, err := lb.Pick(Request{App: "web"})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	l := Load{InFlight: 3, Limits: Limits{Soft: 10, Hard: 20}}
	for b.Loop() {
		l.Seq++
		l.InFlight = int(l.Seq % 8)
		r.Observe(l)
	}
}

func BenchmarkReport(b *testing.B) {
	f, _ := benchBalancer(b, nil, 1000, 20)
	b.ReportAllocs()
	r := Report{
		App: "web", ID: "m000017", Load: Load{Limits: Limits{Soft: 10, Hard: 20}}, Incarnation: 1,
	}
	for b.Loop() {
		r.Load.Seq++
		r.Load.InFlight = int(r.Load.Seq % 8)
		f.Report(r)
	}
}

func BenchmarkMembership(b *testing.B) {
	f, _ := benchBalancer(b, nil, 1000, 1)
	m := Machine{ID: "m000017", App: "web", Region: "r00", Owner: "w", State: StateStarted}
	seq := uint64(2)
	b.Run("change=state/machines=1000", func(b *testing.B) {
		b.ReportAllocs()
		for ; b.Loop(); seq++ {
			m.State = State(seq % 3)
			if err := f.Apply(PutMachine{m, Version{1, seq}}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("change=member/machines=1000", func(b *testing.B) {
		b.ReportAllocs()
		m.ID, m.State = "new", StateStarted
		for ; b.Loop(); seq += 2 {
			if err := f.Apply(PutMachine{m, Version{1, seq}}); err != nil {
				b.Fatal(err)
			}
			if err := f.Apply(RemoveMachine{"web", "new", Version{1, seq + 1}}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkTick(b *testing.B) {
	_, lb := benchBalancer(b, nil, 1000, 20)
	now := time.Unix(0, 0)
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(tickEvery)
		lb.Tick(now)
	}
}

// TestMemory bounds the memory of a machine beyond the strings of its row, in a large fleet.
func TestMemory(t *testing.T) {
	const n = 50_000
	us := make([]Update, n)
	for i := range us {
		us[i] = PutMachine{
			Machine{
				ID: MachineID(fmt.Sprintf("m%06d", i)), App: "web", Region: fmt.Sprintf("r%02d", i%20),
				Owner: "w", State: StateStarted,
			},
			Version{1, 1},
		}
	}
	f, err := NewFleet(FleetConfig{Node: "edge", Region: "r00"})
	if err != nil {
		t.Fatal(err)
	}
	lb, err := New(f, Config{Distance: far{}})
	if err != nil {
		t.Fatal(err)
	}
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	if err := f.Apply(us...); err != nil {
		t.Fatal(err)
	}
	lb.Tick(time.Unix(0, 0))
	after := heap()
	t.Logf("%d bytes a machine", (after-before)/n)
	if after-before > 220*n {
		t.Errorf("%d bytes a machine, want at most 220", (after-before)/n)
	}
	runtime.KeepAlive(us)
	runtime.KeepAlive(lb)
}

// The cost of a change of one row, alone and with the first pick after it, with a key and in the
// canonical order.
func BenchmarkChange(b *testing.B) {
	for _, n := range []int{10, 1000, 5000} {
		for _, first := range []struct {
			name string
			s    Strategy
			r    Request
			pick bool
		}{{"none", nil, Request{}, false}, {"plain", nil, Request{App: "web"}, true}, {"key", nil, Request{App: "web", Key: "k"}, true}, {"pack", Pack{}, Request{App: "web"}, true}} {
			b.Run(fmt.Sprintf("pick=%s/machines=%d", first.name, n), func(b *testing.B) {
				f, lb := benchBalancer(b, first.s, n, 1)
				m := Machine{ID: "m000003", App: "web", Region: "r00", Owner: "w", State: StateStarted}
				v := Version{1, 1}
				b.ReportAllocs()
				for b.Loop() {
					v.Seq++
					m.Addr = [2]string{"a:1", "b:1"}[v.Seq&1]
					f.Apply(PutMachine{m, v})
					if first.pick {
						r, err := lb.Pick(first.r)
						if err != nil {
							b.Fatal(err)
						}
						r.Release(OutcomeDone)
					}
				}
			})
		}
	}
}
