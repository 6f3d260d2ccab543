package downscale

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ebbkit/ebb/balance"
)

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
