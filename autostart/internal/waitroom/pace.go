package waitroom

import "time"

const (
	// planGap and planShare keep planning from eating a core when every request asks for it: that
	// much time, and that many times what the last decision took, are the price of a decision for
	// one app.
	PlanGap, planShare = 2 * time.Millisecond, 10
	// planBurst is how many decisions that do nothing may be made on credit: after one there is no
	// gap, and who comes right after it is planned for at once.
	planBurst = 16
)

// Pace says when an app may be planned for again. The zero value may at once.
type Pace struct {
	Next time.Time // not before
	paid time.Time // until when the decisions so far are paid for
}

// Decided notes a decision at time now that took so long. One that acts is followed by a gap, in
// which those who come meanwhile are gathered for the next; one that does nothing only when many
// came before it.
func (p *Pace) Decided(now time.Time, took time.Duration, acts bool) {
	price := max(PlanGap, planShare*took)
	if acts {
		p.paid = now.Add(price)
		p.Next = p.paid
		return
	}
	if p.paid.Before(now) || p.paid.Sub(now) > planBurst*PlanGap { // or the clock has been set back
		p.paid = now
	}
	p.paid = p.paid.Add(price)
	p.Next = p.paid.Add(-planBurst * PlanGap)
}
