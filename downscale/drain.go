package downscale

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ebbkit/ebb/balance"
	"golang.org/x/sync/semaphore"
)

// drainPoll is how often a draining machine is looked at: leaving requests tell nobody.
const drainPoll = 10 * time.Millisecond

// Drain ends all machines that this node owns: it is for shutting down. It closes every gate now,
// waits until nothing is in flight behind it or ctx ends, and stops the machine; suspended and
// starting machines are stopped too. When ctx ends it still stops what is left, without waiting
// for requests, within [Config.StopTimeout]. The error names each machine that could not be
// stopped; it runs on, and its gate is open again. Meanwhile nothing else is decided and no start
// is remembered; who starts machines should have ended before. Drain needs no Run, and one may be
// running.
func (d *Downscaler) Drain(ctx context.Context) error {
	d.draining.Add(1)
	defer d.draining.Add(-1)
	// Stops are bounded by themselves: ctx says how long requests may take, not that machines may
	// stay.
	stopping, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		t := time.NewTimer(d.config.StopTimeout)
		defer t.Stop()
		select {
		case <-t.C:
			cancel()
		case <-stopping.Done():
		}
	})()

	dr := &drain{
		Downscaler: d, soft: ctx, hard: stopping, slots: semaphore.NewWeighted(int64(parallel)),
	}
	var (
		// not an errgroup: one machine's failure is no reason to leave another running
		all  sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	for _, id := range d.fleet.Apps() {
		s, ok := d.fleet.App(id)
		if !ok {
			continue
		}
		for m := range s.All() {
			gate := d.fleet.Gate(id, m.ID)
			if gate == nil {
				continue
			}
			all.Go(func() {
				if err := dr.machine(*m, gate); err != nil {
					mu.Lock()
					defer mu.Unlock()
					errs = append(errs, err)
				}
			})
		}
	}
	all.Wait()
	return errors.Join(errs...)
}

type drain struct {
	*Downscaler
	soft  context.Context // while it lasts, requests may end
	hard  context.Context // while it lasts, machines may end
	slots *semaphore.Weighted
}

// machine brings one machine down, from whatever state it is in or comes into.
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

// pause waits; it reports false when ctx has ended.
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

// stop calls the driver, and while there is time again when it refuses: a machine whose start has
// only just been ordered may not be there to be stopped yet.
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

// RemoveMachine stops a machine of this node as [Downscaler.Stop] does, and takes it out of the
// fleet. From the call on nothing starts it any more. A suspended machine is stopped for good. When
// it returns an error the machine stays in the fleet, and may be started again; the error is that
// of Stop, or the driver's. It needs Run, and waits for it.
func (d *Downscaler) RemoveMachine(ctx context.Context, m balance.Machine, o Order) error {
	gate := d.fleet.Gate(m.App, m.ID)
	if gate == nil {
		return fmt.Errorf(
			"downscale: removal of machine %q of app %q: node %q does not own it: ask its owner", m.ID,
			m.App, d.fleet.Node(),
		)
	}
	gate.Retire(true)
	err := d.rest(ctx, m, gate, o)
	if err == nil {
		err = d.fleet.Apply(balance.RemoveMachine{App: m.App, ID: m.ID})
	}
	if err != nil {
		gate.Retire(false)
	}
	return err
}

// RemoveApp stops all machines of an app that this node owns, each as [Downscaler.RemoveMachine]
// does and all at once, and then takes the app out of this node's fleet. The error names what could
// not be stopped; the app then stays, and what runs of it runs on. Requests that wait for the app
// are told that there is no such app.
func (d *Downscaler) RemoveApp(ctx context.Context, app balance.AppID, o Order) error {
	rows, ok := d.fleet.App(app)
	if !ok {
		return nil
	}
	var (
		// not an errgroup: one machine's failure is no reason to leave another running
		all   sync.WaitGroup
		mu    sync.Mutex
		errs  []error
		gates []*balance.Gate
	)
	for m := range rows.All() {
		gate := d.fleet.Gate(app, m.ID)
		if gate == nil {
			continue
		}
		gate.Retire(true)
		gates = append(gates, gate)
		all.Go(func() {
			if err := d.rest(ctx, *m, gate, o); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	all.Wait()
	err := errors.Join(errs...)
	if err == nil {
		err = d.fleet.Apply(balance.RemoveApp{ID: app})
	}
	if err != nil {
		for _, gate := range gates {
			gate.Retire(false)
		}
	}
	return err
}

// rest brings a machine that is retired to rest.
func (d *Downscaler) rest(ctx context.Context, m balance.Machine, gate *balance.Gate,
	o Order) error {
	m.Epoch, o.Suspend = 0, false // of any run
	if o.Reason == "" {
		o.Reason = "it is removed"
	}
	for {
		switch l := gate.Load(); l.State {
		case balance.StateStopped, balance.StateFailed:
			return nil
		case balance.StateSuspended:
			m.State, m.Epoch = l.State, l.Epoch
			if err := d.stopSuspended(ctx, m); err != nil {
				return err
			}
			gate.Exited(l.Epoch, false)
		default:
			if err := d.Stop(ctx, m, o); err != nil {
				return err
			}
		}
	}
}

func (d *Downscaler) stopSuspended(ctx context.Context, m balance.Machine) error {
	ctx, cancel := context.WithTimeout(ctx, d.config.StopTimeout)
	defer cancel()
	began := time.Now()
	call(d.config.Trace.Stopping, m, "it is removed")
	if err := d.driver.Stop(ctx, m); err != nil {
		call(d.config.Trace.Failed, m, err)
		return fmt.Errorf("downscale: stop %v: %w", m.Key(), err)
	}
	call(d.config.Trace.Stopped, m, time.Since(began))
	return nil
}
