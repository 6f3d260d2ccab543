package exchange

import (
	"context"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// told are rows that did not come through the engine.
type told struct {
	node        balance.NodeID
	incarnation uint64
	rows        []balance.Machine
	done        chan struct{}
}

// Told applies rows that a node sent of its machines by another way than the engine, as in the
// answer to an order. While the engine carries nothing, that is how this node learns that a started
// machine is ready. What the fleet holds of a later start, of a later incarnation or of another
// owner stays. Told returns when the fleet has the rows. It needs Run, and returns ctx's error when
// ctx ends first.
func (l *Link) Told(
	ctx context.Context, node balance.NodeID, incarnation uint64, rows ...balance.Machine,
) error {
	t := told{node, incarnation, rows, make(chan struct{})}
	l.inbox.add(t)
	select {
	case <-t.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// tell puts rows that did not come through the engine into the fleet, as far as they are newer.
func (l *Link) tell(t told) {
	defer close(t.done)
	l.mu.Lock()
	n, known := l.follower.Node(t.node)
	l.mu.Unlock()
	if t.node == l.fleet.Node() || known && t.incarnation < n.Incarnation {
		return
	}
	for _, m := range t.rows {
		m.Owner = t.node
		if l.news(&m) {
			// A refused row comes again through the engine, and is reported then.
			_ = l.rows.try(balance.PutMachine{Machine: m, Version: l.rows.next(t.incarnation)})
		}
	}
}

// news reports whether a row is newer than the one that the fleet holds. Within one start, only a
// change out of the starting state is accepted before the engine may bring it.
func (l *Link) news(m *balance.Machine) bool {
	held, ok := l.rows.held(m.Key())
	switch {
	case !ok:
		return true
	case held.Owner != m.Owner:
		return held.State == balance.StateGone
	case held.State == balance.StateGone:
		return true
	case held.Epoch != m.Epoch:
		return held.Epoch < m.Epoch
	case held.CordonGen > m.CordonGen:
		return false
	}
	return held.State == balance.StateStarting || m.State != balance.StateStarting
}

// Settled reports whether every live edge picks by all rows that this node has sent. While the
// engine carries nothing, or not yet for long enough to have heard all edges, it is false.
func (l *Link) Settled() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.follower.Acked(time.Now(), l.publisher.Seq())
}
