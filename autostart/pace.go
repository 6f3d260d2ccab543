package autostart

import "time"

const (
	// planGap and planShare keep planning from eating a core when every request asks for it: that
	// much time, and that many times what the last decision took, are the price of a decision for
	// one app.
	planGap, planShare = 2 * time.Millisecond, 10
	// planBurst is how many decisions that do nothing may be made on credit: after one there is no
	// gap, and who comes right after it is planned for at once.
	planBurst = 16
)

// pace says when an app may be planned for again. The zero value may at once.
type pace struct {
	next time.Time // not before
	paid time.Time // until when the decisions so far are paid for
}

// decided notes a decision at time now that took so long. One that acts is followed by a gap, in
// which those who come meanwhile are gathered for the next; one that does nothing only when many
// came before it.
func (p *pace) decided(now time.Time, took time.Duration, acts bool) {
	price := max(planGap, planShare*took)
	if acts {
		p.paid = now.Add(price)
		p.next = p.paid
		return
	}
	if p.paid.Before(now) || p.paid.Sub(now) > planBurst*planGap { // or the clock has been set back
		p.paid = now
	}
	p.paid = p.paid.Add(price)
	p.next = p.paid.Add(-planBurst * planGap)
}
