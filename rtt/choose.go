package rtt

import (
	"cmp"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// choose returns which nodes are probed: all when they are no more than max, else as many from every region in turn,
// each node taking those that rendezvous hashing gives it, so that the nodes of one region probe different ones of
// another. Nodes without an ID, the node itself and repeated IDs are left out. The result is sorted by ID.
func choose(self string, nodes []Node, max int) []Node {
	out := make([]Node, 0, len(nodes))
	for _, n := range nodes {
		if n.ID != "" && n.ID != self && len(n.ID) <= maxName && len(n.Region) <= maxName {
			out = append(out, n)
		}
	}
	byID := func(a, b Node) int { return cmp.Compare(a.ID, b.ID) }
	slices.SortStableFunc(out, byID)
	out = slices.CompactFunc(out, func(a, b Node) bool { return a.ID == b.ID })
	if len(out) <= max {
		return out
	}

	type ranked struct {
		Node
		hash uint64
		rank int // within its region
	}
	rs := make([]ranked, len(out))
	for i, n := range out {
		rs[i] = ranked{Node: n, hash: xxhash.Sum64String(self + "\x00" + n.ID)}
	}
	slices.SortFunc(rs, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(a.Region, b.Region), cmp.Compare(a.hash, b.hash), cmp.Compare(a.ID, b.ID))
	})
	for i := range rs {
		if i > 0 && rs[i].Region == rs[i-1].Region {
			rs[i].rank = rs[i-1].rank + 1
		}
	}
	slices.SortFunc(rs, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.hash, b.hash), cmp.Compare(a.ID, b.ID))
	})
	out = out[:max]
	for i := range out {
		out[i] = rs[i].Node
	}
	slices.SortFunc(out, byID)
	return out
}
