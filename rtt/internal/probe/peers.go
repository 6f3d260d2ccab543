package probe

import (
	"cmp"
	"container/heap"
	"net/netip"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/ebbkit/ebb/rtt/internal/estimate"
)

// MaxName is the longest ID or region of a node that is accepted, in bytes.
const MaxName = 255

// Node is a member of the mesh. Its fields are those of the type that package rtt exports.
type Node struct {
	ID     string
	Region string
	Addr   netip.AddrPort
	TCP    netip.AddrPort
	HTTP   string
}

// peer is the state kept about one node.
type peer struct {
	node     *Node // never changed in place: rows share it
	path     uint8 // rises when the address changes
	busy     bool  // a probe that is not UDP is under way
	est      estimate.Estimator
	pace     pace
	fallback fallback
	seq      uint64
	far      uint64 // session that answered last
	inflight inflight

	at    time.Time // when something is due; at and index belong to the agenda
	index int       // its position in the agenda; -1 when it is not there
}

// due returns when p has to be looked at next; mono is the monotonic reading of now.
func (p *peer) due(now time.Time, mono time.Duration) time.Time {
	if d, ok := p.inflight.due(); ok {
		if at := now.Add(d - mono); at.Before(p.pace.next) {
			return at
		}
	}
	return p.pace.next
}

// agenda is a heap of peers by when they are due. The zero value is empty.
type agenda []*peer

// set puts p at the given time, moving it if it is there.
func (a *agenda) set(p *peer, at time.Time) {
	p.at = at
	if p.index < 0 {
		heap.Push(a, p)
		return
	}
	heap.Fix(a, p.index)
}

// remove takes p out, if it is there.
func (a *agenda) remove(p *peer) {
	if p.index >= 0 {
		heap.Remove(a, p.index)
	}
}

// Len implements heap.Interface, as do the methods below.
func (a agenda) Len() int           { return len(a) }
func (a agenda) Less(i, j int) bool { return a[i].at.Before(a[j].at) }

func (a agenda) Swap(i, j int) {
	a[i], a[j] = a[j], a[i]
	a[i].index, a[j].index = i, j
}

// Push implements heap.Interface.
func (a *agenda) Push(x any) {
	p := x.(*peer)
	p.index = len(*a)
	*a = append(*a, p)
}

// Pop implements heap.Interface.
func (a *agenda) Pop() any {
	last := len(*a) - 1
	p := (*a)[last]
	p.index = -1
	(*a)[last] = nil
	*a = (*a)[:last]
	return p
}

// Choose returns which nodes are probed: all if there are no more than most, else an equal number
// from every region in turn. Each node takes those that rendezvous hashing gives it, so that the
// nodes of one region probe different nodes of another. Nodes without an ID, the node itself and
// repeated IDs are left out. The result is sorted by ID.
func Choose(self string, nodes []Node, most int) []Node {
	out := make([]Node, 0, len(nodes))
	for _, n := range nodes {
		if n.ID != "" && n.ID != self && len(n.ID) <= MaxName && len(n.Region) <= MaxName {
			out = append(out, n)
		}
	}
	byID := func(a, b Node) int { return cmp.Compare(a.ID, b.ID) }
	slices.SortStableFunc(out, byID)
	out = slices.CompactFunc(out, func(a, b Node) bool { return a.ID == b.ID })
	if len(out) <= most {
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
		return cmp.Or(cmp.Compare(a.Region, b.Region), cmp.Compare(a.hash, b.hash),
			cmp.Compare(a.ID, b.ID))
	})
	for i := range rs {
		if i > 0 && rs[i].Region == rs[i-1].Region {
			rs[i].rank = rs[i-1].rank + 1
		}
	}
	slices.SortFunc(rs, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.hash, b.hash),
			cmp.Compare(a.ID, b.ID))
	})
	out = out[:most]
	for i := range out {
		out[i] = rs[i].Node
	}
	slices.SortFunc(out, byID)
	return out
}
