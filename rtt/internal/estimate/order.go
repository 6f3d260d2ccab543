package estimate

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Candidate is one thing to be ordered, as it is now.
type Candidate struct {
	Name    string
	RTT     time.Duration
	State   State
	Settled bool // measured often enough (three samples); until then it moves without hysteresis
}

// Place is one thing in its order.
type Place struct {
	Name string
	// RTT rises along the order. It is the candidate's own round trip, except that one held behind
	// another has the other's value (plus a nanosecond per step). So sorting by RTT gives this
	// order, hysteresis included.
	RTT   time.Duration
	Group int  // places of equal Group are near-equals; groups count from 0
	Known bool // RTT may be used; false for the lost and the never measured
}

// Order keeps candidates in order of their round trip, with hysteresis. One moves up only when it
// is better than one above it by max(2 ms, 10 %) for 5 seconds without a break, or for 3 seconds if
// the one above is half again as far. Becoming lost changes the order at once, and so does the
// first measurement. A candidate that was lost comes back at the end and moves up by the same rule.
// Candidates that were never measured come after all measured ones, and lost ones last.
//
// So a candidate is held behind one that it beats by the margin for no longer than the hold, and
// the cost of a stable order is less than the margin. For the margin see there. The hold is five
// seconds because a burst in a queue is over by then. At one probe per second it is five
// evaluations; with fewer, the order changes three times as often.
//
// The zero value is empty and ready. An Order is not safe for concurrent use.
type Order struct {
	items []item
	at    map[string]int // scratch
}

type item struct {
	Candidate
	class    class
	since    time.Time // beating one above it without a break
	together bool      // in the group of the one above
}

type class uint8

const (
	alive class = iota
	unmeasured
	gone
)

const (
	hold      = 5 * time.Second
	holdSteep = 3 * time.Second
)

func classOf(c Candidate) class {
	switch {
	case c.State == StateLost:
		return gone
	case c.State == StateUnknown || c.RTT <= 0:
		return unmeasured
	}
	return alive
}

// Update takes in all candidates as they are now and reports whether the order changed. Names
// must be distinct.
func (o *Order) Update(now time.Time, cs []Candidate) bool {
	if o.at == nil {
		o.at = make(map[string]int, len(cs))
	}
	clear(o.at)
	for i := range cs {
		o.at[cs[i].Name] = i
	}
	before := make([]string, len(o.items))
	for i := range o.items {
		before[i] = o.items[i].Name
	}

	next := make([]item, 0, len(cs))
	var back, fresh, rest []item
	for _, it := range o.items {
		i, ok := o.at[it.Name]
		if !ok {
			continue
		}
		delete(o.at, it.Name)
		was, settled := it.class, it.Settled
		it.Candidate, it.class = cs[i], classOf(cs[i])
		it.Settled = it.Settled || settled // a restarted peer keeps its hysteresis
		switch {
		case it.class != alive:
			it.since, it.together = time.Time{}, false
			rest = append(rest, it)
		case was == unmeasured || !it.Settled:
			fresh = append(fresh, it)
		case was == gone:
			back = append(back, it)
		default:
			next = append(next, it)
		}
	}
	for i := range cs {
		if _, ok := o.at[cs[i].Name]; !ok {
			continue
		}
		it := item{Candidate: cs[i], class: classOf(cs[i])}
		if it.class == alive {
			fresh = append(fresh, it)
		} else {
			rest = append(rest, it)
		}
	}
	next = append(next, back...)
	slices.SortFunc(fresh, func(a, b item) int { // so that the caller's order does not matter
		return cmp.Or(cmp.Compare(a.RTT, b.RTT), strings.Compare(a.Name, b.Name))
	})
	for _, it := range fresh {
		it.since = time.Time{}
		p := slices.IndexFunc(next, func(x item) bool {
			return it.RTT < x.RTT || it.RTT == x.RTT && it.Name < x.Name
		})
		if p < 0 {
			p = len(next)
		}
		next = slices.Insert(next, p, it)
	}
	o.items = next
	for o.challenge(now) {
	}
	slices.SortStableFunc(rest, func(a, b item) int { return int(a.class) - int(b.class) })
	o.items = append(o.items, rest...)
	o.group()
	return !slices.EqualFunc(before, o.items, func(name string, it item) bool {
		return name == it.Name
	})
}

// challenge moves up the first item that has beaten one above it for long enough, and reports
// whether there was one.
func (o *Order) challenge(now time.Time) bool {
	var worst time.Duration // of those above
	for i := range o.items {
		it := &o.items[i]
		if it.RTT >= worst-margin(worst) {
			it.since = time.Time{}
			worst = max(worst, it.RTT)
			continue
		}
		if it.since.IsZero() || now.Before(it.since) {
			it.since = now
		}
		need := hold
		if it.RTT <= worst*2/3 {
			need = holdSteep
		}
		if now.Sub(it.since) < need {
			continue
		}
		up := *it
		up.since = time.Time{}
		p := slices.IndexFunc(o.items[:i], func(x item) bool { return up.RTT < x.RTT-margin(x.RTT) })
		copy(o.items[p+1:i+1], o.items[p:i])
		o.items[p] = up
		return true
	}
	return false
}

// group marks near-equals: those within the margin of the first of their group. A member stays
// within one and a half margins, so that membership does not flap either.
func (o *Order) group() {
	var leader, worst time.Duration
	for i := range o.items {
		it := &o.items[i]
		if it.class != alive {
			it.together = false
			continue
		}
		worst = max(worst, it.RTT)
		limit := margin(leader)
		if it.together {
			limit += limit / 2
		}
		it.together = i > 0 && worst-leader <= limit
		if !it.together {
			leader = worst
		}
	}
}

// Places returns the order, in a slice that is the caller's.
func (o *Order) Places() []Place {
	out := make([]Place, len(o.items))
	g := -1
	var last time.Duration
	for i, it := range o.items {
		if !it.together {
			g++
		}
		out[i] = Place{Name: it.Name, RTT: it.RTT, Group: g, Known: it.class == alive}
		if it.class == alive {
			if i > 0 && it.RTT <= last {
				out[i].RTT = last + 1
			}
			last = out[i].RTT
		}
	}
	return out
}

// margin is how much smaller than d another round trip must be to count as better. 2 ms: below it
// two near nodes change places on noise (a fifth of the region pairs of a large cloud tie within
// it). 10 %: above 20 ms paths vary by more than 2 ms, and a tenth of a long path is not worth a
// change.
func margin(d time.Duration) time.Duration { return max(2*time.Millisecond, d/10) }
