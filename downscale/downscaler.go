package downscale

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/balance"
	"golang.org/x/sync/semaphore"
)

// Downscaler stops and suspends the surplus machines that one node owns. All methods are safe for
// concurrent use.
type Downscaler struct {
	fleet    *balance.Fleet
	driver   Driver
	config   Config
	wake     chan struct{}
	orders   orders
	ran      atomic.Bool
	draining atomic.Int32
}

// New returns a downscaler for the machines that f's node owns. It starts nothing; see
// [Downscaler.Run].
func New(f *balance.Fleet, d Driver, c Config) (*Downscaler, error) {
	switch {
	case f == nil:
		return nil, errors.New("downscale: New without a fleet: make one with balance.NewFleet")
	case d == nil:
		return nil, errors.New(
			"downscale: New without a driver: give one that stops the fleet's machines",
		)
	}
	c, err := c.resolve()
	if err != nil {
		return nil, err
	}
	return &Downscaler{fleet: f, driver: d, config: c, wake: make(chan struct{}, 1)}, nil
}

// Run looks at the machines, decides, and stops surplus ones until ctx ends. It then releases all
// cordons, waits for the driver calls under way, each bounded by [Config.StopTimeout], and returns
// nil. If a driver call did not return or left a machine in doubt, the error names those machines.
// Their gates stay closed, since nobody knows whether they run; [Downscaler.Drain], or the Run of
// another downscaler, stops them for certain. A Downscaler runs once: another call returns an
// error.
func (d *Downscaler) Run(ctx context.Context) error {
	if d.ran.Swap(true) {
		return errors.New("downscale: Downscaler.Run was called before: make another downscaler with New")
	}
	r := &run{
		Downscaler: d, ctx: context.WithoutCancel(ctx), apps: map[balance.AppID]*appRun{},
		answers: make(chan answer), over: make(chan struct{}),
	}
	defer close(r.over)
	d.rouse() // the first look is due at once
	timer, due := time.NewTimer(d.config.Every), time.Now().Add(d.config.Every)
	defer timer.Stop()
	var next time.Time
	for {
		select {
		case <-ctx.Done():
			return r.end()
		case a := <-r.answers:
			r.answered(a)
			if time.Now().Before(due) {
				continue
			}
		case <-d.wake:
		case <-timer.C:
		}
		now := time.Now()
		list := d.orders.take()
		if len(list) == 0 && now.Before(next) {
			r.look(now)
		} else {
			r.tick(now)
			next = now.Add(d.config.Every)
		}
		if len(list) > 0 {
			for _, a := range r.apps {
				a.rests = false
			}
			r.accept(list)
			r.hear(now)
		}
		wait := next.Sub(now)
		if len(r.leaving) > 0 {
			wait = min(wait, lookEvery)
		}
		if due = now.Add(wait); time.Until(due) > 0 {
			timer.Reset(wait)
		} else {
			timer.Stop()
			d.rouse()
		}
	}
}

// Stop stops one machine of this node, whether it is surplus or not, by the same protocol: soft
// cordon, closed gate, driver. It differs from a policy's stop in what can abort it. Only requests
// keep the machine from being stopped, and with Order.Drain not even those. A node that does not
// acknowledge the cordon within 30 s is not waited for any longer, since the gate sends its
// requests elsewhere. The minimums do not protect the machine: the caller decides what is to run
// instead, and starts it before.
//
// Stop returns nil when the run of m.Epoch (of any epoch if that is 0) has ended, also if it had
// ended before. A suspended machine counts as ended; Stop waits for one that is starting. A start
// that was asked for meanwhile is made afterwards. If the machine runs on, because it did not
// become idle or because the driver failed, the error matches [ErrBusy] and says why. When ctx
// ends, Stop returns its error and withdraws the order, if the gate has not closed by then. Stop
// needs Run, and waits for it; when Run ends first, the error says so.
func (d *Downscaler) Stop(ctx context.Context, m balance.Machine, o Order) error {
	switch {
	case d.fleet.Gate(m.App, m.ID) == nil:
		return fmt.Errorf(
			"downscale: stop of machine %q of app %q: node %q does not own it: ask its owner", m.ID, m.App,
			d.fleet.Node(),
		)
	case o.Drain < 0:
		return fmt.Errorf(
			"downscale: Order.Drain %v: want 0 (what is in flight keeps the machine running) or more",
			o.Drain,
		)
	case ctx.Err() != nil:
		return ctx.Err()
	case o.Reason == "":
		o.Reason = "by order"
	}
	w := &stopRequest{
		ctx: ctx, app: m.App, id: m.ID, epoch: m.Epoch, order: o, done: make(chan error, 1),
	}
	if !d.orders.put(w) {
		return errEnded
	}
	d.rouse()
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		d.rouse()
		return ctx.Err()
	}
}

// rouse makes Run look now.
func (d *Downscaler) rouse() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Drain ends all machines that this node owns; it is for shutting down. It closes every gate at
// once, waits until nothing is in flight behind it or ctx ends, and stops the machine. Suspended
// and starting machines are stopped too. When ctx ends it still stops the remaining machines,
// without waiting for requests, within [Config.StopTimeout]. The error names each machine that
// could not be stopped; such a machine runs on, and its gate is open again. During Drain nothing
// else is decided and no start is remembered, so whatever starts machines should have ended before.
// Drain does not need Run, but Run may be running.
func (d *Downscaler) Drain(ctx context.Context) error {
	d.draining.Add(1)
	defer d.draining.Add(-1)
	// Stops have their own bound: ctx limits how long requests may take, not whether machines are
	// stopped.
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

// RemoveMachine stops a machine of this node as [Downscaler.Stop] does, and takes it out of the
// fleet. From the call on nothing starts it. A suspended machine is stopped for good. When
// RemoveMachine returns an error, Stop's or the driver's, the machine stays in the fleet and may be
// started again. It needs Run, and waits for it.
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

// RemoveApp stops all machines of an app that this node owns, all at once and each as
// [Downscaler.RemoveMachine] does, and then takes the app out of this node's fleet. The error names
// the machines that could not be stopped; the app then stays, and those machines run on. Requests
// that wait for the app are told that there is no such app.
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

// rest brings a retired machine to rest.
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
