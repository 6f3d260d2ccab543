package rtt

import (
	"iter"
	"slices"
	"strings"
	"time"
)

// Table is everything a node knows about distances at one moment: its own measurements, those of nodes that shared
// theirs, and the order of regions and nodes. It never changes, so it is read without locks; load a new one with
// [Mesh.Table] for every decision and do not look twice.
type Table struct {
	self    Node
	at      time.Time
	rows    []row // own, by ID
	regions []Region
	index   map[string]int // of regions
	nodes   []Place
	shared  map[string]gathered
	bad     []Disagreement
	off     []string
}

type row struct {
	node *Node
	stat Stat
	lost bool // by its own probes, whatever stat says after mass silence
}

// Region is the way to the nearest node of a region.
type Region struct {
	Place
	Base    time.Duration // measured; RTT of the place is this, or what keeps the order calm
	Node    string        // the nearest fresh node
	Nodes   int           // nodes of the region that are peers
	Usable  int           // of them known and not lost
	Source  Source
	State   State
	Sampled int // samples behind Base
}

// Pair is one cell of the matrix.
type Pair struct {
	From, FromRegion string
	To, ToRegion     string
	Stat
}

// At returns when the table was made.
func (t *Table) At() time.Time { return t.at }

// Self returns the node whose table this is.
func (t *Table) Self() Node { return t.self }

// RTT returns the base round trip to the nearest node of a region: of its fresh nodes the one with the least base, of
// its stale ones when none is fresh. The own region is 0, true: that is known, not measured, and stays so when a
// neighbour is lost. A region never measured, or whose nodes are all lost, is 0, false; that is not near, sort it last.
//
// Sorting regions by RTT gives the order of [Table.Regions], with its hysteresis: a region that is held behind another
// reads as that other's round trip. It takes one map access and no lock.
func (t *Table) RTT(region string) (time.Duration, bool) {
	if region == t.self.Region {
		return 0, true
	}
	i, ok := t.index[region]
	if !ok || !t.regions[i].Known {
		return 0, false
	}
	return t.regions[i].Place.RTT, true
}

// Regions returns all other regions in their order: measured ones from near to far, then those never measured, then
// those lost. The slice is shared and must not be changed.
func (t *Table) Regions() []Region { return t.regions }

// Region returns the way to one other region.
func (t *Table) Region(name string) (Region, bool) {
	i, ok := t.index[name]
	if !ok {
		return Region{}, false
	}
	return t.regions[i], true
}

// Nodes returns all peers in their order. The slice is shared and must not be changed.
func (t *Table) Nodes() []Place { return t.nodes }

// To returns what is known of the way from this node to a peer, false when it is no peer.
func (t *Table) To(id string) (Stat, bool) {
	i, ok := t.find(id)
	if !ok {
		return Stat{}, false
	}
	return t.rows[i].stat, true
}

func (t *Table) find(id string) (int, bool) {
	return slices.BinarySearchFunc(t.rows, id, func(r row, id string) int { return strings.Compare(r.node.ID, id) })
}

// Between returns what from measured of the way to another node, false when that is not known here. A node's way to
// itself is a Stat with base 0 and true.
func (t *Table) Between(from, to string) (Stat, bool) {
	if from == t.self.ID {
		if to == from {
			return Stat{State: StateFresh}, true
		}
		return t.To(to)
	}
	g, ok := t.shared[from]
	if !ok {
		return Stat{}, false
	}
	if to == from {
		return Stat{State: StateFresh}, true
	}
	e := g.find(to)
	if e == nil {
		return Stat{}, false
	}
	return e.stat(t.at.Sub(g.at)), true
}

// BetweenRegions returns the least known base from any node of one region to any of another, 0 and true when they are
// one region. It looks through all vectors of the region.
func (t *Table) BetweenRegions(from, to string) (time.Duration, bool) {
	if from == to {
		return 0, true
	}
	best := time.Duration(0)
	for p := range t.Pairs() {
		if p.FromRegion == from && p.ToRegion == to && p.Known() && (best == 0 || p.Base < best) {
			best = p.Base
		}
	}
	return best, best > 0
}

// Pairs yields every pair that was measured, by this node and by those that shared their vectors, ordered by From and
// then To. The rows of this node come first.
func (t *Table) Pairs() iter.Seq[Pair] {
	return func(yield func(Pair) bool) {
		for _, r := range t.rows {
			if !yield(Pair{t.self.ID, t.self.Region, r.node.ID, r.node.Region, r.stat}) {
				return
			}
		}
		from := make([]string, 0, len(t.shared))
		for id := range t.shared {
			from = append(from, id)
		}
		slices.Sort(from)
		for _, id := range from {
			g := t.shared[id]
			since := t.at.Sub(g.at)
			for i := range g.Entries {
				e := &g.Entries[i]
				if !yield(Pair{id, g.Region, e.To, e.Region, e.stat(since)}) {
					return
				}
			}
		}
	}
}

// Disagreements returns the pairs of this node and a peer whose two measurements have been more than 10 ms apart for
// a minute. When the near one rests on the peer's word, the far one counts in the order.
func (t *Table) Disagreements() []Disagreement { return t.bad }

// Off returns the nodes whose view is off: more than half of their pairs, and at least two, disagree by more than 10 ms.
func (t *Table) Off() []string { return t.off }
