package balance

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// The classes of failure of a pick. Match with [errors.Is]; the error is a [*NoMachineError] with
// the counts.
var (
	// ErrNoMachine: no machine of the app can take the request now, for whatever reason.
	ErrNoMachine = errors.New("balance: no machine available")
	// ErrFull: machines run, but each is at its hard limit. It is also an ErrNoMachine. Come back
	// after RetryAfter has passed.
	ErrFull = errors.New("balance: every machine is at its hard limit")
	// ErrNoApp: the fleet does not know the app.
	ErrNoApp = errors.New("balance: unknown app")
)

// ErrRuns is why [Fleet.Apply] does not remove a machine that this node owns: it has not been
// stopped, and nobody would know of it afterwards.
var ErrRuns = errors.New("balance: the machine has not been stopped")

// NoMachineError says in numbers why a pick found nothing. Each machine is counted once, by the
// first reason that holds, in the order of the fields.
type NoMachineError struct {
	App       AppID
	Seen      int // machines of the app
	Unwanted  int // not what the request has to go to: machine, region or revision
	Excluded  int // left out by the request: tried already
	Stopped   int // stopped, suspended, failed, stopping, suspending or gone
	Starting  int // on their way up
	Cordoned  int // hard-cordoned
	Unhealthy int // with failing checks or ejected as outliers, and at their hard limit all the same
	Full      int // at their hard limit
	// After is a guess at when a slot may be free; 0 when nothing is full.
	After time.Duration
}

// RetryAfter returns After: what errors of all packages answer to "when may I come back".
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
func (v *View) whyNone(r *Request) error {
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

// maxAfter bounds the guess at when a slot is free.
const maxAfter = 10 * time.Second

// after lowers the guess to when one of m's requests is likely to end: their mean stay over how
// many there are. It is at least the moment for which a machine that said "full" is left out.
func (e *NoMachineError) after(p *regionView, m *row) {
	n := max(1, m.cell.own(), m.shared.limits.Hard)
	t := min(max(p.stay/time.Duration(n), tickEvery), maxAfter)
	if e.After == 0 || t < e.After {
		e.After = t
	}
}
