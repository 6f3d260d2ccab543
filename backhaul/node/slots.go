package node

import (
	"context"
	"sync"
	"time"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/report"
)

// Edges do not guess the load of machines that take one to three requests at a time: they ask the
// machines' owners for slots, and the owners grant them.

const (
	// askEvery is how often owners are told how many requests wait, changed or not: a node that is
	// silent gets no slots.
	askEvery = 200 * time.Millisecond
	// askGap is the least time between two asks; changes within it are sent together.
	askGap = 2 * time.Millisecond
)

// asker tells owners how many requests wait at this edge.
type asker struct {
	n    *Node
	wake chan struct{}

	mu      sync.Mutex
	changed map[balance.AppID]struct{} // whose number of waiting requests has changed
	granted map[balance.AppID]struct{} // that have machines whose slots are granted
}

func newAsker(n *Node) *asker {
	return &asker{
		n: n, wake: make(chan struct{}, 1), changed: map[balance.AppID]struct{}{},
		granted: map[balance.AppID]struct{}{},
	}
}

// listen hooks the asker into the trace of the waiting room.
func (a *asker) listen(t *autostart.Trace) {
	report.Then2(&t.Parked, func(app balance.AppID, _ int) { a.poke(app) })
	report.Then3(
		&t.HandedOver, func(app balance.AppID, _ balance.MachineID, _ time.Duration) { a.poke(app) },
	)
	report.Then2(&t.Rejected, func(app balance.AppID, _ error) { a.poke(app) })
	report.Then2(&t.Left, func(app balance.AppID, _ time.Duration) { a.poke(app) })
}

func (a *asker) poke(app balance.AppID) {
	a.mu.Lock()
	_, granted := a.granted[app]
	if granted {
		a.changed[app] = struct{}{}
	}
	a.mu.Unlock()
	if granted {
		select {
		case a.wake <- struct{}{}:
		default:
		}
	}
}

// rows notes whether slots of an app's machines are granted.
func (a *asker) rows(app balance.AppID) {
	granted := false
	if rows, ok := a.n.fleet.App(app); ok {
		settings := rows.App()
		for m := range rows.All() {
			if granted = settings.LimitsOf(*m).Granted(); granted {
				break
			}
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !granted {
		delete(a.granted, app)
		return
	}
	a.granted[app] = struct{}{}
}

// run asks until ctx ends.
func (a *asker) run(ctx context.Context) error {
	stop := a.n.fleet.OnChange(a.rows)
	defer stop()
	for _, app := range a.n.fleet.Apps() {
		a.rows(app)
	}
	again, gap := time.NewTicker(askEvery), time.NewTimer(askGap)
	defer again.Stop()
	defer gap.Stop()
	for {
		all := false
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
			all = true
		case <-a.wake:
		}
		for app := range a.due(all) {
			a.ask(app)
		}
		gap.Reset(askGap)
		select {
		case <-ctx.Done():
			return nil
		case <-gap.C:
		}
	}
}

func (a *asker) due(all bool) map[balance.AppID]struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	due := a.changed
	a.changed = map[balance.AppID]struct{}{}
	if all {
		for app := range a.granted {
			due[app] = struct{}{}
		}
	}
	return due
}

func (a *asker) ask(app balance.AppID) {
	e := a.n.edge
	for owner, part := range e.balancer.Asks(app, e.auto.Parked(app)) {
		if owner != a.n.config.Node {
			e.talks.Ask(owner, app, part)
		} else if w := a.n.worker; w != nil {
			w.granter.Ask(owner, app, part)
		}
	}
}

// giveBack returns a slot that could not be used to its owner.
func (n *Node) giveBack(owner balance.NodeID, g balance.Grant) {
	if owner != n.config.Node {
		n.edge.talks.Back(owner, g)
	} else if n.worker != nil {
		n.worker.granter.Back(owner, g)
	}
}

// give sends a grant to an edge.
func (n *Node) give(to balance.NodeID, g balance.Grant) {
	if to != n.config.Node {
		n.orders.Give(to, g)
	} else if n.edge != nil {
		n.edge.balancer.AcceptGrant(g)
	}
}
