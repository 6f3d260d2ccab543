package downscale

import (
	"context"
	"fmt"
	"time"

	"github.com/ebbkit/ebb/balance"
	"golang.org/x/sync/semaphore"
)

// drainPoll is how often a draining machine is looked at: nothing reports that a request has ended.
const drainPoll = 10 * time.Millisecond

type drain struct {
	*Downscaler
	soft  context.Context // while it lasts, requests may end
	hard  context.Context // while it lasts, machines may end
	slots *semaphore.Weighted
}

// machine stops one machine, whatever state it is in or enters.
func (d *drain) machine(m balance.Machine, gate *balance.Gate) error {
	for {
		l := gate.Load()
		m.State, m.Epoch = l.State, l.Epoch
		var err error
		switch l.State {
		case balance.StateStopped, balance.StateFailed:
			return nil
		case balance.StateStarted:
			token, ok := gate.CloseNow()
			if !ok {
				continue
			}
			gate.Forget()
			for gate.InFlight() > 0 && d.pause(d.soft, drainPoll) {
			}
			if err = d.stop(m); err != nil {
				gate.Reopen(token)
				return err
			}
			gate.Closed(token, false)
			continue
		case balance.StateStarting:
			gate.Exited(l.Epoch, false) // from here on the start is void
			err = d.stop(m)
		case balance.StateSuspended:
			if err = d.stop(m); err == nil {
				gate.Exited(l.Epoch, false)
			}
		default: // stopping or suspending already, by Run
			gate.Forget()
			if token, ok := gate.TakeOver(); ok { // by one that has ended
				if err = d.stop(m); err != nil {
					gate.Abandon(token)
					return err
				}
				gate.Closed(token, false)
				continue
			}
			if !d.pause(d.hard, drainPoll) {
				return fmt.Errorf("downscale: drain: %v is still %v", m.Key(), l.State)
			}
			continue
		}
		if err != nil {
			return err
		}
	}
}

// pause waits for that long; it returns false when ctx has ended.
func (d *drain) pause(ctx context.Context, wait time.Duration) bool {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return ctx.Err() == nil
	}
}

// stop calls the driver, and calls it again while there is time if it refuses: a machine whose
// start has only just been ordered may not exist yet.
func (d *drain) stop(m balance.Machine) error {
	if err := d.slots.Acquire(d.hard, 1); err != nil {
		return fmt.Errorf("downscale: drain: %v was not stopped: no time left", m.Key())
	}
	defer d.slots.Release(1)
	began := time.Now()
	call(d.config.Trace.Stopping, m, "draining")
	for wait := drainPoll; ; wait = min(2*wait, time.Second) {
		err := d.once(m)
		if err == nil {
			call(d.config.Trace.Stopped, m, time.Since(began))
			return nil
		}
		if !d.pause(d.soft, wait) {
			call(d.config.Trace.Failed, m, err)
			return fmt.Errorf("downscale: drain: stop %v: %w", m.Key(), err)
		}
	}
}

func (d *drain) once(m balance.Machine) error {
	ctx, cancel := context.WithTimeout(d.hard, d.config.StopTimeout)
	defer cancel()
	return d.driver.Stop(ctx, m)
}
