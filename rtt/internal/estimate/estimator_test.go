package estimate

import (
	"fmt"
	"slices"
	"testing"
	"time"
	"unsafe"

	"pgregory.net/rapid"
)

const ms = time.Millisecond

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Rows on a timeline: one sample a second, then what the base must be.
func TestEstimatorTimelines(t *testing.T) {
	type run struct {
		n    int           // this many seconds
		rtt  time.Duration // 0 is a miss
		base time.Duration // at their end
		in   State
	}
	for _, row := range []struct {
		name string
		runs []run
	}{
		{"nothing is known before the first sample", []run{{0, 0, 0, StateUnknown}}},
		{"a miss alone leaves it unknown", []run{{5, 0, 0, StateUnknown}}},
		{"the first sample is answered at once", []run{{1, 20 * ms, 20 * ms, StateFresh}}},
		{"a first sample that is an outlier is gone with the second", []run{{1, 900 * ms, 900 * ms, StateFresh}, {1, 20 * ms, 20 * ms, StateFresh}}},
		{"a shorter path is followed at once", []run{{60, 50 * ms, 50 * ms, StateFresh}, {1, 20 * ms, 20 * ms, StateFresh}}},
		{"nine longer samples are a queue", []run{{60, 50 * ms, 50 * ms, StateFresh}, {9, 80 * ms, 50 * ms, StateFresh}}},
		{"ten are a longer path", []run{{60, 50 * ms, 50 * ms, StateFresh}, {10, 80 * ms, 80 * ms, StateFresh}}},
		{"noise just before does not hold it down", []run{{58, 50 * ms, 50 * ms, StateFresh}, {2, 64 * ms, 50 * ms, StateFresh}, {8, 80 * ms, 80 * ms, StateFresh}}},
		{"one short sample between starts the count anew", []run{{60, 50 * ms, 50 * ms, StateFresh}, {9, 80 * ms, 50 * ms, StateFresh}, {1, 50 * ms, 50 * ms, StateFresh}, {9, 80 * ms, 50 * ms, StateFresh}}},
		{"less than a quarter longer takes thirty", []run{{60, 50 * ms, 50 * ms, StateFresh}, {29, 58 * ms, 50 * ms, StateFresh}, {1, 58 * ms, 58 * ms, StateFresh}}},
		{"less than a tenth longer waits for the window", []run{{60, 50 * ms, 50 * ms, StateFresh}, {59, 54 * ms, 50 * ms, StateFresh}, {1, 54 * ms, 54 * ms, StateFresh}}},
		{"after one sample twice as many must agree", []run{{1, 50 * ms, 50 * ms, StateFresh}, {19, 80 * ms, 50 * ms, StateFresh}, {1, 80 * ms, 80 * ms, StateFresh}}},
		{"an outlier at the start does not hide it", []run{{1, 900 * ms, 900 * ms, StateFresh}, {6, 50 * ms, 50 * ms, StateFresh}, {10, 80 * ms, 80 * ms, StateFresh}}},
		{"two misses are not lost", []run{{10, 50 * ms, 50 * ms, StateFresh}, {2, 0, 50 * ms, StateFresh}}},
		{"three are, and the base is kept", []run{{10, 50 * ms, 50 * ms, StateFresh}, {3, 0, 50 * ms, StateLost}}},
		{"a miss does not break a row of longer samples", []run{{10, 50 * ms, 50 * ms, StateFresh}, {5, 80 * ms, 50 * ms, StateFresh}, {1, 0, 50 * ms, StateFresh}, {5, 80 * ms, 80 * ms, StateFresh}}},
		{"one answer brings it back", []run{{10, 50 * ms, 50 * ms, StateFresh}, {30, 0, 50 * ms, StateLost}, {1, 50 * ms, 50 * ms, StateFresh}}},
		{"after five minutes of silence the window is void", []run{{60, 50 * ms, 50 * ms, StateFresh}, {301, 0, 50 * ms, StateLost}, {1, 90 * ms, 90 * ms, StateFresh}}},
	} {
		t.Run(row.name, func(t *testing.T) {
			var e Estimator
			now := epoch
			for i, r := range row.runs {
				for range r.n {
					now = now.Add(time.Second)
					if r.rtt == 0 {
						e.Miss()
					} else {
						e.Observe(now, Sample{RTT: r.rtt, Source: SourceUDP})
					}
				}
				if base, _ := e.Base(); base != r.base || e.State(now) != r.in {
					t.Fatalf("run %d: base %v, %v; want %v, %v", i, base, e.State(now), r.base, r.in)
				}
			}
		})
	}
}

func TestEstimatorAges(t *testing.T) {
	var e Estimator
	e.Observe(epoch, Sample{RTT: 10 * ms, Source: SourceUDP})
	for _, row := range []struct {
		age  time.Duration
		want State
	}{{-time.Hour, StateFresh}, {0, StateFresh}, {4 * time.Second, StateFresh}, {4*time.Second + 1, StateStale}, {24 * time.Hour, StateStale}} {
		if got := e.State(epoch.Add(row.age)); got != row.want {
			t.Errorf("after %v: %v, want %v", row.age, got, row.want)
		}
	}
	e.Expect(10 * time.Second)
	if got := e.State(epoch.Add(31 * time.Second)); got != StateFresh {
		t.Errorf("with 10s between probes it is %v after 31s, want fresh", got)
	}
	if s := e.Stat(epoch.Add(-time.Hour)); s.Age != 0 {
		t.Errorf("seen from the past its age is %v, want 0", s.Age)
	}
}

func TestEstimatorRejects(t *testing.T) {
	var e Estimator
	for _, d := range []time.Duration{0, -1, -time.Hour, MaxRTT + 1, 1<<63 - 1, -1 << 63} {
		if e.Observe(epoch, Sample{RTT: d}) {
			t.Errorf("a sample of %v was believed", d)
		}
	}
	if e.State(epoch) != StateUnknown {
		t.Errorf("state %v; want unknown", e.State(epoch))
	}
}

func TestEstimatorPassive(t *testing.T) {
	var e Estimator
	now := epoch
	probe := func(n int, d time.Duration) {
		for range n {
			now = now.Add(time.Second)
			e.Observe(now, Sample{RTT: d, Source: SourceUDP, Kernel: true})
		}
	}
	probe(20, 50*ms)
	if !e.Observe(now, Sample{RTT: 49 * ms, Source: SourcePassive}) {
		t.Error("a passive sample below the base was not believed though nothing had changed")
	}
	if s := e.Stat(now); s.Base != 49*ms || s.Source != SourcePassive {
		t.Errorf("base %v from %v, want 49ms from passive", s.Base, s.Source)
	}
	// The connection's minimum stays at 49 ms for five minutes after the path grew to 80 ms; it
	// must not hide that.
	for range 10 {
		probe(1, 80*ms)
		e.Observe(now, Sample{RTT: 49 * ms, Source: SourcePassive})
	}
	if b, _ := e.Base(); b != 80*ms {
		t.Errorf("base %v while a connection remembers 49ms, want 80ms", b)
	}
	now = now.Add(passiveHold)
	probe(3, 80*ms)
	if !e.Observe(now, Sample{RTT: 60 * ms, Source: SourcePassive}) {
		t.Error("five minutes later a passive sample below the base was not believed")
	}
}

func TestEstimatorRestartIsNeverZero(t *testing.T) {
	var e Estimator
	e.Restart()
	if _, ok := e.Base(); ok {
		t.Error("a restart of nothing has a base")
	}
	for range 10 {
		e.Observe(epoch, Sample{RTT: 30 * ms, Source: SourceUDP, Kernel: true})
	}
	e.Restart()
	e.Restart() // a second one must not lose what the first kept
	if s := e.Stat(epoch); s.Base != 30*ms || s.P90 != 30*ms || s.State != StateStale {
		t.Errorf("after a restart: %+v", s)
	}
	e.Observe(epoch, Sample{RTT: 45 * ms, Source: SourceUDP})
	if b, _ := e.Base(); b != 45*ms {
		t.Errorf("first sample of the new life: base %v, want 45ms", b)
	}
}

func TestEstimatorStat(t *testing.T) {
	var e Estimator
	now := epoch
	for i := range 20 {
		now = now.Add(time.Second)
		e.Observe(now, Sample{RTT: time.Duration(40+i*7%20) * ms, Source: SourceUDP, Kernel: i == 0})
	}
	e.Miss()
	if s := e.Stat(now); s.Loss != (Fraction{0, 20}) {
		t.Errorf("of what is only late the loss is %v, want 0 of 20", s.Loss)
	}
	e.Lose()
	s := e.Stat(now.Add(time.Second))
	if s.Base != 40*ms || s.P90 != 57*ms || s.Samples != 20 || s.Age != time.Second ||
		s.Loss != (Fraction{1, 21}) ||
		!s.Kernel {
		t.Errorf("%+v", s)
	}
}

// naive is the estimator's rule, written in a slow and obvious way.
type naive struct {
	win   []time.Duration // oldest first
	above int
	block int             // samples since the last of floors
	floor []time.Duration // minima of the last four full windows
}

func (m *naive) base() time.Duration {
	least, low := slices.Min(m.win), slices.Min(m.win)
	for _, f := range m.floor {
		low = min(low, f)
	}
	sorted := slices.Sorted(slices.Values(m.win))
	p90 := sorted[(len(sorted)-1)*9/10]
	if (least-low)/tick > (p90-least)/tick/2 {
		return least
	}
	return low
}

func (m *naive) observe(x time.Duration) {
	m.win = append(m.win, x)
	if len(m.win) > 60 {
		m.win = m.win[1:]
	}
	base := slices.Min(m.win)
	if m.block++; m.block == 60 {
		m.block = 0
		if m.floor = append(m.floor, base); len(m.floor) > 4 {
			m.floor = m.floor[1:]
		}
	}
	same := func(x time.Duration) time.Duration { return x + max(ms, (x/tick/10)*tick) }
	if x <= same(base) {
		m.above = 0
		return
	}
	m.above = min(m.above+1, 60)
	old := m.win[:max(0, len(m.win)-m.above)]
	need := 10
	if len(old) < 4 {
		need = 20
	}
	if m.above < need || len(old) == 0 {
		return
	}
	if slices.Min(m.win[len(m.win)-need:]) <= base+max(2*ms, (base/tick/4)*tick) {
		need = 30
	}
	if m.above < need {
		return
	}
	sorted := slices.Sorted(slices.Values(old))
	p90 := sorted[(len(sorted)-1)*9/10]
	last := slices.Clone(m.win[len(m.win)-need:])
	if slices.Min(last) <= p90 {
		return
	}
	m.win, m.above, m.floor, m.block = last, 0, nil, len(last)
	for i := 3; i >= 1; i-- {
		if slices.Min(last[i:]) > same(last[i-1]) {
			m.win, m.block = last[i:], len(last)-i
			return
		}
	}
}

// The monotone deque equals brute force, and the base is always one of the samples of the window.
func TestEstimatorEqualsBruteForce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var e Estimator
		var m naive
		now := epoch
		// Levels that last trigger the change test; noise almost triggers it.
		for _, level := range rapid.SliceOfN(rapid.IntRange(1, 300), 1, 12).Draw(t, "levels") {
			noise := rapid.IntRange(0, 1).Draw(t, "noisy") * level * 3000
			for range rapid.IntRange(1, 70).Draw(t, "n") {
				x := time.Duration(level)*ms + time.Duration(rapid.IntRange(0, noise).Draw(t, "x"))*tick
				now = now.Add(time.Duration(rapid.IntRange(0, 3).Draw(t, "dt")) * time.Second)
				e.Observe(now, Sample{RTT: x, Source: SourceUDP})
				m.observe(x)
				got, ok := e.Base()
				if want := m.base(); !ok || got != want || int(e.win.count) != len(m.win) {
					t.Fatalf("base %v of %d samples, brute force %v of %d", got, e.win.count, want, len(m.win))
				}
			}
		}
		s := e.Stat(now)
		sorted := slices.Sorted(slices.Values(m.win))
		if want := sorted[(len(sorted)-1)*9/10]; s.P90 != want {
			t.Fatalf("p90 %v, brute force %v", s.P90, want)
		}
	})
}

func TestEstimatorIsSmall(t *testing.T) {
	size := unsafe.Sizeof(Estimator{})
	t.Logf("%d bytes", size)
	if size > 800 {
		t.Errorf("an Estimator has %d bytes; 500 peers in 1 MB leave 2 KB for everything", size)
	}
}

func TestObserveAllocatesNothing(t *testing.T) {
	var e Estimator
	now := epoch
	i := 0
	if n := testing.AllocsPerRun(1000, func() {
		i++
		now = now.Add(time.Second)
		e.Observe(now, Sample{RTT: 50*ms + time.Duration(i*7919%1000)*30*time.Microsecond, Source: SourceUDP})
		e.Miss()
		e.Lose()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkObserve(b *testing.B) {
	for _, noise := range []int{0, 10, 30} { // percent of the path
		b.Run(fmt.Sprintf("noise=%d", noise), func(b *testing.B) {
			var xs [1024]Sample
			r := uint64(1)
			for i := range xs {
				r = r*6364136223846793005 + 1442695040888963407
				xs[i] = Sample{
					RTT:    50*ms + time.Duration(float64((r)>>11)/(1<<53)*float64(noise)/100*float64(50*ms)),
					Source: SourceUDP, Kernel: true,
				}
			}
			var e Estimator
			now := epoch
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				now = now.Add(time.Second)
				e.Observe(now, xs[i&1023])
				i++
			}
		})
	}
}

func BenchmarkStat(b *testing.B) {
	var e Estimator
	for i := range 60 {
		e.Observe(
			epoch, Sample{RTT: 50*ms + time.Duration(i*7919%1000)*10*time.Microsecond, Source: SourceUDP},
		)
	}
	b.ReportAllocs()
	for b.Loop() {
		e.Stat(epoch)
	}
}
