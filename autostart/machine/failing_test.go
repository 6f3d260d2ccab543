package machine

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// A machine that fails, and does so fast, is replaced like one that keeps its requests: what it
// serves is not served.
func TestFailingMachineIsReplaced(t *testing.T) {
	for _, takes := range []time.Duration{0, time.Millisecond, 20 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			n := newNode(t, balance.App{}, Config{Recent: -1, RestartAfter: -1}, habits{boot: 300 * time.Millisecond}, habits{boot: 300 * time.Millisecond})
			defer n.stop()
			n.takes = takes
			sick, _, err := n.get()
			if err != nil {
				t.Fatal(err)
			}
			n.d.mu.Lock()
			n.d.running[sick].sick = true
			n.d.mu.Unlock()
			for n.row(sick).Health != balance.HealthFailing {
				time.Sleep(sec)
			}
			bad := 0
			for range 20 {
				id, _, err := n.get()
				if err != nil {
					t.Fatal(err)
				}
				if id == sick {
					bad++
				}
				time.Sleep(2 * sec)
			}
			if bad > 1 {
				t.Errorf("requests of %v: %d went to the failing machine beside one that would be well, want 1", takes, bad)
			}
		})
	}
}

// So is one that only this node knows to fail: its checks pass, and it is an outlier.
func TestOutlierIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := habits{boot: 300 * time.Millisecond}
		n := newNode(t, balance.App{Min: 2, Limits: balance.Limits{Soft: 1, Hard: 1}}, Config{}, up, up, up)
		defer n.stop()
		time.Sleep(sec)
		only := &balance.Want{Force: balance.Target{Machines: []balance.MachineID{canonical("web", 3)[0]}}}
		other := &balance.Want{Force: balance.Target{Machines: []balance.MachineID{canonical("web", 3)[1]}}}
		ask := func(want *balance.Want, o balance.Outcome) {
			slot, err := n.a.Acquire(t.Context(), &balance.Request{App: "web", Want: want})
			if err != nil {
				t.Fatal(err)
			}
			slot.Release(o)
		}
		for range 60 { // what fails there is well elsewhere
			ask(only, balance.OutcomeError)
			for range 3 {
				ask(other, balance.OutcomeDone)
			}
			time.Sleep(100 * time.Millisecond)
			if v, _ := n.b.View("web"); v.Len(0, balance.TierFailing) > 0 {
				break
			}
		}
		time.Sleep(sec)
		if starts, _, _ := n.d.counts(); starts != 3 {
			t.Errorf("%d starts, want a third for the one that is avoided", starts)
		}
	})
}
