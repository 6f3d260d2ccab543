package world

import (
	"context"
	"time"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/grants"
)

// For machines that take one to three requests at a time edges do not guess: they ask the owners
// for slots, and the owners grant them. Both messages take half a round trip.

// askGap is the least time between two messages of an edge: changes in between are sent together.
const askGap = 2 * time.Millisecond

// newGranter makes the worker's granter.
func (k *worker) newGranter() (err error) {
	k.granter, err = grants.New(k.fleet, grants.Config{Give: func(to balance.NodeID, g balance.Grant) {
		for _, e := range k.w.edges {
			if e.id == to {
				k.w.x.send(&k.node, &e.node, func() { e.balancer.AcceptGrant(g) })
			}
		}
	}})
	return err
}

// askSlots tells the owners how many requests wait here, whenever that changes, and periodically.
func (e *edge) askSlots(ctx context.Context) error {
	app := e.w.config.App.ID
	again, gap := time.NewTicker(reportEvery), time.NewTimer(askGap)
	defer again.Stop()
	defer gap.Stop()
	resting, changed := true, false // a gap begins with each message
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
			changed = true
		case <-e.parks:
			changed = true
		case <-gap.C:
			resting = false
		}
		if resting || !changed {
			continue
		}
		for owner, part := range e.balancer.Asks(app, e.auto.Parked(app)) {
			k := e.w.worker(owner)
			e.w.x.send(&e.node, &k.node, func() { k.granter.Ask(e.id, app, part) })
		}
		resting, changed = true, false
		gap.Reset(askGap)
	}
}

// traceParked observes the waiting requests.
func (e *edge) traceParked() autostart.Trace {
	return autostart.Trace{
		Parked:     func(balance.AppID, int) { e.parkedChanged() },
		HandedOver: func(balance.AppID, balance.MachineID, time.Duration) { e.parkedChanged() },
		Rejected:   func(balance.AppID, error) { e.parkedChanged() },
		Left:       func(balance.AppID, time.Duration) { e.parkedChanged() },
	}
}

// parkedChanged makes askSlots tell the owners how many requests wait.
func (e *edge) parkedChanged() {
	select {
	case e.parks <- struct{}{}:
	default:
	}
}

// giveBack carries a slot that could not be used back to its owner.
func (e *edge) giveBack(owner balance.NodeID, g balance.Grant) {
	k := e.w.worker(owner)
	e.w.x.send(&e.node, &k.node, func() { k.granter.Back(e.id, g) })
}
