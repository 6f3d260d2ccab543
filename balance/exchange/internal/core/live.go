package core

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange/internal/wire"
)

// up reports whether this node's own messages come back, so the engine is up.
func (f *Follower) up(now time.Time) bool {
	return !f.upSince.IsZero() && now.Sub(f.echo) < f.expire
}

// Settled reports whether the engine has been up for long enough that every live node was heard.
func (f *Follower) Settled(now time.Time) bool {
	return f.up(now) && now.Sub(f.upSince) >= f.expire
}

// expireSilent marks nodes as gone that have been silent for too long while the engine was up. If
// more than half are silent at once, this node is the one cut off, and none is marked.
func (f *Follower) expireSilent(now time.Time) {
	if !f.up(now) {
		f.upSince = time.Time{}
		return
	}
	live := 1 // this node
	var silent []*node
	for _, n := range f.nodes {
		if n.state != NodeLive {
			continue
		}
		live++
		since := n.heard
		if since.Before(f.upSince) {
			since = f.upSince
		}
		if now.Sub(since) >= f.expire {
			silent = append(silent, n)
		}
	}
	if 2*(live-len(silent)) < live {
		return
	}
	slices.SortFunc(silent, func(a, b *node) int { return cmp.Compare(a.Node, b.Node) })
	for _, n := range silent {
		n.state = NodeGone
		f.gone(n)
	}
}

// forgetGone drops nodes that have been gone for long, and their machines: names that are used once
// would pile up.
func (f *Follower) forgetGone(now time.Time) {
	for _, id := range f.Nodes() {
		n := f.nodes[id]
		after := forgetAfter
		if len(n.keys) == 0 {
			after = forgetEmpty
		}
		if n.state == NodeLive || n.asking.busy || now.Sub(n.heard) < after {
			continue
		}
		var rows []wire.Row
		for _, k := range sortedKeys(n.keys) {
			rows = append(rows, wire.Row{Removed: true, Machine: balance.Machine{App: k.App, ID: k.ID}})
		}
		f.apply(n, rows)
		delete(f.wanting, id)
		delete(f.nodes, id)
	}
}

// Missing says that an app was removed from this node's fleet, with the machines of others. Those
// that still exist are requested again.
func (f *Follower) Missing(now time.Time, app balance.AppID) {
	for _, n := range f.nodes {
		for k := range n.keys {
			if k.App == app {
				n.doubt, n.whole = true, false
				f.check(now, n)
				break
			}
		}
	}
}

// gone marks a node's machines as gone, and drops what the node said.
func (f *Follower) gone(n *node) {
	n.acks, n.ackSeq, n.demand, n.demandAt = nil, 0, nil, time.Time{}
	if len(n.keys) > 0 {
		f.do(Gone{n.Node, n.incarnation, sortedKeys(n.keys)})
	}
	f.notice(n)
}

// edges yields the nodes whose acknowledgements and demand count: those that may send requests and
// are not gone. A node that has not said its roles yet counts.
func (f *Follower) edges(yield func(*node) bool) {
	for _, n := range f.nodes {
		if n.state == NodeLive && (n.info.Edge || n.info.Seq == 0) && !yield(n) {
			return
		}
	}
}

// Acked reports whether every live edge picks by this node's rows as of message seq.
func (f *Follower) Acked(now time.Time, seq uint64) bool {
	if !f.Settled(now) {
		return false
	}
	for n := range f.edges {
		a, ok := n.acks[f.self]
		if !ok || a.Incarnation != f.incarnation || a.Seq < seq {
			return false
		}
	}
	return true
}

// Parked returns how many requests wait for an app at other nodes; fresh is false when some edge
// has not reported lately.
func (f *Follower) Parked(now time.Time, app balance.AppID) (parked int, fresh bool) {
	fresh = f.Settled(now)
	for n := range f.edges {
		fresh = fresh && now.Sub(n.demandAt) < demandFor
		parked += n.demand[app].Parked
	}
	return parked, fresh
}

// Others returns how many of an app's requests other nodes have that count in a region.
func (f *Follower) Others(now time.Time, app balance.AppID, region string) (sum int) {
	for n := range f.edges {
		if d := n.demand[app]; d.Home == region && now.Sub(n.demandAt) < demandFor {
			sum += d.InFlight + d.Parked
		}
	}
	return sum
}

// Applied returns how far this node has applied the rows of those nodes, in their order.
func (f *Follower) Applied(of []balance.NodeID) (as []wire.Ack) {
	for _, id := range of {
		if n := f.nodes[id]; n != nil && n.whole && n.state == NodeLive {
			as = append(as, wire.Ack{Node: id, Incarnation: n.incarnation, Seq: n.applied})
		}
	}
	return as
}

// Node is what is known of another node.
type Node struct {
	Sender
	Incarnation uint64
	State       NodeState
	Heard       time.Time
	Info        wire.Load
	Machines    int
	Behind      bool
	Acked       wire.Ack // of this node's rows
}

// Node returns what is known of one node.
func (f *Follower) Node(id balance.NodeID) (Node, bool) {
	n, ok := f.nodes[id]
	if !ok {
		return Node{}, false
	}
	return f.show(n), true
}

func (f *Follower) show(n *node) Node {
	return Node{
		Sender: n.Sender, Incarnation: n.incarnation, State: n.state, Heard: n.heard, Info: n.info,
		Machines: len(n.keys), Behind: n.behind(), Acked: n.acks[f.self],
	}
}

// Nodes returns the IDs of all other nodes, sorted.
func (f *Follower) Nodes() []balance.NodeID { return slices.Sorted(maps.Keys(f.nodes)) }
