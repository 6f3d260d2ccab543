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
// what it has seen. It reads no clock. It neither keeps nor changes what in points to; it may keep
// rows, since these never change.
//
// A node plans for its apps one after the other, so a policy must return at once: one that blocks
// stops the planning for all apps. It must not panic: nothing recovers that.
//
// If a Policy also has the methods History and Restore of [Planner], they are called to keep what
// it has learned and to give it back. They must not block.
type Policy interface {
	// Plan decides. Each start or recall that it returns is asked for once. It is under way until its
	// result comes in a later Input's Answers.
	Plan(now time.Time, in Input) Decision
}

// Answer is the result of a start or a recall that an earlier decision asked for.
type Answer struct {
	At      time.Time
	Machine balance.Machine     // as it stood in that decision
	Recall  bool                // it answers a recall, else a start
	Start   balance.StartAnswer // the owner's answer to a start; not valid when Err is set
	Err     error               // the owner could not be asked, or did not recall
}

// learn takes in the results of earlier decisions.
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
	// InFlight is how many requests this node has in flight. Requests that a soft-cordoned machine had
	// before the cordon was seen are left out: they are served there, and are no reason to recall the
	// machine.
	InFlight int
	Parked   int // how many requests are in its waiting room
	// Unserved says that since the last decision a request has gone to a failing machine, for want
	// of a better one. It is demand, though it may have ended by now: what fails fast leaves no
	// trace in the other counts.
	Unserved bool
	// Outliers are machines that this node avoids for their failures, although their checks pass. They
	// do not count as capacity.
	Outliers []balance.MachineID
	// Others is the demand (in flight and parked) that other nodes have for each of Regions as their
	// home; missing means 0. For the first, requests that they have in flight at soft-cordoned
	// machines are left out.
	Others []int
	// RTT is the round trip to each of Regions; missing or negative means unknown. While requests are
	// parked, an owner that has not answered a start within three round trips, 300 ms at least, is
	// silent: the starts that it was asked for are not counted on, and machines of other owners are
	// started too. An owner whose round trip is unknown is waited for.
	RTT []time.Duration
	// Forced are the targets that parked requests insist on, each once. For each of them one machine
	// is started if none of its machines runs or starts.
	Forced []*balance.Target
	// Answers are the results of what earlier decisions asked for, in the order in which they came.
	// Each is given once.
	Answers []Answer
	// Rand are random bits; they only spread retries.
	Rand uint64
}

// Decision is what a planner wants done, and why. It is a value: nothing in it changes later.
type Decision struct {
	App    balance.AppID
	Recall []balance.Machine // end their soft cordons, in this order
	Start  []balance.Machine // start these, in this order, each from the epoch of its row
	// The last of Start is an extra one, beyond what is wanted: no start in flight seems to succeed.
	Hedge bool

	Demand int // requests: in flight and parked, here and at other nodes with this home region
	Want   int // machines whose capacity covers the demand and the minimums
	Have   int // machines that run or start, in the regions that were searched for the demand

	// Reason says why in a sentence, such as "demand 23, ready 1x20, starting 0"; empty when nothing
	// is to be done.
	Reason string
	// Refuse says why parked requests cannot be served before RetryAfter has passed. It is empty while
	// they may be served.
	Refuse     string
	RetryAfter time.Duration
	// Doubt says why none of the starts in flight is expected to serve: their owners do not expect it,
	// see [balance.Machine.Doubtful], or they only repeat two or more that have failed one after the
	// other. It is set only when nothing else may serve either. Requests that have been parked for 5 s
	// are then rejected with it, and the starts go on. It is empty while any start is expected to
	// serve.
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

// RegionOrder returns the regions whose machines serve an app's demand, best first. The first is
// its home region: the first of the app's own list that has machines, else nearest. What home
// cannot start overflows to the regions after it: first as the app lists them, then in an order
// derived from app and home, which all nodes of one home share. Regions without machines are left
// out. have is not changed.
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
	// Nearness would be a better order for requests, but nodes measure it differently, and each would
	// start machines of its own.
	key := func(r string) uint64 {
		return balance.MachineKey{App: app.ID, ID: balance.MachineID(home + "\x00" + r)}.Rank()
	}
	slices.SortFunc(
		order[listed:],
		func(a, b string) int { return cmp.Or(cmp.Compare(key(a), key(b)), cmp.Compare(a, b)) },
	)
	return order
}
