package policy

import (
	"fmt"
	"math"
)

// spare keeps some machines more than the demand fills.
func (r *plan) spare() {
	if r.in.App.Spare <= 0 || r.d.Demand == 0 || !r.in.App.Autostart {
		return
	}
	n := 0
	for _, name := range r.in.Regions[:r.regions] {
		for _, i := range r.p.in(name) {
			if st := r.p.stand[i]; st == ready || st == starting {
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

// extra is the hedge: one start more when nothing serves and nothing that starts seems to come.
func (r *plan) extra() {
	p := r.p
	if p.hedged || r.in.Parked == 0 || r.d.Acts() || r.starting == 0 || r.serving > r.starting {
		return
	}
	why := "all known to fail"
	if r.doomed < r.starting {
		if why = "all suspect"; !p.Hedge || r.d.Suspect < r.starting {
			return
		}
	}
	for _, name := range r.in.Regions {
		for _, i := range p.in(name) {
			if p.stand[i] == startable && r.budget > 0 {
				p.hedged, r.d.Hedge = true, true
				r.notes += ", " + why + ": one extra"
				r.start(i)
				return
			}
		}
	}
}
