package balance

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Explanation says why a pick went where it went: what the strategy saw, and what it chose.
type Explanation struct {
	App      AppID
	Strategy string  // its type
	Key      string  // of the request
	Tried    int     // machines that the request has tried
	Picked   Machine // zero when there was none
	Tier     Tier    // of the picked machine
	Busy     bool    // it was at or above its soft limit
	Why      string  // in a sentence
	Err      error   // of a pick that found nothing
	Regions  []Region // in the order of the pick
}

// Trace observes picks.
type Trace struct {
	Every int // one of how many picks is explained; 0 or 1 means each
	// Picked is called with each pick that is explained, on its goroutine and with no lock held.
	Picked func(Explanation)
}

func (t *Trace) samples(bits uint64) bool {
	return t.Every <= 1 || mix(bits, 3)%uint64(t.Every) == 0
}

// chose notes the machine and puts the reason into words.
func (x *Explanation) chose(v *View, s Slot, why string) {
	var c Candidate
	m := v.row(s)
	m.fill(&c)
	x.Picked, x.Tier, x.Busy = *m.machine(), m.tier, c.Busy()
	name := x.Regions[s.region].Name
	var passed []string
	for i := range x.Regions[:s.region] {
		switch l := &x.Regions[i]; {
		case l.Near > int(s.region):
		case l.Usable == 0:
			passed = append(passed, fmt.Sprintf("%s has none that can be used", l.Name))
		case l.Busy == l.Usable:
			passed = append(passed, fmt.Sprintf("all in %s are at their soft limit", l.Name))
		case !l.Accepted:
			passed = append(passed, fmt.Sprintf("%s gives %.0f %% away", l.Name, 100*(1-l.Share)))
		default:
			passed = append(passed, l.Name+" was passed over by the strategy")
		}
	}
	if len(passed) > 0 {
		why += strings.Join(passed, ", ") + "; "
	}
	x.Why = why + fmt.Sprintf(
		"%s in %s: tier %v, load %.2g, of %d usable there", m.id, name, m.tier, c.Load,
		x.Regions[s.region].Usable,
	)
}

// explain gathers what a strategy sees.
func (v *View) explain(r *Request, s Strategy) Explanation {
	x := Explanation{App: r.App, Strategy: fmt.Sprintf("%T", s), Key: r.Key, Tried: len(r.Tried)}
	l := newScan(v, r, 0)
	for i := range v.order {
		p := &v.order[i]
		look := v.Region(i)
		look.Accepted, look.Sliced = l.accepts(i), len(p.slice)
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

func (l *Region) add(m *row, r *Request) {
	var c Candidate
	m.fill(&c)
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
		return cmp.Or(
			cmp.Compare(a.Tier, b.Tier), cmp.Compare(a.Use(), b.Use()), cmp.Compare(a.Picked, b.Picked),
			cmp.Compare(a.Salt, b.Salt), cmp.Compare(a.ID, b.ID),
		)
	})
	if at < bestShown {
		l.Best = slices.Insert(l.Best, at, c)
		l.Best = l.Best[:min(len(l.Best), bestShown)]
	}
}
