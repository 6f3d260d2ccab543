package downscale

import (
	"cmp"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Excess is the rule that a large public cloud documents for its proxy, here for comparison and for who is used to it. Each
// pass, and in each region, it counts the machines that run and those of them that are at or above their soft limit;
// where excess = running - (over + 1) is at least 1, it spares one machine, and a single machine when nothing is in flight
// on it. It remembers nothing, so it stops what it has to start again soon after: [Decider] is the better rule.
//
// It does not say which machine goes; this one takes the least loaded, and of those the last of the canonical order. It
// recalls none: that is left to the requests. Only what this node owns counts. The zero value is ready; it is a [Policy]
// of one app.
type Excess struct {
	// Pass is how often it stops something. 0 means 3 min.
	Pass time.Duration

	last time.Time
	out  []Decision
}

// Decide implements [Policy].
func (e *Excess) Decide(now time.Time, s Situation) []Decision {
	e.out = e.out[:0]
	if e.last.IsZero() {
		e.last = now
	}
	if now.Sub(e.last) < cmp.Or(e.Pass, 3*time.Minute) {
		return nil
	}
	e.last = now
	if s.held() {
		return nil
	}
	s.sort()
	f := floorOf(&s)
	done := map[string]bool{}
	for i := range s.Machines {
		region := s.Machines[i].Region
		if done[region] {
			continue
		}
		done[region] = true
		of := Decision{App: s.App.ID, Region: region, Why: RuleExcess}
		victim := -1
		for j := len(s.Machines) - 1; j >= 0; j-- {
			m := &s.Machines[j]
			if m.Region != region || !m.Own || m.State != balance.StateStarted || !m.counts() {
				continue
			}
			of.Count++
			if m.Load >= capacity(m) {
				of.Over++
			}
			if m.spareable() && f.lets(&s, j) && (victim < 0 || m.Load < s.Machines[victim].Load) {
				victim = j
			}
		}
		if victim < 0 || of.Count-(of.Over+1) < 1 && (of.Count > 1 || s.Machines[victim].Load > 0) {
			continue
		}
		of.Machine, of.Verdict = s.Machines[victim].ID, Spare
		f.goes(&s, victim)
		e.out = append(e.out, of)
	}
	return e.out
}
