package rtt

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// oneWay makes a link with a constant delay for each pair of addresses, in either direction.
func oneWay(
	d func(a, b int) time.Duration,
) func(from, to netip.AddrPort, b []byte) []time.Duration {
	num := func(a netip.AddrPort) int { x := a.Addr().As4(); return int(x[2])<<8 | int(x[3]) }
	return func(from, to netip.AddrPort, _ []byte) []time.Duration {
		return []time.Duration{d(num(from), num(to))}
	}
}

// Three nodes over links with delay, jitter, 5 % loss and a route change: true distances against
// measured ones.
func TestMeshTrueVersusMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCluster(t)
		defer w.stop()
		r := rand.New(rand.NewPCG(1, 1))
		truth := map[[2]int]time.Duration{{1, 2}: 10 * ms, {1, 3}: 50 * ms, {2, 3}: 45 * ms}
		num := func(a netip.AddrPort) int { return int(a.Addr().As4()[3]) }
		lossy := false
		var mu sync.Mutex
		w.net.SetLink(func(from, to netip.AddrPort, _ []byte) []time.Duration {
			mu.Lock()
			defer mu.Unlock()
			a, b := num(from), num(to)
			d := truth[[2]int{min(a, b), max(a, b)}] / 2
			if lossy && r.Float64() < 0.025 { // in each direction
				return nil
			}
			return []time.Duration{d + time.Duration(r.Float64()*0.2*float64(d))}
		})
		nodes := make([]*Mesh, 4)
		for i, id := range []string{"", "ams", "fra", "iad"} {
			if i > 0 {
				nodes[i], _ = w.start(id, id, i, nil)
			}
		}
		for _, m := range nodes[1:] {
			m.Refresh() // now that all are there
		}
		each := func(f func(from, to string, want time.Duration, s Stat)) {
			for i := 1; i <= 3; i++ {
				for j := 1; j <= 3; j++ {
					if i != j {
						to := nodes[j].cfg.ID
						s, _ := nodes[i].Table().To(to)
						f(nodes[i].cfg.ID, to, truth[[2]int{min(i, j), max(i, j)}], s)
					}
				}
			}
		}
		show := func(title string) {
			t.Log(title)
			each(func(from, to string, want time.Duration, s Stat) {
				t.Logf(
					"  %s -> %s: true %v, measured %v, p90 %v, loss out %.3f of %d, in %.3f of %d, %v", from, to,
					want, s.Base, s.P90, s.LossOut.Value(), s.LossOut.N, s.LossIn.Value(), s.LossIn.N, s.State,
				)
				if d := s.Base - want; d < 0 || d > max(want/10, 200*time.Microsecond) {
					t.Errorf("%s -> %s: measured %v, true %v", from, to, s.Base, want)
				}
			})
		}
		set := func(ams, iad int, d time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			truth[[2]int{ams, iad}] = d
		}
		time.Sleep(450 * ms)
		each(func(from, to string, want time.Duration, s Stat) {
			if s.Base < want || s.Base > want+want/4 {
				t.Errorf("450ms after the start %s -> %s is %+v, true %v", from, to, s, want)
			}
		})
		mu.Lock()
		lossy = true
		mu.Unlock()
		good, all := 0, 0
		time.Sleep(5 * time.Minute) // what a path needs that is noisy in both directions
		for range 900 {
			time.Sleep(time.Second)
			each(func(from, to string, want time.Duration, s Stat) {
				all++
				if d := s.Base - want; d >= 0 && d <= max(want/50, 200*time.Microsecond) {
					good++
				}
			})
		}
		show("after 20 minutes:")
		t.Logf("within 2 %% or 0.2 ms: %.2f %% of the time", 100*float64(good)/float64(all))
		// The studies check 99 % for the estimator with seeded noise; here the schedule is random.
		if float64(good) < 0.9*float64(all) {
			t.Errorf("within 2 %% or 0.2 ms only %d of %d times", good, all)
		}
		set(1, 3, 80*ms)
		time.Sleep(20 * time.Second) // the study requires 15 s
		if s, _ := nodes[1].Table().To("iad"); s.Base < 80*ms {
			t.Errorf("20 s after ams - iad grew to 80ms its base is %v", s.Base)
		}
		// A probe that was under way when the path grew went there by the old path and came back by
		// the new one. It is one of the last 60 until as many have come since, and 5 % are lost.
		time.Sleep(time.Minute)
		show("80 s after ams - iad grew by 30 ms:")
		set(1, 3, 20*ms)
		time.Sleep(time.Minute)
		show("a minute after it shrank to 20 ms:")
	})
}

// firstStat returns what is known of the first peer.
func firstStat(m *Mesh) Stat { return statOf(&m.Table().rows[0].Stat) }

// Keys change without a gap: accept the new one everywhere, use it, drop the old one.
func TestMeshKeyRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCluster(t)
		defer w.stop()
		w.net.SetLink(oneWay(func(a, b int) time.Duration { return 5 * ms }))
		a, _ := w.start("a", "ra", 1, nil)
		b, _ := w.start("b", "rb", 2, nil)
		time.Sleep(3 * time.Second)
		for _, step := range []struct {
			m   *Mesh
			key [][]byte
		}{
			{a, [][]byte{secretA, secretB}}, {b, [][]byte{secretA, secretB}},
			{a, [][]byte{secretB, secretA}}, {b, [][]byte{secretB, secretA}},
			{a, [][]byte{secretB}}, {b, [][]byte{secretB}},
		} {
			if err := step.m.SetKeys(step.key[0], step.key[1:]...); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second)
			for _, m := range []*Mesh{a, b} {
				if s := firstStat(m); s.State != StateFresh || s.Loss.Lost > 0 || m.Counters().Forged > 0 {
					t.Fatalf("while keys change: %+v, %+v", s, m.Counters())
				}
			}
		}
		if err := a.SetKeys([]byte("short")); err == nil {
			t.Error("a short key was taken")
		}
		_ = a.SetKeys(secretA) // now they differ
		time.Sleep(10 * time.Second)
		if s := firstStat(a); s.State != StateLost || b.Counters().Forged == 0 {
			t.Errorf("with different keys: %v, %+v", s.State, b.Counters())
		}
	})
}

// A trace that uses the mesh while it is called must not deadlock.
func TestMeshTraceHoldsNoLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCluster(t)
		defer w.stop()
		var m *Mesh
		var mu sync.Mutex
		get := func() *Mesh { mu.Lock(); defer mu.Unlock(); return m }
		n := 0
		use := func() {
			if m := get(); m != nil {
				n++
				m.Observe("b", 10*ms)
				m.Table()
				m.Refresh()
			}
		}
		var use1 sync.Mutex
		each := func() { use1.Lock(); defer use1.Unlock(); use() }
		a, _ := w.start("a", "ra", 1, func(c *Config) {
			c.Trace = Trace{
				Sample: func(string, time.Duration) { each() }, Table: func(*Table) { each() },
				Lost: func(string) { each() }, Back: func(string) { each() },
			}
		})
		mu.Lock()
		m = a
		mu.Unlock()
		_, stop := w.start("b", "rb", 2, nil)
		time.Sleep(10 * time.Second)
		stop()
		time.Sleep(10 * time.Second)
		use1.Lock()
		defer use1.Unlock()
		if n == 0 {
			t.Error("never called")
		}
	})
}
