package policy

import (
	"cmp"
	"slices"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Policy decides which machines of one app one node recalls and starts. [Planner] is ours; package
// policytest checks others. A policy is asked when there is demand or a minimum and something has
// changed, at most every 2 ms in the long run, and every 100 ms as long as its last decision left
// anything open. It is called from one goroutine at a time, is made for one app, and may remember
// what it has seen. It reads no clock and does not keep or change what in points to, but for the
// rows: these never change.
//
// All apps of a node are planned for one after the other, so a policy returns at once: one that
// blocks stops the planning of them all. It does not panic: nobody recovers that.
//
// A Policy that also has the methods History and Restore of [Planner] is asked for what it has
// learned, and told. These must not block.
type Policy interface {
	// Plan decides. What it says to start or recall is asked for once; what came of that is in a later
	// Input's Answers, until then it is under way.
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

// learn takes in what came of earlier decisions.
func (p *Planner) learn(now time.Time, as []Answer) {
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

// Input is what one decision is made from.
type Input struct {
	App      balance.App
	Machines []*balance.Machine // all rows of the app, each once; only read
	Regions  []string           // home first, then where it overflows to; see [RegionOrder]
	// InFlight is how many requests this node has in flight. What a soft-cordoned machine had before
	// the cordon was seen is left out: it is served there, and no reason to recall the machine.
	InFlight int
	Parked   int // and in its waiting room
	// Unserved says that since the last decision a request has gone to a failing machine, for want
	// of a better one. It is demand, though it may have ended by now: what fails fast leaves no
	// trace in the other counts.
	Unserved bool
	// Outliers are machines that this node avoids for their failures, although their checks pass.
	// They are no capacity.
	Outliers []balance.MachineID
	// Others is the demand (in flight and parked) that other nodes have for each of Regions as their
	// home; missing means 0. Of the first, what they have in flight at soft-cordoned machines is left
	// out.
	Others []int
	// RTT is the round trip to each of Regions; missing or negative means unknown. While requests
	// are parked, an owner there that has not answered a start for three of them, and 300 ms at
	// least, is silent: what it was asked for is not counted on, and machines of other owners are
	// asked too. One whose round trip is not known is waited for.
	RTT []time.Duration
	// Forced are the machines that parked requests have to go to, each once; for each one machine is
	// started if none of them runs or starts.
	Forced []*balance.Target
	// Answers are what came of what earlier decisions asked for, in the order of coming; each is told
	// once.
	Answers []Answer
	// Rand are random bits; they only spread retries.
	Rand uint64
}

// Decision is what a planner wants done, and why. It is a value: nothing in it changes later.
type Decision struct {
	App    balance.AppID
	Recall []balance.Machine // end their soft cordons, in this order
	Start  []balance.Machine // start these, in this order, each from the epoch of its row
	// the last of Start is an extra one, beyond what is wanted: nothing that starts seems to come
	Hedge bool

	Demand int // requests: in flight and parked, here and at other nodes with this home region
	Want   int // machines whose capacity covers the demand and the minimums
	Have   int // machines that run or start, where the demand was looked for

	// Reason says why in a sentence, such as "demand 23, ready 1x20, starting 0"; empty when nothing
	// is to be done.
	Reason string
	// Refuse says why what is parked cannot be served before RetryAfter has passed; empty while there
	// is hope.
	Refuse     string
	RetryAfter time.Duration
	// Doubt says why none of the starts in flight is expected to serve: their owners do not expect
	// it, see [balance.Machine.Doubtful], or they only repeat two or more that have failed one
	// after the other. Nothing else may serve either. Who has been parked for 5 s is then told
	// that, instead of waiting on; the starts go on. Empty while there is hope.
	Doubt string

	// Wait is how long a request may be parked: as long as the starts in flight may take, and some
	// more; 10 s when there are none.
	Wait time.Duration
	// Await is how much longer a start in flight is worth waiting for, whatever Wait says; 0 when
	// none is.
	Await     time.Duration
	Remaining time.Duration // until the next start in flight should be ready; 0 when none is
	Suspect   int           // starts in flight that take suspiciously long

	// Settled says that nothing is under way and nothing is missing: the same input gives the same
	// answer. The policy is then asked again when something has changed, and not every 100 ms.
	Settled bool
}

// Acts reports whether there is anything to do.
func (d *Decision) Acts() bool { return len(d.Recall)+len(d.Start) > 0 }

// Demand returns how many requests want capacity: in flight and parked, here and at other nodes
// with the same home region.
func (in *Input) Demand() int {
	n := in.InFlight + in.Parked + in.other(0)
	if in.Unserved {
		return max(n, 1)
	}
	return n
}

// rtt returns the round trip to a region, negative where it is not known.
func (in *Input) rtt(region string) time.Duration {
	if i := slices.Index(in.Regions, region); i >= 0 && i < len(in.RTT) {
		return in.RTT[i]
	}
	return -1
}

func (in *Input) other(i int) int {
	if i < len(in.Others) {
		return in.Others[i]
	}
	return 0
}

// RegionOrder returns where demand of an app is served with machines, best first. The first is its
// home region: the first of the app's own list that has machines, else nearest. What home cannot
// start overflows to the regions after it: first as the app lists them, then in an order derived
// from app and home, which all nodes of one home share. Regions without machines are left out. have
// is not changed.
func RegionOrder(app balance.App, nearest string, have []string) []string {
	order := make([]string, 0, len(have))
	for _, r := range app.Regions {
		if slices.Contains(have, r) && !slices.Contains(order, r) {
			order = append(order, r)
		}
	}
	home := nearest
	if len(order) > 0 {
		home = order[0]
	} else if slices.Contains(have, nearest) {
		order = append(order, nearest)
	}
	listed := len(order)
	for _, r := range have {
		if !slices.Contains(order[:listed], r) {
			order = append(order, r)
		}
	}
	// Nearness would be a better order for requests, but nodes measure it differently, and then each
	// starts its own.
	key := func(r string) uint64 {
		return balance.MachineKey{App: app.ID, ID: balance.MachineID(home + "\x00" + r)}.Rank()
	}
	slices.SortFunc(
		order[listed:],
		func(a, b string) int { return cmp.Or(cmp.Compare(key(a), key(b)), cmp.Compare(a, b)) },
	)
	return order
}
