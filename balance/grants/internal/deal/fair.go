package balance

import (
	"cmp"
	"slices"
)

// slots decides which node gets the next free slot of an app's machines on this owner. It is not safe for concurrent use.
//
// A node with more requests waiting than slots on their way comes first, the one that lacks most of all. When nobody
// lacks any, free slots go to the nodes in turn, so that each has one at hand before it asks.
type slots struct {
	nodes []asking // sorted by node
	turn  int
}

// asking is what one node has said, and what it has been given and has not used.
type asking struct {
	node   NodeID
	parked int // negative: none, and it wants no slot at hand
	held   int
	until  int64 // what it said counts until then, in nanoseconds of the caller's clock
}

// ask notes how many requests wait at a node.
func (s *slots) ask(node NodeID, parked int, until int64) {
	i, ok := slices.BinarySearchFunc(s.nodes, node, func(a asking, n NodeID) int { return cmp.Compare(a.node, n) })
	if !ok {
		s.nodes = slices.Insert(s.nodes, i, asking{node: node})
	}
	s.nodes[i].parked, s.nodes[i].until = parked, until
}

// hold notes that a node was given slots, or has used or lost them.
func (s *slots) hold(node NodeID, n int) {
	for i := range s.nodes {
		if s.nodes[i].node == node {
			s.nodes[i].held += n
			if n > 0 {
				s.turn = i + 1
			}
		}
	}
}

// expire forgets nodes that have not spoken for long and hold nothing.
func (s *slots) expire(now int64) {
	s.nodes = slices.DeleteFunc(s.nodes, func(a asking) bool { return a.until < now && a.held == 0 })
	for i := range s.nodes {
		if s.nodes[i].until < now {
			s.nodes[i].parked = 0
		}
	}
}

// next returns the node that gets a free slot; ok is false when none should have it.
func (s *slots) next(now int64) (node NodeID, lacks bool, ok bool) {
	best, most := -1, 0
	for i := range s.nodes {
		j := (s.turn + i) % len(s.nodes)
		if a := &s.nodes[j]; a.until >= now && a.parked-a.held > most {
			best, most = j, a.parked-a.held
		}
	}
	for i := 0; i < len(s.nodes) && best < 0; i++ {
		j := (s.turn + i) % len(s.nodes)
		if a := &s.nodes[j]; a.until >= now && a.held == 0 && a.parked >= 0 {
			best = j
		}
	}
	if best < 0 {
		return "", false, false
	}
	return s.nodes[best].node, most > 0, true
}

// idle reports whether what a node holds may be taken from it: nothing waits there.
func (s *slots) idle(node NodeID) bool {
	return !slices.ContainsFunc(s.nodes, func(a asking) bool { return a.node == node && a.parked > 0 })
}
