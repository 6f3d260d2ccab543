package rtt

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/internal/nettest"
)

// Answers later than their probe's timeout still count, so a path of 1.5 s is slow, not lost.
func TestMeshLateAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCluster(t)
		defer w.stop()
		w.net.SetLink(oneWay(func(a, b int) time.Duration { return 750 * ms }))
		a, _ := w.start("a", "ra", 1, nil)
		w.start("b", "rb", 2, nil)
		time.Sleep(time.Minute)
		s, _ := a.Table().To("b")
		if s.Base != 1500*ms || s.State == StateLost || s.Loss.Lost > 0 || s.Loss.N < 40 {
			t.Errorf("%+v", s)
		}
		if d, ok := a.RTT("rb"); !ok || d != 1500*ms {
			t.Errorf("RTT %v, %v", d, ok)
		}
	})
}

// A path that becomes much longer or shorter at once loses nothing, and no loss is reported at any
// time.
func TestMeshStepIsNoLoss(t *testing.T) {
	for _, row := range []struct {
		name     string
		every    time.Duration
		from, to time.Duration // round trips
		within   time.Duration // the base follows
		// at this many probes three late answers in a row briefly make a peer lost
		mayLoseSeen bool
	}{
		{"37 to 600 ms", time.Second, 37 * ms, 600 * ms, 15 * time.Second, false},
		{"600 to 37 ms", time.Second, 600 * ms, 37 * ms, 3 * time.Second, false},
		{"37 ms to 2.9 s", time.Second, 37 * ms, 2900 * ms, 20 * time.Second, true},
		{"2.9 s to 1 ms", time.Second, 2900 * ms, ms, 6 * time.Second, true},
		{"37 to 600 ms, 20 probes a second", 50 * ms, 37 * ms, 600 * ms, 5 * time.Second, true},
		{"600 to 37 ms, 20 probes a second", 50 * ms, 600 * ms, 37 * ms, time.Second, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newCluster(t)
				defer w.stop()
				w.net.SetLink(oneWay(func(a, b int) time.Duration { return row.from / 2 }))
				a, _ := w.start("a", "ra", 1, func(c *Config) { c.Interval = row.every })
				w.start("b", "rb", 2, func(c *Config) { c.Peers = nil })
				time.Sleep(30 * time.Second)
				look := func() {
					s, _ := a.Table().To("b")
					if s.Loss.Lost > 0 || s.State == StateLost && !row.mayLoseSeen {
						t.Fatalf("%v: %v, loss %v", s.Base, s.State, s.Loss)
					}
				}
				look()
				w.net.SetLink(oneWay(func(a, b int) time.Duration { return row.to / 2 }))
				step := time.Now()
				for time.Since(step) < time.Minute {
					time.Sleep(100 * ms)
					look()
					if s, _ := a.Table().To("b"); s.Base != row.to && time.Since(step) > row.within+4*row.to {
						t.Fatalf("%v after the step the base is %v", time.Since(step), s.Base)
					}
				}
				// Overtaken packets count as lost in their direction until they arrive.
				if s, _ := a.Table().To("b"); s.LossOut.Lost+s.LossIn.Lost > 0 || s.State != StateFresh {
					t.Errorf("a minute later: %v, out %v, in %v", s.State, s.LossOut, s.LossIn)
				}
			})
		})
	}
}

// losing makes a link with that delay that loses one in each probes of the first node.
func losing(each int, way time.Duration) nettest.Link {
	n := 0
	return func(from, _ netip.AddrPort, b []byte) []time.Duration {
		if from == simAddr(1) && b[4] == typeProbe {
			if n++; n%each == 0 {
				return nil
			}
		}
		return []time.Duration{way}
	}
}

// Real losses are counted, three seconds later.
func TestMeshLossIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCluster(t)
		defer w.stop()
		w.net.SetLink(losing(4, 100*ms))
		a, _ := w.start("a", "ra", 1, nil)
		w.start("b", "rb", 2, func(c *Config) { c.Peers = nil })
		time.Sleep(100 * time.Second)
		s, _ := a.Table().To("b")
		if v := s.Loss.Value(); v < 0.2 || v > 0.27 || s.Loss.N < 100 || s.State != StateFresh {
			t.Errorf("loss %v, %v; want a quarter, fresh", s.Loss, s.State)
		}
		w.net.SetLink(func(netip.AddrPort, netip.AddrPort, []byte) []time.Duration { return nil })
		lost := s.Loss.Lost
		time.Sleep(4 * time.Second) // 1.2 s to the next probe, and three that are overdue after 0.65 s
		if s, _ = a.Table().To("b"); s.State != StateLost {
			t.Errorf("4 s after the cut: %v", s.State)
		}
		time.Sleep(10 * time.Second)
		if s, _ = a.Table().To("b"); s.Loss.Lost < lost+5 {
			t.Errorf("14 s after the cut %v, before it %d", s.Loss, lost)
		}
	})
}

// A second of loss in one direction shows in that direction's counter only.
func TestMeshDirectionalLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCluster(t)
		defer w.stop()
		w.net.SetLink(losing(5, 5*ms))
		a, _ := w.start("a", "ra", 1, nil)
		w.start("b", "rb", 2, func(c *Config) { c.Peers = nil })
		time.Sleep(200 * time.Second)
		s, _ := a.Table().To("b")
		if v := s.LossOut.Value(); v < 0.17 || v > 0.23 || s.LossIn.Lost != 0 || s.LossIn.N < 100 || s.State != StateFresh {
			t.Errorf("out %v, in %v, %v; want a fifth, none, fresh", s.LossOut, s.LossIn, s.State)
		}
	})
}
