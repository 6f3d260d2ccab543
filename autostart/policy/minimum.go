package policy

import (
	"cmp"
	"fmt"
	"math"

	"github.com/ebbkit/ebb/autostart/internal/boots"
	"github.com/ebbkit/ebb/balance"
)

// insist sees to it that of the machines that parked requests insist on one runs.
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

// refuse says so when nothing can serve what is parked for a while.
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

// spare keeps some machines more than the demand fills.
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

// hedge is the hedge: one start more when nothing serves and nothing that starts seems to come.
func (r *plan) hedge() {
	p := r.p
	if p.hedged || r.in.Parked == 0 || r.d.Acts() || r.starting == 0 || r.serving > r.starting {
		return
	}
	why := "all known to fail"
	if r.neverHealthy < r.starting {
		if why = "all suspect"; !p.Hedge || r.d.Suspect < r.starting {
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
