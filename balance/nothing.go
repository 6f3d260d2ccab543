package balance

import "time"

// nothing counts why no machine is usable.
func (v *View) nothing(r *Request) error {
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
			case m.state == Starting:
				e.Starting++
			case m.state != Started:
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

// after lowers the guess to when one of m's requests is likely to end: their mean stay over how many there are. It is at
// least the moment for which a machine that said "full" is left out.
func (e *NoMachineError) after(p *reach, m *row) {
	n := max(1, m.cell.own(), m.kin.limits.Hard)
	t := min(max(p.stats.Stay/time.Duration(n), tickEvery), maxAfter)
	if e.After == 0 || t < e.After {
		e.After = t
	}
}
