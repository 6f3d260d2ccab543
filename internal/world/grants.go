package world

import (
	"context"
	"time"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/grants"
)

// Machines that take one to three requests at a time are not guessed: edges ask their owners for slots, and owners grant
// them. Both messages take half a round trip.

// askGap is the least time between two askings of an edge: what changes meanwhile is said together.
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

// askSlots tells the owners how many requests wait here, whenever that changes, and now and then.
func (e *edge) askSlots(ctx context.Context) error {
	app := e.w.config.App.ID
	again, gap := time.NewTicker(reportEvery), time.NewTimer(askGap)
	defer again.Stop()
	defer gap.Stop()
	resting, changed := true, false // a gap begins with each asking
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

// traceParked hears of those who wait.
func (e *edge) traceParked() autostart.Trace {
	return autostart.Trace{
		Parked:     func(balance.AppID, int) { e.parkedChanged() },
		HandedOver: func(balance.AppID, balance.MachineID, time.Duration) { e.parkedChanged() },
		Rejected:   func(balance.AppID, error) { e.parkedChanged() },
		Left:       func(balance.AppID, time.Duration) { e.parkedChanged() },
	}
}

// parkedChanged has the owners told how many wait.
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
