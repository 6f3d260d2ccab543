package balance

import (
	"math"
	"time"
)

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

// perhaps returns the least loaded of the machines that are full by nothing but the estimate of
// what others have there, in the nearest region that has one.
func (v *View) perhaps(r *Request) (s Slot, ok bool) {
	for i := range v.order {
		least := float32(math.MaxFloat32)
		for _, pos := range v.order[i].rows.byTier[TierReady] {
			m := v.order[i].rows.rows[pos]
			own, e := m.cell.own(), est(m.cell.est.Load())
			if !r.admits(m) || m.cell.gate != nil || full(own, float32(own), m.shared.limits.Hard, e) {
				continue
			}
			if use := (float32(own) + e.others()) / float32(max(1, m.shared.limits.Soft)); use < least {
				least, s, ok = use, Slot{int32(i), pos}, true
			}
		}
		if ok {
			return s, true
		}
	}
	return s, false
}

// maxAfter bounds the guess at when a slot is free.
const maxAfter = 10 * time.Second

// after lowers the guess to when one of m's requests is likely to end: their mean stay over how many there are. It is at
// least the moment for which a machine that said "full" is left out.
func (e *NoMachineError) after(p *reach, m *row) {
	n := max(1, m.cell.own(), m.shared.limits.Hard)
	t := min(max(p.stats.Stay/time.Duration(n), tickEvery), maxAfter)
	if e.After == 0 || t < e.After {
		e.After = t
	}
}
