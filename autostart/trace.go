package autostart

import (
	"time"

	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/balance"
)

// Trace observes an [Autostart]. Each func may be nil. They are called with values and with no lock
// held, from several goroutines, and must not block: requests wait meanwhile.
type Trace struct {
	// Parked: a request waits. parked counts it and all others of its app.
	Parked func(app balance.AppID, parked int)
	// HandedOver: a parked request has been given a slot.
	HandedOver func(app balance.AppID, machine balance.MachineID, waited time.Duration)
	// Rejected: a request got no slot. err is what Acquire returns.
	Rejected func(app balance.AppID, err error)
	// Left: the client of a parked request went away.
	Left func(app balance.AppID, waited time.Duration)
	// Decided: a decision that recalls, starts or refuses.
	Decided func(policy.Decision)
	// Answered: the result of a start; err is set when the owner could not be asked.
	Answered func(m balance.Machine, a balance.StartAnswer, err error)
	// Recalled: the result of a recall.
	Recalled func(m balance.Machine, err error)
}

func (t *Trace) parked(app balance.AppID, n int) {
	if t.Parked != nil {
		t.Parked(app, n)
	}
}

func (t *Trace) handedOver(app balance.AppID, m balance.MachineID, waited time.Duration) {
	if t.HandedOver != nil {
		t.HandedOver(app, m, waited)
	}
}

func (t *Trace) rejected(app balance.AppID, err error) {
	if t.Rejected != nil {
		t.Rejected(app, err)
	}
}

func (t *Trace) left(app balance.AppID, waited time.Duration) {
	if t.Left != nil {
		t.Left(app, waited)
	}
}

func (t *Trace) decided(d policy.Decision) {
	if t.Decided != nil {
		t.Decided(d)
	}
}

func (t *Trace) answered(m balance.Machine, a balance.StartAnswer, err error) {
	if t.Answered != nil {
		t.Answered(m, a, err)
	}
}

func (t *Trace) recalled(m balance.Machine, err error) {
	if t.Recalled != nil {
		t.Recalled(m, err)
	}
}
