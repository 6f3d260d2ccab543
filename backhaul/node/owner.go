package node

import (
	"context"
	"errors"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/backhaul/node/internal/orders"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale"
)

// owners reaches the owner of any machine: this node directly, another one by orders. It implements
// [autostart.Owner].
type owners struct {
	n      *Node
	orders *orders.Client
}

var _ autostart.Owner = owners{}

func (o owners) own(m balance.Machine) bool {
	return o.n.worker != nil && o.n.fleet.Gate(m.App, m.ID) != nil
}

// Start implements [autostart.Owner].
func (o owners) Start(ctx context.Context, m balance.Machine) (balance.StartAnswer, error) {
	if o.own(m) || o.orders == nil {
		return o.n.worker.starter.Start(ctx, m)
	}
	return o.orders.Start(ctx, m)
}

// Recall implements [autostart.Owner].
func (o owners) Recall(ctx context.Context, m balance.Machine) error {
	if o.own(m) || o.orders == nil {
		return o.n.worker.starter.Recall(ctx, m)
	}
	return o.orders.Recall(ctx, m)
}

// Stop stops a machine of this node or of another.
func (o owners) Stop(ctx context.Context, m balance.Machine, how downscale.Order) error {
	if o.own(m) || o.orders == nil {
		return o.n.worker.scaler.Stop(ctx, m, how)
	}
	return o.orders.Stop(ctx, m, how)
}

// served returns what this node does for others.
func (n *Node) served() orders.Owner {
	o := orders.Owner{
		Row: n.row, App: n.app, OnChange: n.fleet.OnChange,
		Start: func(context.Context, balance.Machine) (balance.StartAnswer, error) {
			return balance.StartRefused, errNoWorker
		},
		Recall: func(context.Context, balance.Machine) error { return errNoWorker },
		Stop:   func(context.Context, balance.Machine, downscale.Order) error { return errNoWorker },
		Ask:    func(balance.NodeID, balance.AppID, int) {},
		Back:   func(balance.NodeID, balance.Grant) {},
	}
	if w := n.worker; w != nil {
		o.Stop = w.scaler.Stop
		o.Start = func(ctx context.Context, m balance.Machine) (balance.StartAnswer, error) {
			if n.ending.Load() {
				return balance.StartRefused, errEnding
			}
			return w.starter.Start(ctx, m)
		}
		o.Recall = func(ctx context.Context, m balance.Machine) error {
			if n.ending.Load() {
				return errEnding
			}
			return w.starter.Recall(ctx, m)
		}
		o.Ask, o.Back = w.granter.Ask, w.granter.Back
	}
	return o
}

var (
	errNoWorker = errors.New("node: this node hosts no machines")
	errEnding   = errors.New("node: this node is about to end: start a machine of another one")
)

// row returns the row of a machine of this node.
func (n *Node) row(app balance.AppID, id balance.MachineID) (r orders.Row, ok bool) {
	if n.fleet.Gate(app, id) == nil {
		return r, false
	}
	rows, ok := n.fleet.App(app)
	if !ok {
		return r, false
	}
	m, ok := rows.Machine(id)
	return orders.Row{Machine: m, Incarnation: n.peers.link.Incarnation()}, ok
}

// app returns an app as this node knows it, with the rows of its own machines.
func (n *Node) app(id balance.AppID) (app balance.App, rows []orders.Row, ok bool) {
	snap, ok := n.fleet.App(id)
	if !ok || !known(snap) {
		return app, nil, false
	}
	for m := range n.fleet.Owned(id) {
		rows = append(rows, orders.Row{Machine: *m, Incarnation: n.peers.link.Incarnation()})
	}
	return snap.App(), rows, true
}

// told applies a row that came with an answer.
func (n *Node) told(r orders.Row) {
	// An error means that the node ends.
	_ = n.peers.link.Told(n.work, r.Machine.Owner, r.Incarnation, r.Machine)
}
