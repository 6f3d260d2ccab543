package autostart

import (
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Trace observes an [Autostart]. Each func may be nil. They are called with values and with no lock held, from several
// goroutines, and must not block: requests wait meanwhile.
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
	Decided func(Decision)
	// PolicyFailed: the app's policy panicked, and is asked again; or it has not come back for 1 s, which is told once.
	PolicyFailed func(app balance.AppID, err error)
	// Answered: what came of a start; err when the owner could not be asked.
	Answered func(m balance.Machine, a balance.StartAnswer, err error)
	// Recalled: what came of a recall.
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

func (t *Trace) decided(d Decision) {
	if t.Decided != nil {
		t.Decided(d)
	}
}

func (t *Trace) policyFailed(app balance.AppID, err error) {
	if t.PolicyFailed != nil {
		t.PolicyFailed(app, err)
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

// StarterTrace observes a [Starter]. Each func may be nil. They are called with values and with no lock held, from several
// goroutines, and must not block.
type StarterTrace struct {
	// Starting: the start has been accepted; m.Epoch is the new one.
	Starting func(m balance.Machine)
	// Delayed: the driver could not start the machine and is called again after that time; err says
	// why. 0: the start is given back, and whoever still wants it asks again.
	Delayed func(m balance.Machine, err error, wait time.Duration)
	// NotReady: the machine still is not ready that long after the call of the driver, 5 s at
	// least, or less where it is doubtful that it will be; err says what it lacks. It is told again
	// when that changes.
	NotReady func(m balance.Machine, after time.Duration, err error)
	// Ready: the machine takes requests. took is the time since the call of the driver; m.Addr is
	// set.
	Ready func(m balance.Machine, kind BootKind, took time.Duration)
	// Failed: the start came to nothing; m.Fault says why.
	Failed func(m balance.Machine)
	// Exited: a machine that was ready, or suspended, ended without being told to by its gate's holder.
	Exited func(m balance.Machine, e Exit)
	// Restarting: a machine that was ready is taken for dead, is stopped, and starts again; m.Fault
	// says why. Where it could not be stopped, Health tells.
	Restarting func(m balance.Machine)
	// Health: checks have changed what the machine's row says, or it takes suspiciously long to start.
	Health func(m balance.Machine, h balance.Health, err error)
	// WatchFailed: the driver's Watch ended although it should not have; it is called again.
	WatchFailed func(err error)
}

func (t *StarterTrace) starting(m balance.Machine) {
	if t.Starting != nil {
		t.Starting(m)
	}
}

func (t *StarterTrace) delayed(m balance.Machine, err error, wait time.Duration) {
	if t.Delayed != nil {
		t.Delayed(m, err, wait)
	}
}

func (t *StarterTrace) notReady(m balance.Machine, after time.Duration, err error) {
	if t.NotReady != nil {
		t.NotReady(m, after, err)
	}
}

func (t *StarterTrace) ready(m balance.Machine, kind BootKind, took time.Duration) {
	if t.Ready != nil {
		t.Ready(m, kind, took)
	}
}

func (t *StarterTrace) failed(m balance.Machine) {
	if t.Failed != nil {
		t.Failed(m)
	}
}

func (t *StarterTrace) exited(m balance.Machine, e Exit) {
	if t.Exited != nil {
		t.Exited(m, e)
	}
}

func (t *StarterTrace) restarting(m balance.Machine) {
	if t.Restarting != nil {
		t.Restarting(m)
	}
}

func (t *StarterTrace) health(m balance.Machine, h balance.Health, err error) {
	if t.Health != nil {
		t.Health(m, h, err)
	}
}

func (t *StarterTrace) watchFailed(err error) {
	if t.WatchFailed != nil {
		t.WatchFailed(err)
	}
}
