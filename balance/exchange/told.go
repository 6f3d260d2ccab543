package exchange

import (
	"context"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// told are rows that came by another way.
type told struct {
	node        balance.NodeID
	incarnation uint64
	rows        []balance.Machine
	done        chan struct{}
}

// Told takes in rows that a node has told of its machines by another way, as in the answer to an
// order: while the engine carries nothing, that is how a machine that was started is known to be
// ready. What the fleet holds of a later start, of a later incarnation or of another owner stays. It
// returns when the fleet has the rows. It needs Run, and returns ctx's error when that ends first.
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

// tell puts rows into the fleet that came by another way, as far as they are news.
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
			// what is refused comes again by the engine, and is told of then
			_ = l.rows.try(balance.PutMachine{Machine: m, Version: l.rows.next(t.incarnation)})
		}
	}
}

// news reports whether a row says more than the one that the fleet holds. Within one start only what
// leads out of starting is told by another way before the engine may bring it.
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

// Settled reports whether every edge that lives picks by all rows that this node has told. While the
// engine carries nothing, or not for long enough to have heard of all edges, it is false.
func (l *Link) Settled() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.follower.Acked(time.Now(), l.publisher.Seq())
}
