package machine

import (
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Trace observes a [Starter]. Each func may be nil. They are called with values and with no lock
// held, from several goroutines, and must not block.
type Trace struct {
	// Starting: the start has been accepted; m.Epoch is the new one.
	Starting func(m balance.Machine)
	// Delayed: the driver could not start the machine and is called again after that time; err says
	// why. 0: the start is given back, and whoever still wants the machine asks again.
	Delayed func(m balance.Machine, err error, wait time.Duration)
	// NotReady: the machine still is not ready that long after the call of the driver, 5 s at least,
	// or less where it is doubtful that it will be; err says what it lacks. It is called again when
	// that changes.
	NotReady func(m balance.Machine, after time.Duration, err error)
	// Adopted: the machine runs already, and is taken over; see [Starter.Run]. Ready follows when it
	// passes its check.
	Adopted func(m balance.Machine)
	// Unknown: the driver lists a machine that the node does not host. It is left alone.
	Unknown func(r Running)
	// Ready: the machine takes requests. took is the time since the call of the driver; m.Addr is
	// set. resumed says that it was suspended before.
	Ready func(m balance.Machine, resumed bool, took time.Duration)
	// Failed: the start has failed; m.Fault says why.
	Failed func(m balance.Machine)
	// Exited: a machine that was ready, or suspended, ended without having been stopped through its
	// gate.
	Exited func(m balance.Machine, e Exit)
	// Restarting: a machine that was ready is taken for dead, is stopped, and starts again; m.Fault
	// says why. If it could not be stopped, Health is called.
	Restarting func(m balance.Machine)
	// Health: checks have changed what the machine's row says, or it takes suspiciously long to start.
	Health func(m balance.Machine, h balance.Health, err error)
	// DriverFailed: the driver's Watch ended although it should not have, or its List failed; it is
	// called again.
	DriverFailed func(err error)
}

func (t *Trace) starting(m balance.Machine) {
	if t.Starting != nil {
		t.Starting(m)
	}
}

func (t *Trace) delayed(m balance.Machine, err error, wait time.Duration) {
	if t.Delayed != nil {
		t.Delayed(m, err, wait)
	}
}

func (t *Trace) notReady(m balance.Machine, after time.Duration, err error) {
	if t.NotReady != nil {
		t.NotReady(m, after, err)
	}
}

func (t *Trace) adopted(m balance.Machine) {
	if t.Adopted != nil {
		t.Adopted(m)
	}
}

func (t *Trace) unknown(r Running) {
	if t.Unknown != nil {
		t.Unknown(r)
	}
}

func (t *Trace) ready(m balance.Machine, resumed bool, took time.Duration) {
	if t.Ready != nil {
		t.Ready(m, resumed, took)
	}
}

func (t *Trace) failed(m balance.Machine) {
	if t.Failed != nil {
		t.Failed(m)
	}
}

func (t *Trace) exited(m balance.Machine, e Exit) {
	if t.Exited != nil {
		t.Exited(m, e)
	}
}

func (t *Trace) restarting(m balance.Machine) {
	if t.Restarting != nil {
		t.Restarting(m)
	}
}

func (t *Trace) health(m balance.Machine, h balance.Health, err error) {
	if t.Health != nil {
		t.Health(m, h, err)
	}
}

func (t *Trace) driverFailed(err error) {
	if t.DriverFailed != nil {
		t.DriverFailed(err)
	}
}
