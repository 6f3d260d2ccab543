package rtt

import (
	"iter"
	"slices"
	"strings"
	"time"
)

// Table is everything a node knows about distances at one moment: its measurements, and the order of regions and nodes. It
// never changes, so it is read without locks; load a new one with
// [Mesh.Table] for every decision and do not look twice.
type Table struct {
	self    Node
	at      time.Time
	rows    []row // own, by ID
	regions []Region
	index   map[string]int // of regions
	nodes   []Place
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

// All yields the peers, by ID, with what is known of the way to each.
func (t *Table) All() iter.Seq2[Node, Stat] {
	return func(yield func(Node, Stat) bool) {
		for i := range t.rows {
			if !yield(*t.rows[i].node, t.rows[i].stat) {
				return
			}
		}
	}
}
