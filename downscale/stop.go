package downscale

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale/cordon"
)

// Order says how a machine is to be stopped that need not be surplus: for a deploy, for
// maintenance, by another rule than the policy's. The zero value asks politely.
type Order struct {
	Reason  string // a sentence for people
	Suspend bool   // suspend rather than stop, where the driver can
	// Drain is how long what is in flight may take once the gate has closed over it and its long
	// connections have been told; what is left then is cut off, and the machine is stopped even
	// where it was to be suspended. With 0 the gate only closes when nothing is in flight, and a
	// machine that does not become idle within 30 s is left running.
	Drain time.Duration
}

// ErrBusy is what [Downscaler.Stop] answers when the machine runs on.
var ErrBusy = errors.New("downscale: the machine runs on")

// errEnded is what orders end with that outlive Run.
var errEnded = errors.New("downscale: Run has ended before the machine had stopped")

// Stop stops one machine of this node, whether it is surplus or not, on the same safe way: soft
// cordon, closed gate, driver. It differs from what a policy decides in what may come in between.
// Only requests, and nothing else, keep the machine from being stopped, and with Order.Drain not
// even those; nodes that do not acknowledge the cordon within 30 s are not waited for any longer,
// since the gate sends their requests elsewhere. The minimums do not protect the
// machine: whoever orders says what is to be there instead, and has it started before.
//
// Stop returns nil when the run of m.Epoch has ended, or of any epoch where that is 0, also if it
// had before; a suspended machine counts as ended, one that starts is waited for. A start that
// somebody wanted meanwhile is done afterwards. The error matches [ErrBusy] and says why when the
// machine runs on, because it did not become idle or because the driver could not. When ctx ends,
// Stop returns its error and the order is withdrawn, if the gate has not closed by then. Stop
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

// rouse has Run look now.
func (d *Downscaler) rouse() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// stopRequest is an order on its way to Run, and in its hands.
type stopRequest struct {
	ctx   context.Context
	app   balance.AppID
	id    balance.MachineID
	epoch uint64
	order Order
	done  chan error // holds one
}

// orders are those that Run has not taken yet.
type orders struct {
	mu    sync.Mutex
	list  []*stopRequest
	ended bool // Run has, and takes no more
}

func (o *orders) put(w *stopRequest) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.ended {
		o.list = append(o.list, w)
	}
	return !o.ended
}

// end lets no further order in and returns those that are left.
func (o *orders) end() []*stopRequest {
	o.mu.Lock()
	o.ended = true
	o.mu.Unlock()
	return o.take()
}

// take empties the list.
func (o *orders) take() []*stopRequest {
	o.mu.Lock()
	defer o.mu.Unlock()
	list := o.list
	o.list = nil
	return list
}

// accept hands new orders to their machines, which the tick before has found.
func (r *run) accept(list []*stopRequest) {
	for _, w := range list {
		var m *machine
		if a := r.apps[w.app]; a != nil {
			m = a.byID[w.id]
		}
		if m == nil || m.gate == nil {
			w.done <- fmt.Errorf("%w: %s has left the fleet", ErrBusy, w.id)
			continue
		}
		m.orders = append(m.orders, w)
	}
}

// obey tells a machine's state machine what is ordered, again on each look, until it is done or
// given up.
func (r *run) obey(m *machine, now time.Time, l balance.Load) {
	kept := m.orders[:0]
	for _, w := range m.orders {
		over := w.epoch != 0 && w.epoch != l.Epoch || l.State.Startable()
		switch {
		case w.ctx.Err() != nil:
		case over && !m.core.Cordon.Closed():
			w.done <- nil
		default:
			kept = append(kept, w)
		}
	}
	clear(m.orders[len(kept):])
	if m.orders = kept; len(kept) == 0 {
		m.orders = nil
		r.follow(m, now, m.core.Cordon.Withdraw(now))
		return
	}
	for _, w := range slices.Clone(kept) { // a command may end them
		r.follow(m, now, m.core.Cordon.Order(now, cordon.Order(w.order)))
	}
	m.obeying = len(m.orders) > 0 && !m.core.Cordon.Resting()
}

// hear looks at machines with orders at once, and not only on the next tick.
func (r *run) hear(now time.Time) {
	for _, a := range r.apps {
		for _, m := range a.machines {
			if len(m.orders) > 0 && !m.obeying {
				r.observe(m, now)
			}
		}
	}
}

// settle answers the orders of a machine that has come to rest.
func (m *machine) settle() {
	switch {
	case !m.obeying || !m.core.Cordon.Resting():
	case m.core.Cordon.Running():
		m.dismiss(fmt.Errorf("%w: %v: %s", ErrBusy, m.row.Key(), m.core.Cordon.Reason()))
	default:
		m.dismiss(nil)
	}
}

// dismiss answers all orders of a machine.
func (m *machine) dismiss(err error) {
	for _, w := range m.orders {
		w.done <- err
	}
	m.orders, m.obeying = nil, false
}
