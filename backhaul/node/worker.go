package node

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/grants"
	"github.com/ebbkit/ebb/downscale"
)

// worker is the part of a node that has machines.
type worker struct {
	n       *Node
	driver  *drivers
	starter *machine.Starter
	scaler  *downscale.Downscaler
	granter *grants.Granter // nil where there are no others

	scaling context.Context // of the downscaler, which ends before other parts do
	stay    context.CancelFunc
	stays   chan struct{} // closed when nothing is scaled down any more
}

func (n *Node) newWorker() (w *worker, err error) {
	c := &n.config
	w = &worker{n: n, driver: newDrivers(c), stays: make(chan struct{})}
	w.scaling, w.stay = context.WithCancel(n.work)
	for _, a := range c.Apps {
		for i := range a.Machines {
			m := balance.Machine{ID: machineID(c.Node, a.ID, i), App: a.ID, Region: c.Region}
			if _, err := n.fleet.Host(m); err != nil {
				return nil, err
			}
		}
	}
	for _, a := range c.Apps { // a check that makes no sense is an error now, not at the first start
		if _, err := machine.NewStarter(n.fleet, w.driver, machine.Config{Check: a.Check}); err != nil {
			return nil, fmt.Errorf("node: app %q: %w", a.ID, err)
		}
	}
	starter := c.Starter
	starter.CheckOf = func(a balance.App) machine.Check {
		if own := c.app(a.ID); own != nil && !reflect.ValueOf(own.Check).IsZero() {
			return own.Check
		}
		return c.Starter.Check
	}
	n.report.Starter(&starter.Trace)
	if w.starter, err = machine.NewStarter(n.fleet, w.driver, starter); err != nil {
		return nil, err
	}
	down := c.Downscale
	down.Connections = &n.conns
	if n.peers != nil {
		down.Views = views{n.peers.link}
		if w.granter, err = grants.New(n.fleet, grants.Config{Give: n.give}); err != nil {
			return nil, err
		}
	}
	n.report.Downscale(&down.Trace)
	w.scaler, err = downscale.New(n.fleet, w.driver, down)
	return w, err
}

// machineID returns a machine's name, which no other node's machine has.
func machineID(node balance.NodeID, app balance.AppID, i int) balance.MachineID {
	return balance.MachineID(fmt.Sprintf("%s-%s-%d", app, node, i+1))
}

func (w *worker) run(run func(string, func(context.Context) error)) {
	run("starter", w.starter.Run)
	run("downscaler", func(context.Context) error {
		defer close(w.stays)
		return w.scaler.Run(w.scaling)
	})
	if w.granter != nil {
		run("granter", w.granter.Run)
	}
}

// toldWait bounds how long a node that shuts down waits until all others know that its machines are
// cordoned, and then that they have stopped. Requests of nodes that do not know yet are refused and
// retried elsewhere.
const toldWait = time.Second

// cordon has all nodes avoid this node's machines where others can serve. The downscaler ends
// first: it would take these cordons for its own of an earlier run, and release them.
func (w *worker) cordon(ctx context.Context) {
	if w.stay(); w.n.began() {
		select {
		case <-w.stays:
		case <-ctx.Done():
		}
	}
	type cordoned struct {
		of  balance.MachineKey
		gen uint64
	}
	var all []cordoned
	for _, app := range w.n.fleet.Apps() {
		for m, gate := range w.n.fleet.Owned(app) {
			if gen, ok := gate.Cordon(); ok { // one that does not run needs none
				all = append(all, cordoned{m.Key(), gen})
			}
		}
	}
	if w.n.peers == nil || len(all) == 0 {
		return
	}
	w.await(ctx, func() bool {
		return !slices.ContainsFunc(all, func(c cordoned) bool {
			return !w.n.peers.link.Acked(c.of.App, c.of.ID, c.gen)
		})
	})
}

// notify tells the long connections to this node's machines to end before ctx does, as far as their
// protocol allows: their clients will not come back here.
func (w *worker) notify(ctx context.Context) {
	within := cmp.Or(w.n.config.Grace, defaultGrace)
	if d, ok := ctx.Deadline(); ok {
		within = time.Until(d)
	}
	if ctx.Err() != nil || within <= 0 {
		return
	}
	for _, app := range w.n.fleet.Apps() {
		for m := range w.n.fleet.Owned(app) {
			w.n.conns.Notify(*m, balance.ClassAll, within)
		}
	}
}

// drain stops the machines, once nothing starts them any more, and waits until all edges know.
func (w *worker) drain(ctx context.Context) error {
	err := w.scaler.Drain(ctx)
	if w.n.peers != nil && w.n.began() {
		w.await(ctx, func() bool { return w.n.peers.link.Settled() })
	}
	return err
}

// await waits until so returns true, for no longer than toldWait.
func (w *worker) await(ctx context.Context, so func() bool) {
	ctx, cancel := context.WithTimeout(ctx, toldWait)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C: // a change takes a moment to be published
			if so() {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}
