package policy

import (
	"cmp"
	"fmt"
	"math"

	"github.com/ebbkit/ebb/autostart/internal/boots"
	"github.com/ebbkit/ebb/balance"
)

// plan is one decision in the making.
type plan struct {
	census
	d     Decision
	notes string // what the reason says beyond the inputs

	budget  int                      // starts that the maximum and the breaker allow
	probing bool                     // the breaker is open: one start, of any machine
	short   int                      // machines wanted that cannot be started
	regions int                      // how many of Input.Regions were searched for the demand
	home    tally                    // the capacity found in those
	least   struct{ want, have int } // of the minimums
}

// decide makes the decision.
func (r *plan) decide() Decision {
	app := &r.in.App
	r.take(app.Autostart && (r.d.Demand > 0 || app.Min > 0 || app.MinPerRegion > 0))
	if r.starting == 0 {
		r.p.hedged = false
	}
	if n := len(r.silent); n > 0 {
		r.notes = fmt.Sprintf(", %d owners do not answer", n)
	}
	if n := len(r.lost); n > 0 {
		r.notes += fmt.Sprintf(", %d asked again", n)
	}
	r.d.Start = r.lost
	r.allow()
	r.keep()
	r.serve()
	r.insist()
	r.spare()
	r.hedge()
	r.refuse()
	if r.d.Acts() {
		r.d.Reason = r.home.reason(r.d.Demand) + r.notes
	}
	r.d.Wait, r.d.Await = r.starts.wait, r.starts.await
	r.d.Remaining, r.d.Suspect = r.starts.remaining, r.starts.suspect
	r.d.Settled = !r.d.Acts() && r.d.Refuse == "" && r.starting == 0 && r.short == 0 &&
		len(r.silent) == 0 && !r.p.breaker.open
	return r.d
}

// allow sets how many starts the maximum and the breaker allow.
func (r *plan) allow() {
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
	// If several run and all are broken, the app is at fault: one more machine would be broken too.
	if r.broken >= boots.BreakerAfter && r.ready+r.starting == 0 && r.in.Parked == 0 {
		r.budget = 0
	}
}

// keep keeps the minimums: per region, then over all of them, the first of the canonical order.
// They come before the demand, so that nodes with different demands start the same machines for
// them.
func (r *plan) keep() {
	app := &r.in.App
	if !app.Autostart || app.Min == 0 && app.MinPerRegion == 0 {
		return
	}
	atLeast := func(list []int32, want int, what string) {
		n := 0
		for _, i := range list {
			if st := r.p.uses[i]; st == ready || st == starting {
				n++
			}
		}
		r.least.want, r.least.have = max(r.least.want, want), max(r.least.have, n)
		if n >= want {
			return
		}
		had := len(r.d.Recall) + len(r.d.Start)
		r.fill(list, math.MaxInt64, want-n)
		took := len(r.d.Recall) + len(r.d.Start) - had
		r.short += want - n - took
		if took > 0 {
			r.notes += fmt.Sprintf(", %s %d of which %d there", what, want, n)
		}
	}
	if app.MinPerRegion > 0 {
		for _, in := range r.p.regions {
			atLeast(in.rows, app.MinPerRegion, "minimum in "+in.name)
		}
	}
	atLeast(r.p.order, app.Min, "minimum")
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

// insist makes sure that, for each target that parked requests insist on, one machine runs.
func (r *plan) insist() {
	for _, t := range r.in.Forced {
		var candidates []int32
		there := false
		pick := func(list []int32) {
			for _, i := range list {
				if t.Has(r.in.Machines[i]) {
					candidates = append(candidates, i)
					st := r.p.uses[i]
					there = there || st == ready || st == starting
				}
			}
		}
		for _, name := range r.in.Regions {
			pick(r.p.in(name))
		}
		if there || len(candidates) == 0 {
			continue
		}
		had := len(r.d.Recall) + len(r.d.Start)
		if rest := r.fill(candidates, math.MaxInt64, 1); len(r.d.Recall)+len(r.d.Start) == had {
			r.lastResort(candidates, rest, 1)
		}
		if len(r.d.Recall)+len(r.d.Start) > had {
			r.notes += ", one that a request insists on"
		} else {
			r.short++
		}
	}
}

// spare keeps App.Spare machines beyond those that the demand fills.
func (r *plan) spare() {
	if r.in.App.Spare <= 0 || r.d.Demand == 0 || !r.in.App.Autostart {
		return
	}
	n := 0
	for _, name := range r.in.Regions[:r.regions] {
		for _, i := range r.p.in(name) {
			if st := r.p.uses[i]; st == ready || st == starting {
				n++
			}
		}
	}
	missing := r.d.Want - r.short + r.in.App.Spare - n
	r.d.Want += r.in.App.Spare
	if r.in.App.Max > 0 {
		r.d.Want = min(r.d.Want, r.in.App.Max)
	}
	for _, name := range r.in.Regions {
		if missing <= 0 {
			return
		}
		had := len(r.d.Recall) + len(r.d.Start)
		r.fill(r.p.in(name), math.MaxInt64, missing)
		if took := len(r.d.Recall) + len(r.d.Start) - had; took > 0 {
			missing -= took
			r.notes += fmt.Sprintf(", %d to spare", took)
		}
	}
	if r.in.App.Max == 0 || r.active < r.in.App.Max {
		r.short += missing
	}
}

// hedge adds one start when nothing serves and no start in flight seems to succeed.
func (r *plan) hedge() {
	p := r.p
	if p.hedged || r.in.Parked == 0 || r.d.Acts() || r.starting == 0 || r.serving > r.starting {
		return
	}
	why := "all known to fail"
	if r.neverHealthy < r.starting {
		if why = "all suspect"; !p.Hedge || r.starts.suspect < r.starting {
			return
		}
	}
	for _, name := range r.in.Regions {
		for _, i := range p.in(name) {
			if p.uses[i] == startable && r.budget > 0 {
				p.hedged, r.d.Hedge = true, true
				r.notes += ", " + why + ": one extra"
				r.start(i)
				return
			}
		}
	}
}

// refuse sets Refuse, or Doubt, when nothing can serve the parked requests for a while.
func (r *plan) refuse() {
	if !r.in.App.Autostart {
		return
	}
	b := &r.p.breaker
	if r.serving > 0 {
		if r.serving == r.doubtful && r.in.Parked > 0 {
			r.d.Doubt = cmp.Or(r.doubt, b.fault)
		}
		return
	}
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
	var soon *memory
	gone := 0
	for i, m := range r.in.Machines {
		if m.State == balance.StateGone {
			gone++
		}
		if s := &r.p.memory[i]; r.p.uses[i] == held && (soon == nil || s.until.Before(soon.until)) {
			soon = s
		}
	}
	switch {
	case soon == nil:
		r.d.Refuse = fmt.Sprintf("none of its %d machines can be started", len(r.in.Machines))
		if gone > 0 {
			r.d.Refuse += fmt.Sprintf(": the nodes of %d are gone", gone)
		}
	case soon.until.Sub(r.now) > boots.WaitMin/2 && soon.fault != "":
		r.d.Refuse, r.d.RetryAfter = soon.fault, soon.until.Sub(r.now)
	}
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

func (r *plan) worth(i int32) int64 { return worth(r.in.App.LimitsOf(*r.in.Machines[i])) }

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
	r.d.Start = append(r.d.Start, *m)
	r.started(m)
}

func (r *plan) recall(i int32) {
	m := r.in.Machines[i]
	r.p.memory[i].recall = recall{on: true, gen: m.CordonGen, at: r.now}
	r.p.uses[i] = ready
	r.d.Recall = append(r.d.Recall, *m)
}
