package autostart

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Planner decides which machines of one app one node recalls and starts. It is a pure state machine: it remembers what it
// has seen and asked for, and reads no clock. It is not safe for concurrent use; make one with [NewPlanner].
//
// Demand is capacity wanted, in requests; a machine is worth its soft limit, else its hard limit, else any demand at all.
// The home region is filled first, what it cannot start overflows to the next one. In each: what runs and what is starting
// counts, then soft-cordoned machines are recalled, then the first of the canonical order are started that can be.
//
// Invariants: with a static demand no more machines run and start than are wanted, however long boots take (one more with
// hedging). Planners that do not talk and see the same rows start prefixes of the same order, so that together they start
// no more than the one with the largest demand. While the breaker is open, at most one start per interval.
type Planner struct {
	hedge bool

	boots   bootBook
	breaker breaker
	hedged  bool // the extra start of this wake has been used
	rand    uint64

	// The machines as of the last decision, all in its order.
	ids     []balance.MachineID
	sights  []sight
	stand   []standing
	index   map[balance.MachineID]int
	order   []int32            // all, in canonical order
	regions map[string][]int32 // the same by region
	names   []string           // of the regions, sorted
}

// NewPlanner returns a planner that has seen nothing. hedge allows one extra start, when nothing serves and every start in
// flight is suspect.
func NewPlanner(hedge bool) *Planner { return &Planner{hedge: hedge} }

// Input is what one decision is made from.
type Input struct {
	App      balance.App
	Machines []*balance.Machine // all rows of the app, each once; only read
	Regions  []string           // home first, then where it overflows to; see [RegionOrder]
	InFlight int                // this node's requests in flight
	Parked   int                // and in its waiting room
	// Others is the demand (in flight and parked) that other nodes have for each of Regions as their home; missing means 0.
	Others []int
	// Rand are random bits; they only spread retries.
	Rand uint64
}

// Decision is what a planner wants done, and why. It is a value: nothing in it changes later.
type Decision struct {
	App    balance.AppID
	Recall []balance.Machine // end their soft cordons, in this order
	Start  []balance.Machine // start these, in this order, each from the epoch of its row
	Hedge  bool              // the last of Start is an extra one, beyond what is wanted

	Demand int // requests: in flight and parked, here and at other nodes with this home region
	Want   int // machines whose capacity covers the demand and the minimums
	Have   int // machines that run or start, where the demand was looked for

	// Reason says why in a sentence, such as "demand 23, ready 1x20, starting 0"; empty when nothing is to be done.
	Reason string
	// Refuse says why what is parked cannot be served before RetryAfter has passed; empty while there is hope.
	Refuse     string
	RetryAfter time.Duration

	Wait      time.Duration // how long a request may be parked
	Remaining time.Duration // until the next start in flight should be ready; 0 when none is
	Suspect   int           // starts in flight that take suspiciously long

	settled bool // nothing is under way and nothing is missing: the same input gives the same answer
}

// Acts reports whether there is anything to do.
func (d *Decision) Acts() bool { return len(d.Recall)+len(d.Start) > 0 }

// Plan decides. What it says to start counts as asked for from now on; tell the outcome with [Planner.Answered] and
// [Planner.Recalled].
func (p *Planner) Plan(now time.Time, in Input) Decision {
	p.rand = in.Rand
	p.boots.hint(in.App.BootHint)
	p.align(in.Machines)
	p.observe(now, in.Machines)
	r := plan{p: p, now: now, in: &in, d: Decision{App: in.App.ID, Demand: in.InFlight + in.Parked + in.other(0)}}
	r.count()
	under := r.starting
	r.serve()
	r.keep()
	r.extra()
	r.refuse()
	if r.d.Acts() {
		r.d.Reason = r.inputs(under) + r.notes
	}
	r.d.settled = !r.d.Acts() && r.d.Refuse == "" && r.starting == 0 && r.short == 0 && !p.breaker.open
	return r.d
}

func (in *Input) other(i int) int {
	if i < len(in.Others) {
		return in.Others[i]
	}
	return 0
}

// Answered takes in what came of a start that was decided from that epoch. err means that it could not be asked for.
func (p *Planner) Answered(now time.Time, m balance.Machine, a balance.StartAnswer, err error) {
	i, ok := p.index[m.ID]
	if !ok {
		return
	}
	s := &p.sights[i]
	if !s.asked.on || s.asked.epoch != m.Epoch {
		return // the row has told meanwhile
	}
	switch {
	case err != nil: // the way to the owner is not the app's fault: the breaker does not count it
		p.failed(now, &m, s, err.Error(), noStart)
	case a == balance.StartRefused:
		s.asked = asked{}
		s.until = later(s.until, now.Add(refusedFor))
	default:
		s.asked.pending, s.asked.answer, s.asked.at = false, a, now
	}
}

// Recalled takes in what came of a recall. One that failed is not credited any more and tried again after a while.
func (p *Planner) Recalled(m balance.Machine, err error) {
	if i, ok := p.index[m.ID]; ok && err != nil && p.sights[i].recall.gen == m.CordonGen {
		p.sights[i].recall = recall{}
	}
}

// Boots returns what is known of cold boots of the app, all revisions together.
func (p *Planner) Boots() Boots { return p.boots.all[Cold] }

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// plan is one decision in the making.
type plan struct {
	p     *Planner
	now   time.Time
	in    *Input
	d     Decision
	notes string // what the reason says beyond the inputs

	budget   int  // starts that the maximum and the breaker allow
	probing  bool // the breaker is open: one start, of any machine
	active   int  // machines started or starting, whatever their use
	ready    int
	starting int
	serving  int // that may serve one day: ready, starting, recallable, broken, stopping
	short    int // machines wanted that cannot be started
	readyCap int64
	oneCap   int64 // of each ready machine; -1 when they differ
}

// unlimited is the worth of a machine without limits.
const unlimited = math.MaxInt32

func (r *plan) worth(i int32) int64 { return worth(r.in.App.LimitsOf(*r.in.Machines[i])) }

func worth(l balance.Limits) int64 {
	switch {
	case l.Soft > 0:
		return int64(l.Soft)
	case l.Hard > 0:
		return int64(l.Hard)
	}
	return unlimited
}

// count classifies all machines.
func (r *plan) count() {
	r.d.Wait = r.p.boots.of(bootKey{kind: Cold}).Wait()
	for i, m := range r.in.Machines {
		st := r.p.stands(r.now, i, m)
		r.p.stand[i] = st
		if st == starting || st == ready || m.State == balance.Started || m.State == balance.Starting {
			r.active++
		}
		switch st {
		case ready:
			r.ready++
			c := r.worth(int32(i))
			if r.ready == 1 {
				r.oneCap = c
			} else if r.oneCap != c {
				r.oneCap = -1
			}
			r.readyCap += c
		case starting:
			r.starting++
			r.age(i, m)
		}
		switch st {
		case ready, starting, recallable, broken, stopping:
			r.serving++
		}
	}
	if r.starting == 0 {
		r.p.hedged = false
	}
	r.budget = len(r.in.Machines)
	if r.in.App.Max > 0 {
		r.budget = max(0, r.in.App.Max-r.active)
	}
	if b := &r.p.breaker; b.open {
		r.probing = true
		if r.starting > 0 || r.now.Before(b.next) {
			r.budget = 0
		}
		r.budget = min(r.budget, 1)
	}
	if !r.in.App.Autostart {
		r.budget = 0
	}
}

// age looks at how long a start has been in flight.
func (r *plan) age(i int, m *balance.Machine) {
	s := &r.p.sights[i]
	at := s.asked.at
	key := bootKey{m.Revision, s.kind}
	if m.State == balance.Starting || m.State == balance.Started {
		at = s.bootAt
	} else if m.State == balance.Suspended {
		key.kind = Resume
	}
	b := r.p.boots.of(key)
	age := r.now.Sub(at)
	r.d.Wait = max(r.d.Wait, b.Wait())
	if left := b.Remaining(age); r.d.Remaining == 0 || left < r.d.Remaining {
		r.d.Remaining = left
	}
	if age >= b.Suspect() {
		r.d.Suspect++
	}
}

// serve covers the demand, region by region.
func (r *plan) serve() {
	rest := int64(r.d.Demand)
	for k, name := range r.in.Regions {
		if rest <= 0 {
			break
		}
		others := int64(0) // demand that has its home there comes first
		if k > 0 {
			others = int64(r.in.other(k))
		}
		for _, i := range r.p.regions[name] {
			if st := r.p.stand[i]; st != ready && st != starting {
				continue
			}
			r.d.Have++
			c := r.worth(i)
			if others >= c {
				others -= c
				continue
			}
			if rest > 0 {
				r.d.Want++
			}
			rest -= c - others
			others = 0
		}
		rest = r.fill(r.p.regions[name], rest, math.MaxInt)
	}
	for _, name := range r.in.Regions {
		for _, i := range r.p.regions[name] {
			if rest > 0 && r.budget > 0 && r.p.stand[i] == stopping {
				r.start(i)
				r.d.Want++
				rest -= r.worth(i)
			}
		}
	}
	if rest > 0 {
		c := worth(r.in.App.Limits)
		r.short = int((rest + c - 1) / c)
		r.d.Want += r.short
	}
	if m := r.in.App.Max; m > 0 {
		r.d.Want = min(r.d.Want, m)
	}
}

// fill recalls and starts machines of list, at most n, while rest of the demand is uncovered.
func (r *plan) fill(list []int32, rest int64, n int) int64 {
	take := func(i int32) {
		r.d.Want++
		rest -= r.worth(i)
		n--
	}
	for _, i := range list {
		if rest <= 0 || n <= 0 {
			return rest
		}
		if r.p.stand[i] == recallable {
			r.recall(i)
			take(i)
		}
	}
	if r.probing {
		if i, ok := r.probe(list); ok && rest > 0 && n > 0 && r.budget > 0 {
			r.start(i)
			take(i)
		}
		return rest
	}
	for _, i := range list {
		if rest <= 0 || n <= 0 || r.budget <= 0 {
			return rest
		}
		if r.p.stand[i] == startable {
			r.start(i)
			take(i)
		}
	}
	return rest
}

// probe returns the machine of list that has failed least, back-off or not: the breaker's interval is back-off enough.
func (r *plan) probe(list []int32) (best int32, ok bool) {
	for _, i := range list {
		if st := r.p.stand[i]; st != startable && st != held {
			continue
		}
		if !ok || r.p.sights[i].fails < r.p.sights[best].fails {
			best, ok = i, true
		}
	}
	return best, ok
}

func (r *plan) start(i int32) {
	m := r.in.Machines[i]
	if r.probing {
		r.p.breaker.probed(r.now, r.p.bits(m))
	}
	r.p.sights[i].asked = asked{on: true, epoch: m.Epoch, at: r.now, pending: true}
	r.p.stand[i] = starting
	r.budget--
	r.active++
	r.starting++
	r.serving++
	r.d.Start = append(r.d.Start, *m)
}

func (r *plan) recall(i int32) {
	m := r.in.Machines[i]
	r.p.sights[i].recall = recall{on: true, gen: m.CordonGen, at: r.now}
	r.p.stand[i] = ready
	r.d.Recall = append(r.d.Recall, *m)
}

// keep keeps the minimums: per region, then over all of them, the first of the canonical order.
func (r *plan) keep() {
	app := &r.in.App
	if !app.Autostart || app.Min == 0 && app.MinPerRegion == 0 {
		return
	}
	atLeast := func(list []int32, want int, what string) {
		n := 0
		for _, i := range list {
			if st := r.p.stand[i]; st == ready || st == starting {
				n++
			}
		}
		if n >= want {
			return
		}
		was, had := r.d.Want, len(r.d.Recall)+len(r.d.Start)
		r.fill(list, math.MaxInt64, want-n)
		r.d.Want = was + want - n
		took := len(r.d.Recall) + len(r.d.Start) - had
		r.short += want - n - took
		if took > 0 {
			r.notes += fmt.Sprintf(", %s %d of which %d there", what, want, n)
		}
	}
	if app.MinPerRegion > 0 {
		for _, name := range r.p.names {
			atLeast(r.p.regions[name], app.MinPerRegion, "minimum in "+name)
		}
	}
	atLeast(r.p.order, app.Min, "minimum")
}

// extra is the hedge: one start more when nothing serves and all that is starting is suspect.
func (r *plan) extra() {
	p := r.p
	if !p.hedge || p.hedged || r.in.Parked == 0 || r.d.Acts() || r.starting == 0 || r.d.Suspect < r.starting || r.serving > r.starting {
		return
	}
	for _, name := range r.in.Regions {
		for _, i := range p.regions[name] {
			if p.stand[i] == startable && r.budget > 0 {
				p.hedged, r.d.Hedge = true, true
				r.notes += ", all suspect: one extra"
				r.start(i)
				return
			}
		}
	}
}

// refuse says so when nothing can serve what is parked for a while.
func (r *plan) refuse() {
	if !r.in.App.Autostart || r.serving > 0 {
		return
	}
	b := &r.p.breaker
	if !b.open && b.failures > 0 && r.short > 0 {
		b.trip(r.now, r.in.Rand) // nothing is left to be tried
	}
	if r.in.Parked == 0 {
		return
	}
	if b.open {
		if r.now.Before(b.next) {
			r.d.Refuse, r.d.RetryAfter = b.fault, b.next.Sub(r.now)
			return
		}
	}
	var soon *sight
	for i := range r.p.sights {
		if s := &r.p.sights[i]; r.p.stand[i] == held && (soon == nil || s.until.Before(soon.until)) {
			soon = s
		}
	}
	switch {
	case soon == nil:
		r.d.Refuse = fmt.Sprintf("none of its %d machines can be started", len(r.in.Machines))
	case soon.until.Sub(r.now) > waitMin/2 && soon.fault != "":
		r.d.Refuse, r.d.RetryAfter = soon.fault, soon.until.Sub(r.now)
	}
}

// inputs is the first part of every reason.
func (r *plan) inputs(under int) string {
	var s strings.Builder
	fmt.Fprintf(&s, "demand %d, ready ", r.d.Demand)
	switch {
	case r.ready == 0:
		s.WriteString("0")
	case r.oneCap >= unlimited:
		fmt.Fprintf(&s, "%d without limit", r.ready)
	case r.oneCap > 0:
		fmt.Fprintf(&s, "%dx%d", r.ready, r.oneCap)
	default:
		fmt.Fprintf(&s, "%d for %d", r.ready, r.readyCap)
	}
	fmt.Fprintf(&s, ", starting %d", under)
	return s.String()
}
