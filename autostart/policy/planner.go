package policy

import (
	"slices"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/boots"
	"github.com/ebbkit/ebb/balance"
)

// Planner decides which machines of one app one node recalls and starts. It is a pure state machine: it remembers what it
// has seen and asked for, and reads no clock. The zero value is ready for use. It is not safe for concurrent use.
//
// Demand is capacity wanted, in requests; a machine is worth its soft limit, else its hard limit,
// else any demand at all. The home region is filled first, what it cannot start overflows to the
// next one. In each: what runs and what is starting counts, then soft-cordoned machines are
// recalled, then the first of the canonical order are started that can be. Of those is also what is
// stopping, as long as that should be over before another machine has booted: it starts again as
// soon as it has stopped, and nodes whose news are older or younger ask for the same machine. One
// that takes longer is the last resort.
//
// Nodes with different home regions each see to their own demand: of an app that sleeps everywhere, as many machines start as
// there are home regions with a request, where one might have done. App.Regions gives all nodes one home.
//
// A machine whose boot fails is left alone for 1 s, doubling up to 1 min; so is one whose run ends
// early, from the second time on. Early is before ten times its boot, 1 s at least and 1 min at
// most (1 min where no boot is known): what has run for longer starts again at once, since
// something outside may have killed it. Three boots of an app that fail in a row open a breaker:
// then one machine is tried at a time, at the same intervals.
//
// Invariants: with a static demand no more machines run and start than are wanted, however long boots take (one more with
// hedging, or when the owners of all that start say that these will not become healthy). Planners that do not talk and see the same rows start prefixes of the same order, so that together they start
// no more than the one with the largest demand. While the breaker is open, at most one start per interval.
type Planner struct {
	// Hedge allows one extra start when nothing serves and every start in flight is suspect, see
	// [Decision.Suspect]. Without it one is made only when all of them are known never to become
	// healthy: their rows say that they start and that their checks fail, and not that this is to be
	// expected.
	Hedge bool

	boots   boots.Book
	stops   stops
	breaker breaker
	hedged  bool // the extra start of this wake has been used
	rand    uint64
	last    time.Time // of the last decision

	// The machines as of the last decision, all in its order.
	ids     []balance.MachineID
	memory  []memory
	stand   []standing                // and as the present decision leaves them
	stood   []standing                // as it found them
	index   map[balance.MachineID]int // nil for few, see find
	order   []int32                   // all, in canonical order
	regions []inRegion                // the same by region, sorted by name
}

// inRegion are the machines of one region, in canonical order.
type inRegion struct {
	name string
	rows []int32
}

// KeepsBounds says that p is asked as it is, see [Bounded].
func (p *Planner) KeepsBounds() {}

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
	// Others is the demand (in flight and parked) that other nodes have for each of Regions as their home; missing means 0.
	// Of the first, what they have in flight at soft-cordoned machines is left out.
	Others []int
	// RTT is the round trip to each of Regions; missing or negative means unknown. While requests
	// are parked, an owner there that has not answered a start for three of them, and 300 ms at
	// least, is silent: what it was asked for is not counted on, and machines of other owners are
	// asked too. One whose round trip is not known is waited for.
	RTT []time.Duration
	// Wants are what parked requests insist on, each once; for each one machine is started if none of them runs or starts.
	Wants []*balance.Want
	// Answers are what came of what earlier decisions asked for, in the order of coming; each is told once.
	Answers []Answer
	// Rand are random bits; they only spread retries.
	Rand uint64
}

// Decision is what a planner wants done, and why. It is a value: nothing in it changes later.
type Decision struct {
	App    balance.AppID
	Recall []balance.Machine // end their soft cordons, in this order
	Start  []balance.Machine // start these, in this order, each from the epoch of its row
	Hedge  bool              // the last of Start is an extra one, beyond what is wanted: nothing that starts seems to come

	Demand int // requests: in flight and parked, here and at other nodes with this home region
	Want   int // machines whose capacity covers the demand and the minimums
	Have   int // machines that run or start, where the demand was looked for

	// Reason says why in a sentence, such as "demand 23, ready 1x20, starting 0"; empty when nothing is to be done.
	Reason string
	// Refuse says why what is parked cannot be served before RetryAfter has passed; empty while there is hope.
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

// Plan decides. What it says to start counts as asked for from now on; what came of it is told in a
// later Input's Answers.
func (p *Planner) Plan(now time.Time, in Input) Decision {
	p.rand = in.Rand
	if back := p.last.Sub(now); back > 0 && !p.last.IsZero() {
		p.shift(back)
	}
	p.last = now
	p.heed(now, in.Answers)
	p.boots.Hint(in.App.BootHint)
	p.align(in.Machines)
	p.observe(now, in.Machines)
	r := plan{p: p, now: now, in: &in, d: Decision{App: in.App.ID, Demand: in.Demand()}}
	r.listen()
	r.count()
	r.keep()
	r.serve()
	r.insist()
	r.spare()
	r.extra()
	r.refuse()
	if r.d.Acts() {
		r.d.Reason = r.inputs() + r.notes
	}
	r.d.Settled = !r.d.Acts() && r.d.Refuse == "" && r.starting == 0 && r.short == 0 && len(r.silent) == 0 && !p.breaker.open
	return r.d
}

// Demand returns how many requests want capacity: in flight and parked, here and at other nodes with
// the same home region.
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

// answered takes in what came of a start that was decided from that epoch. err means that it could not be asked for.
func (p *Planner) answered(now time.Time, m balance.Machine, a balance.StartAnswer, err error) {
	i, ok := p.find(m.ID)
	if !ok {
		return
	}
	s := &p.memory[i]
	if !s.asked.on || s.asked.epoch != m.Epoch {
		return // the row has told meanwhile
	}
	switch {
	case err != nil && s.asked.accepted && s.asked.lost < lostMax:
		s.asked.pending, s.asked.at = false, now
		s.asked.lost++
	case err != nil: // the way to the owner is not the app's fault: the breaker does not count it
		p.failed(now, &m, s, err.Error(), noStart)
	case a == balance.StartRefused:
		s.asked = asked{}
		s.until = later(s.until, now.Add(refusedFor))
	default:
		s.asked.pending, s.asked.accepted, s.asked.answer, s.asked.at, s.asked.lost = false, true, a, now, 0
	}
}

// recalled takes in what came of a recall. Where one failed, nothing is expected of the machine for a moment: its row may be
// about to say that it stops.
func (p *Planner) recalled(now time.Time, m balance.Machine, err error) {
	if i, ok := p.find(m.ID); ok && err != nil && p.memory[i].recall.gen == m.CordonGen {
		p.memory[i].recall = recall{failed: true, gen: m.CordonGen, at: now}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
