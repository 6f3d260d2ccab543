package policytest

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale/policy"
)

// Excess is the rule that a large public cloud documents for its proxy. It is here for comparison
// and for those who are used to it. In each pass, and in each region, it counts the machines that
// run and those of them that are at or above their soft limit. If excess = running - (over + 1) is
// at least 1, it spares one machine. A single machine is spared when nothing is in flight on it.
// The rule remembers nothing, so it stops machines that have to start again soon after:
// [policy.Decider] is the better rule.
//
// The documentation does not say which machine goes; this one takes the least loaded, and among
// equals the last of the canonical order. It recalls none: requests do that. Only what this node
// owns counts. The zero value is ready; it is a [policy.Policy] of one app.
type Excess struct {
	// Pass is the time between two stops. 0 means 3 min.
	Pass time.Duration

	last time.Time
	out  []policy.Decision
}

// Decide implements [policy.Policy].
func (e *Excess) Decide(now time.Time, s policy.Situation) []policy.Decision {
	e.out = e.out[:0]
	if e.last.IsZero() {
		e.last = now
	}
	if now.Sub(e.last) < cmp.Or(e.Pass, 3*time.Minute) {
		return nil
	}
	e.last = now
	if s.App.Autostop == balance.AutostopOff || s.Parked > 0 || s.Stale {
		return nil
	}
	slices.SortStableFunc(s.Machines, func(a, b policy.Seen) int {
		return cmp.Or(cmp.Compare(a.Rank, b.Rank), cmp.Compare(a.ID, b.ID))
	})
	up := func(m *policy.Seen) bool { // or will be, and does not leave
		starts := m.State == balance.StateStarted || m.State == balance.StateStarting
		return starts && !m.Hard && !m.Leaving
	}
	total, first := 0, map[string]int{}
	ups, kept := map[string]int{}, make([]bool, len(s.Machines))
	for i := range s.Machines {
		m := &s.Machines[i]
		kept[i] = i < s.App.Min || first[m.Region] < s.App.MinPerRegion
		first[m.Region]++
		if up(m) {
			total++
			ups[m.Region]++
		}
	}
	done := map[string]bool{}
	for i := range s.Machines {
		region := s.Machines[i].Region
		if done[region] {
			continue
		}
		done[region] = true
		running, over, victim := 0, 0, -1
		for j := len(s.Machines) - 1; j >= 0; j-- {
			m := &s.Machines[j]
			if m.Region != region || !m.Own || m.State != balance.StateStarted || !up(m) {
				continue
			}
			running++
			if m.Load >= limit(m) {
				over++
			}
			goes := !m.Busy && !kept[j] && total > s.App.Min && ups[region] > s.App.MinPerRegion
			if goes && (victim < 0 || m.Load < s.Machines[victim].Load) {
				victim = j
			}
		}
		if victim < 0 || running-(over+1) < 1 && (running > 1 || s.Machines[victim].Load > 0) {
			continue
		}
		total--
		ups[region]--
		word := "machines"
		if running == 1 {
			word = "machine"
		}
		e.out = append(e.out, policy.Decision{
			App: s.App.ID, Region: region, Machine: s.Machines[victim].ID, Verdict: policy.VerdictSpare,
			Text: fmt.Sprintf("%d %s running, %d at the soft limit", running, word, over),
		})
	}
	return e.out
}

// limit returns the load at which a machine is full.
func limit(m *policy.Seen) int {
	if m.Failing {
		return 0
	}
	return cmp.Or(m.Limits.Soft, m.Limits.Hard, balance.MaxLimit+1)
}
