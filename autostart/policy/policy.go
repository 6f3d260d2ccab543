package policy

import (
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Policy decides which machines of one app one node recalls and starts. [Planner] is ours; package
// policytest checks others. A policy is asked when there is demand or a minimum and something
// has changed, at most every 2 ms in the long run, and every 100 ms as long as its last decision
// left anything open. It is called from one goroutine at a time, is made for one app, and may
// remember what it has seen. It reads no clock and does not keep or change what in points to, but
// for the rows: these never change.
//
// A policy of your own is asked in a goroutine of its own. One that panics is asked again; one that blocks is not, until it
// comes back. Both stop the planning of their own app only: when that has lasted for 1 s, requests of this app that nothing
// serves are rejected with [autostart.ErrStart], and [autostart.Trace.PolicyFailed] tells.
//
// A Policy that also has the methods History and Restore of [Planner] is asked for what it has learned, and told. These must
// not block.
type Policy interface {
	// Plan decides. What it says to start or recall is asked for once; what came of that is in a later Input's Answers,
	// until then it is under way.
	Plan(now time.Time, in Input) Decision
}

// Answer is what came of a start or a recall that an earlier decision asked for.
type Answer struct {
	At      time.Time
	Machine balance.Machine     // as it stood in that decision
	Recall  bool                // it is of a recall, else of a start
	Start   balance.StartAnswer // what the owner said to a start; void when Err is set
	Err     error               // the owner could not be asked, or did not recall
}

// heed takes in what came of earlier decisions.
func (p *Planner) heed(now time.Time, as []Answer) {
	for _, a := range as {
		if a.At.After(now) { // the clock has been set back since
			a.At = now
		}
		if a.Recall {
			p.recalled(a.At, a.Machine, a.Err)
		} else {
			p.answered(a.At, a.Machine, a.Start, a.Err)
		}
	}
}
