package policy

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/boots"
	"github.com/ebbkit/ebb/balance"
)

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
	broken   int
	starting int
	silent   []balance.NodeID // owners that do not answer
	// that may serve one day: ready, starting, recallable, broken, stopping, silent
	serving      int
	short        int                      // machines wanted that cannot be started
	again        int                      // starts asked for once more
	neverHealthy int                      // of starting: known never to become healthy
	doubtful     int                      // of starting: nobody should wait for them
	doubt        string                   // why
	regions      int                      // where the demand was looked for: so many of Input.Regions
	home         tally                    // what there was there
	least        struct{ want, have int } // of the minimums
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

// findSilent finds out which owners do not answer. As long as nobody waits there is time to wait
// for them.
func (r *plan) findSilent() {
	if r.in.Parked == 0 {
		return
	}
	for i, m := range r.in.Machines {
		if a := &r.p.memory[i].asked; a.on && a.pending && a.overdue(r.now, r.in.rtt(m.Region)) &&
			!slices.Contains(r.silent, m.Owner) {
			r.silent = append(r.silent, m.Owner)
		}
	}
}

// silenced takes into account that an owner does not answer.
func (r *plan) silenced(i int, m *balance.Machine, st use) use {
	switch {
	case len(r.silent) == 0 || !slices.Contains(r.silent, m.Owner):
	case st == startable:
		return held
	case st == starting && m.State != balance.StateStarting && r.p.memory[i].asked.overdue(r.now, r.in.rtt(m.Region)):
		return silent
	}
	return st
}

// count classifies all machines.
func (r *plan) count() {
	r.d.Wait = boots.WaitMin
	wanted := r.in.App.Autostart && (r.d.Demand > 0 || r.in.App.Min > 0 || r.in.App.MinPerRegion > 0)
	for i, m := range r.in.Machines {
		if s := &r.p.memory[i]; s.stale(r.now) {
			a := &s.asked
			if wanted {
				a.pending, a.at = true, r.now
				r.d.Start = append(r.d.Start, *m)
				r.again++
			} else {
				*a = asked{}
			}
		}
		st := r.silenced(i, m, r.p.use(r.now, i, m))
		if st == ready && slices.Contains(r.in.Outliers, m.ID) {
			st = broken
		}
		r.p.uses[i] = st
		if st == starting || st == ready || st == silent || m.State == balance.StateStarted ||
			m.State == balance.StateStarting {
			r.active++
		}
		switch st {
		case ready:
			r.ready++
		case broken:
			r.broken++
		case starting:
			r.starting++
			r.age(i, m)
		case stopping:
			r.after(i, m)
		}
		switch st {
		case ready, starting, recallable, broken, stopping, silent:
			r.serving++
		}
	}
	if r.starting == 0 {
		r.p.hedged = false
	}
	copy(r.p.usesBefore, r.p.uses)
	if n := len(r.silent); n > 0 {
		r.notes = fmt.Sprintf(", %d owners do not answer", n)
	}
	if r.again > 0 {
		r.notes += fmt.Sprintf(", %d asked again", r.again)
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
	// Where several run and all are broken it is the app, and one more machine would be as broken
	// as they are.
	if r.broken >= boots.BreakerAfter && r.ready+r.starting == 0 && r.in.Parked == 0 {
		r.budget = 0
	}
}

// age looks at how long a start has been in flight.
func (r *plan) age(i int, m *balance.Machine) {
	if closing(m.State) {
		r.after(i, m)
		return
	}
	s := &r.p.memory[i]
	at := s.asked.at
	key := boots.Key{Revision: m.Revision, Kind: s.kind}
	if m.State == balance.StateStarting || m.State == balance.StateStarted {
		at = s.bootAt
	} else if m.State == balance.StateSuspended {
		key.Kind = boots.Resume
	}
	if m.State == balance.StateStarting && m.Health == balance.HealthFailing && !m.Recent {
		r.neverHealthy++
	}
	b := r.p.boots.Of(key)
	age := r.now.Sub(at)
	if s.held {
		age = 0 // it has not begun
	}
	r.doubts(m, at, age)
	r.await(b.Wait(), b.Wait()-age)
	r.remaining(b.Remaining(age))
	if age >= b.Suspect() {
		r.d.Suspect++
	}
}

// doubts finds out whether a start in flight is worth waiting for.
func (r *plan) doubts(m *balance.Machine, began time.Time, age time.Duration) {
	switch {
	case m.State == balance.StateStarting && m.Doubtful:
		r.doubtful++
		r.doubt = cmp.Or(r.doubt, fmt.Sprintf("machine %s: %s", m.ID, m.Fault))
	case r.p.breaker.repeats(began, age):
		r.doubtful++
	}
}

// after looks at a start that waits for the end of a stop.
func (r *plan) after(i int, m *balance.Machine) {
	s := &r.p.memory[i]
	if !s.asked.on {
		return
	}
	key := boots.Key{Revision: m.Revision, Kind: boots.Cold}
	if m.State == balance.StateSuspending {
		key.Kind = boots.Resume
	}
	b, age := r.p.boots.Of(key), r.now.Sub(s.since)
	wait := r.p.stops.bound(m.State, age) + b.Wait()
	r.await(wait, wait)
	r.remaining(r.p.stops.left(m.State, age) + b.Expected())
}

// await notes a start that is worth waiting for: for how long from its beginning, and from now.
func (r *plan) await(whole, left time.Duration) {
	r.d.Wait, r.d.Await = max(r.d.Wait, whole), max(r.d.Await, left)
}

// remaining notes when a start should be ready; the first counts.
func (r *plan) remaining(left time.Duration) {
	if r.d.Remaining == 0 || left < r.d.Remaining {
		r.d.Remaining = left
	}
}

// serve covers the demand, region by region.
func (r *plan) serve() {
	rest := int64(r.d.Demand)
	for k, name := range r.in.Regions {
		if rest <= 0 {
			break
		}
		r.regions++
		others := int64(0) // demand that has its home there comes first
		if k > 0 {
			others = int64(r.in.other(k))
		}
		for _, i := range r.p.in(name) {
			if st := r.p.uses[i]; st != ready && st != starting {
				continue
			}
			c := r.worth(i)
			if was := r.p.usesBefore[i]; was == ready || was == starting {
				r.d.Have++
				r.home.add(was, c)
			}
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
		had := len(r.d.Recall) + len(r.d.Start)
		rest = r.fill(r.p.in(name), rest, math.MaxInt)
		r.d.Want += len(r.d.Recall) + len(r.d.Start) - had
	}
	for _, name := range r.in.Regions {
		had := len(r.d.Start)
		rest = r.lastResort(r.p.in(name), rest, math.MaxInt)
		r.d.Want += len(r.d.Start) - had
	}
	if rest > 0 {
		c := worth(r.in.App.Limits)
		r.short = int((rest + c - 1) / c)
		r.d.Want += r.short
	}
	if m := r.in.App.Max; m > 0 {
		r.d.Want = min(r.d.Want, m)
	}
	r.d.Want, r.d.Have = max(r.d.Want, r.least.want), max(r.d.Have, r.least.have)
}

// fill recalls and starts machines of list, at most n, while rest of the demand is uncovered.
func (r *plan) fill(list []int32, rest int64, n int) int64 {
	take := func(i int32) {
		rest -= r.worth(i)
		n--
	}
	for _, i := range list {
		if rest <= 0 || n <= 0 {
			return rest
		}
		if r.p.uses[i] == recallable {
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
		if st := r.p.uses[i]; st == startable ||
			st == stopping && r.askable(i) && r.p.soon(r.now, int(i), r.in.Machines[i]) {
			r.start(i)
			take(i)
		}
	}
	return rest
}

// askable reports whether a machine that stops may be asked to start afterwards.
func (r *plan) askable(i int32) bool {
	s := &r.p.memory[i]
	return !s.asked.on && !r.now.Before(s.until)
}

// lastResort asks machines of list that are stopping to start afterwards, however long their stop
// takes.
func (r *plan) lastResort(list []int32, rest int64, n int) int64 {
	for _, i := range list {
		if rest <= 0 || n <= 0 || r.budget <= 0 {
			break
		}
		if r.p.uses[i] == stopping && r.askable(i) {
			r.start(i)
			rest -= r.worth(i)
			n--
		}
	}
	return rest
}

// probe returns the machine of list that has failed least, back-off or not: the breaker's interval
// is back-off enough.
func (r *plan) probe(list []int32) (best int32, ok bool) {
	for _, i := range list {
		if st := r.p.uses[i]; st != startable && st != held {
			continue
		}
		if !ok || r.p.memory[i].fails < r.p.memory[best].fails {
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
	r.p.memory[i].asked = asked{on: true, epoch: m.Epoch, at: r.now, pending: true}
	r.p.uses[i] = starting
	r.budget--
	r.active++
	r.starting++
	r.serving++
	r.d.Start = append(r.d.Start, *m)
	key := boots.Key{Revision: m.Revision, Kind: boots.Cold}
	if m.State == balance.StateSuspended {
		key.Kind = boots.Resume
	}
	b := r.p.boots.Of(key)
	r.await(b.Wait(), b.Wait())
	r.remaining(b.Remaining(0))
	if r.p.breaker.repeats(r.now, 0) {
		r.doubtful++
	}
}

func (r *plan) recall(i int32) {
	m := r.in.Machines[i]
	r.p.memory[i].recall = recall{on: true, gen: m.CordonGen, at: r.now}
	r.p.uses[i] = ready
	r.d.Recall = append(r.d.Recall, *m)
}

// tally counts capacity for the reason of a decision.
type tally struct {
	ready, starting int
	worth           int64 // of all that are ready
	each            int64 // of each of them; -1 when they differ
}

func (t *tally) add(st use, worth int64) {
	switch st {
	case starting:
		t.starting++
	case ready:
		t.ready++
		t.worth += worth
		if t.ready == 1 {
			t.each = worth
		} else if t.each != worth {
			t.each = -1
		}
	}
}

// inputs is the first part of every reason.
func (r *plan) inputs() string {
	if r.d.Demand == 0 { // then it was not looked for anywhere
		return "demand 0"
	}
	var s strings.Builder
	fmt.Fprintf(&s, "demand %d, ready ", r.d.Demand)
	switch t := &r.home; {
	case t.ready == 0:
		s.WriteString("0")
	case t.each >= unlimited:
		fmt.Fprintf(&s, "%d without limit", t.ready)
	case t.each > 0:
		fmt.Fprintf(&s, "%dx%d", t.ready, t.each)
	default:
		fmt.Fprintf(&s, "%d for %d", t.ready, t.worth)
	}
	fmt.Fprintf(&s, ", starting %d", r.home.starting)
	return s.String()
}
