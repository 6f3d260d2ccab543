package deal

import (
	"cmp"
	"slices"

	"github.com/ebbkit/ebb/balance"
)

// turns decides which node gets the next free slot of an app's machines on this owner. It is not
// safe for concurrent use.
//
// A node with more requests waiting than slots on their way comes first, the one with the largest
// shortage before the others. If no node has a shortage, free slots go to the nodes in turn, so
// that each has one at hand before it asks.
type turns struct {
	nodes []asking // sorted by node
	turn  int
}

// asking is what one node has asked for, and what it has been given and has not used.
type asking struct {
	node   balance.NodeID
	parked int // negative: none, and it wants no slot at hand
	held   int
	until  int64 // the request counts until then, in nanoseconds of the caller's clock
}

// ask records how many requests wait at a node.
func (t *turns) ask(node balance.NodeID, parked int, until int64) {
	i, ok := slices.BinarySearchFunc(t.nodes, node, func(a asking, n balance.NodeID) int {
		return cmp.Compare(a.node, n)
	})
	if !ok {
		t.nodes = slices.Insert(t.nodes, i, asking{node: node})
	}
	t.nodes[i].parked, t.nodes[i].until = parked, until
}

// hold records that a node was given slots, or has used or lost them.
func (t *turns) hold(node balance.NodeID, n int) {
	for i := range t.nodes {
		if t.nodes[i].node == node {
			t.nodes[i].held += n
			if n > 0 {
				t.turn = i + 1
			}
		}
	}
}

// expire forgets nodes that have not asked for long and hold nothing.
func (t *turns) expire(now int64) {
	t.nodes = slices.DeleteFunc(t.nodes, func(a asking) bool { return a.until < now && a.held == 0 })
	for i := range t.nodes {
		if t.nodes[i].until < now {
			t.nodes[i].parked = 0
		}
	}
}

// next returns the node that gets a free slot; ok is false when none should have it.
func (t *turns) next(now int64) (node balance.NodeID, lacks bool, ok bool) {
	best, most := -1, 0
	for i := range t.nodes {
		j := (t.turn + i) % len(t.nodes)
		if a := &t.nodes[j]; a.until >= now && a.parked-a.held > most {
			best, most = j, a.parked-a.held
		}
	}
	for i := 0; i < len(t.nodes) && best < 0; i++ {
		j := (t.turn + i) % len(t.nodes)
		if a := &t.nodes[j]; a.until >= now && a.held == 0 && a.parked >= 0 {
			best = j
		}
	}
	if best < 0 {
		return "", false, false
	}
	return t.nodes[best].node, most > 0, true
}

// idle reports whether a node's slots may be taken back because nothing waits there.
func (t *turns) idle(node balance.NodeID) bool {
	return !slices.ContainsFunc(t.nodes, func(a asking) bool { return a.node == node && a.parked > 0 })
}
