package balance

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Explanation says why a pick chose its machine: what the strategy saw, and what it chose.
type Explanation struct {
	App      AppID
	Strategy string   // its type
	Key      string   // of the request
	Tried    int      // machines that the request has tried
	Picked   Machine  // zero when there was none
	Tier     Tier     // of the picked machine
	Busy     bool     // it was at or above its soft limit
	Why      string   // a sentence for people
	Err      error    // of a pick that found nothing
	Regions  []Region // in the order of the pick
}

// Trace observes picks.
type Trace struct {
	Every int // one in this many picks is explained; 0 or 1 means each
	// Picked is called with each pick that is explained, on its goroutine and with no lock held.
	Picked func(Explanation)
}

func (t *Trace) samples(bits uint64) bool {
	return t.Every <= 1 || mix(bits, 3)%uint64(t.Every) == 0
}

// chose records the machine and puts the reason into words.
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
func explain(v *View, r *Request, s Strategy) Explanation {
	x := Explanation{App: r.App, Strategy: fmt.Sprintf("%T", s), Key: r.Key, Tried: len(r.Tried)}
	l := newScan(v, r, 0)
	for i := range v.order {
		p := &v.order[i]
		look := v.Region(i)
		look.Accepted, look.Sliced = l.accepts(i), len(p.slice)
		for t := range tiers {
			for _, pos := range p.rows.byTier[t] {
				seen(&look, p.rows.rows[pos], r)
			}
		}
		x.Regions = append(x.Regions, look)
	}
	return x
}

// bestShown bounds the candidates that an explanation lists for each region.
const bestShown = 4

// seen counts a machine of the region in.
func seen(l *Region, m *row, r *Request) {
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

// The classes of failure of a pick. Match with [errors.Is]; the error is a [*NoMachineError] with
// the counts.
var (
	// ErrNoMachine: no machine of the app can take the request now.
	ErrNoMachine = errors.New("balance: no machine available")
	// ErrFull: machines run, but each is at its hard limit. It is also an ErrNoMachine. Retry after
	// RetryAfter has passed.
	ErrFull = errors.New("balance: every machine is at its hard limit")
	// ErrNoApp: the fleet does not know the app.
	ErrNoApp = errors.New("balance: unknown app")
)

// NoMachineError says in numbers why a pick found nothing. Each machine is counted once, by the
// first reason that holds, in the order of the fields.
type NoMachineError struct {
	App       AppID
	Seen      int // machines of the app
	Unwanted  int // not among those that the request must go to
	Excluded  int // excluded by the request: tried already
	Stopped   int // stopped, suspended, failed, stopping, suspending or gone
	Starting  int // starting
	Cordoned  int // hard-cordoned
	Unhealthy int // with failing checks or ejected as outliers, and also at their hard limit
	Full      int // at their hard limit
	// After estimates when a slot may be free; 0 when nothing is full.
	After time.Duration
}

// RetryAfter returns After. Errors of other packages that know when to retry have it too.
func (e *NoMachineError) RetryAfter() time.Duration { return e.After }

// Error lists the counts that are not zero.
func (e *NoMachineError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "balance: no machine of app %q available: %d seen", e.App, e.Seen)
	for _, c := range []struct {
		n    int
		what string
	}{{e.Unwanted, "not wanted"}, {e.Excluded, "tried already"}, {e.Stopped, "stopped"}, {e.Starting, "starting"}, {e.Cordoned, "cordoned"}, {e.Unhealthy, "unhealthy and full"}, {e.Full, "at the hard limit"}} {
		if c.n > 0 {
			fmt.Fprintf(&b, ", %d %s", c.n, c.what)
		}
	}
	return b.String()
}

// Is reports true for ErrNoMachine, and for ErrFull when at least one machine is at its hard limit.
func (e *NoMachineError) Is(target error) bool {
	return target == ErrNoMachine || target == ErrFull && e.Full+e.Unhealthy > 0
}

// whyNone counts why no machine is usable.
func whyNone(v *View, r *Request) error {
	e := &NoMachineError{App: r.App}
	for i := range v.order {
		p := &v.order[i]
		for _, pos := range p.rows.byID {
			m := p.rows.rows[pos]
			e.Seen++
			switch {
			case !r.wants(m):
				e.Unwanted++
			case r.tried(m.id):
				e.Excluded++
			case m.state == StateStarting:
				e.Starting++
			case m.state != StateStarted:
				e.Stopped++
			case m.cordon() == CordonHard:
				e.Cordoned++
			case m.tier >= TierComing:
				e.Unhealthy++
				e.after(p, m)
			default:
				e.Full++
				e.after(p, m)
			}
		}
	}
	return e
}

// maxAfter bounds the estimate of when a slot is free.
const maxAfter = 10 * time.Second

// after lowers the estimate to when one of m's requests is likely to end: their mean stay divided
// by their number. It is at least as long as a machine that said "full" is excluded.
func (e *NoMachineError) after(p *regionView, m *row) {
	n := max(1, m.cell.own(), m.shared.limits.Hard)
	t := min(max(p.stay/time.Duration(n), tickEvery), maxAfter)
	if e.After == 0 || t < e.After {
		e.After = t
	}
}
