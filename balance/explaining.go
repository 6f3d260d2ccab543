package balance

import (
	"cmp"
	"fmt"
	"slices"
)

// Explain says where a request would go now and why. It counts nothing in. The error matches [ErrNoApp] for an unknown
// app; when nothing is usable the explanation says so.
func (b *Balancer) Explain(r Request) (Explanation, error) {
	ab, ok := (*b.apps.Load())[r.App]
	if !ok {
		return Explanation{}, fmt.Errorf("%w: %q: put it into the fleet with PutApp", ErrNoApp, r.App)
	}
	if r.Rand == 0 {
		r.Rand = 1
	}
	v := ab.view.Load()
	x := v.explain(&r, v.strategy(b))
	s := v.strategy(b)
	if r.Want != nil && !r.Want.Prefer.Empty() {
		r.preferring = true
		if slot, ok := s.Pick(v, r); ok {
			x.chose(v, slot, "what the request prefers has room; ")
			return x, nil
		}
		r.preferring = false
	}
	slot, ok := s.Pick(v, r)
	if !ok || v.row(slot) == nil {
		x.Err = v.nothing(&r)
		x.Why = "no machine can be used"
		return x, nil
	}
	x.chose(v, slot, "")
	return x, nil
}

// traced picks, and tells the hook what was seen before.
func (b *Balancer) traced(ab *appBalance, r *Request) (Reservation, error) {
	v := ab.view.Load()
	x := v.explain(r, v.strategy(b))
	res, err := b.pick(ab, r)
	if err != nil {
		x.Err, x.Why = err, "no machine can be used"
	} else if s, ok := v.slotOf(res.row); ok {
		x.chose(v, s, "")
	} else {
		x.Picked, x.Why = *res.Machine(), "the view changed while the pick was made"
	}
	b.trace.Picked(x)
	return res, err
}

func (v *View) slotOf(m *row) (Slot, bool) {
	for i := range v.order {
		if rows := v.order[i].rows; int(m.pos) < len(rows.rows) && rows.rows[m.pos] == m {
			return Slot{int32(i), m.pos}, true
		}
	}
	return Slot{}, false
}

// chose notes the machine and puts the reason into words.
func (x *Explanation) chose(v *View, s Slot, why string) {
	var c Candidate
	m := v.row(s)
	m.look(&c)
	x.Picked, x.Tier, x.Busy = *m.machine(), m.tier, c.Busy()
	name, _, _ := v.Region(int(s.region))
	var passed []string
	for i := range x.Regions[:s.region] {
		switch l := &x.Regions[i]; {
		case v.Near(i) > int(s.region):
		case l.Usable == 0:
			passed = append(passed, fmt.Sprintf("%s has none that can be used", l.Region))
		case l.Busy == l.Usable:
			passed = append(passed, fmt.Sprintf("all in %s are at their soft limit", l.Region))
		case !l.Accepted:
			passed = append(passed, fmt.Sprintf("%s gives %.0f %% away", l.Region, 100*(1-l.Stats.Share)))
		default:
			passed = append(passed, l.Region+" was passed over by the strategy")
		}
	}
	for i, p := range passed {
		if i > 0 {
			why += ", "
		}
		why += p
	}
	if len(passed) > 0 {
		why += "; "
	}
	x.Why = why + fmt.Sprintf("%s in %s: tier %v, load %.2g, of %d usable there", m.id, name, m.tier, c.Load, x.Regions[s.region].Usable)
}

// explain gathers what a strategy sees.
func (v *View) explain(r *Request, s Strategy) Explanation {
	x := Explanation{App: r.App, Strategy: fmt.Sprintf("%T", s), Key: r.Key, Tried: len(r.Tried)}
	l := newLook(v, r, 0)
	for i := range v.order {
		p := &v.order[i]
		look := RegionLook{Region: p.rows.name, RTT: p.rtt, Known: p.known, Stats: v.Stats(i), Accepted: l.accepts(i), Sliced: len(p.slice)}
		for t := range tiers {
			for _, pos := range p.rows.byTier[t] {
				look.add(p.rows.rows[pos], r)
			}
		}
		x.Regions = append(x.Regions, look)
	}
	return x
}

// bestShown bounds the candidates that an explanation lists for each region.
const bestShown = 4

func (l *RegionLook) add(m *row, r *Request) {
	var c Candidate
	m.look(&c)
	switch {
	case !r.admits(m):
		l.Excluded++
		return
	case c.Full():
		l.Full++
		return
	case c.Busy():
		l.Busy++
	}
	l.Usable++
	at, _ := slices.BinarySearchFunc(l.Best, c, func(a, b Candidate) int {
		return cmp.Or(cmp.Compare(a.Tier, b.Tier), cmp.Compare(a.Use(), b.Use()), cmp.Compare(a.Picked, b.Picked), cmp.Compare(a.Salt, b.Salt), cmp.Compare(a.ID, b.ID))
	})
	if at < bestShown {
		l.Best = slices.Insert(l.Best, at, c)
		l.Best = l.Best[:min(len(l.Best), bestShown)]
	}
}
