package rtt

import (
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/ebbkit/ebb/rtt/internal/probe"
)

// Table is everything that a node knows about distances at one moment: its measurements, and the
// regions in their order. It never changes, so it is read without locks. Load it once with
// [Mesh.Table] for every decision.
type Table struct {
	own     string      // region
	rows    []probe.Row // by ID
	regions []Region
	index   map[string]int // of regions
}

// Region is the way to the nearest node of a region.
type Region struct {
	Name string
	// RTT rises along the order. It is Base, except that a region held behind another has the
	// other's value (plus a nanosecond per step). So sorting by RTT gives this order, hysteresis
	// included.
	RTT   time.Duration
	Group int  // regions of equal Group are near-equals; groups count from 0
	Known bool // RTT may be used; false for the lost and the never measured

	Base    time.Duration // as measured
	Node    string        // the nearest fresh node
	Nodes   int           // nodes of the region that are peers
	Usable  int           // those of them that are known and not lost
	Source  string        // as in [Stat]
	State   State
	Samples int // behind Base
}

// newTable keeps rows and regions.
func newTable(own string, rows []probe.Row, regions []probe.Region) *Table {
	t := &Table{own: own, rows: rows}
	t.regions = make([]Region, len(regions))
	t.index = make(map[string]int, len(regions))
	for i, g := range regions {
		t.regions[i] = Region{
			Name: g.Name, RTT: g.RTT, Group: g.Group, Known: g.Known,
			Base: g.Base, Node: g.Node, Nodes: g.Nodes, Usable: g.Usable,
			Source: sources[g.Source], State: State(g.State), Samples: g.Sampled,
		}
		t.index[g.Name] = i
	}
	return t
}

// RTT returns the base round trip to the nearest node of a region: the least base of its fresh
// nodes, or of its stale ones when none is fresh. This node's own region is 0, true: that is known,
// not measured, and stays so when a neighbour is lost. A region that was never measured, or whose
// nodes are all lost, is 0, false. That does not mean near: sort it last.
//
// Sorting regions by RTT gives the order of [Table.Regions], with its hysteresis: a region that is
// held behind another returns that other's round trip. RTT takes one map access and no lock.
func (t *Table) RTT(region string) (time.Duration, bool) {
	if region == t.own {
		return 0, true
	}
	i, ok := t.index[region]
	if !ok || !t.regions[i].Known {
		return 0, false
	}
	return t.regions[i].RTT, true
}

// Regions returns all other regions in their order: measured ones from near to far, then those
// never measured, then those lost. The slice is shared and must not be changed.
func (t *Table) Regions() []Region { return t.regions }

// To returns what is known of the way from this node to a peer, false when it is no peer.
func (t *Table) To(id string) (Stat, bool) {
	i, ok := t.find(id)
	if !ok {
		return Stat{}, false
	}
	return statOf(&t.rows[i].Stat), true
}

func (t *Table) find(id string) (int, bool) {
	return slices.BinarySearchFunc(t.rows, id, func(r probe.Row, id string) int {
		return strings.Compare(r.Node.ID, id)
	})
}

// All yields the peers, by ID, with what is known of the way to each.
func (t *Table) All() iter.Seq2[Node, Stat] {
	return func(yield func(Node, Stat) bool) {
		for i := range t.rows {
			if !yield(Node(*t.rows[i].Node), statOf(&t.rows[i].Stat)) {
				return
			}
		}
	}
}

// changes returns the nodes that are lost in t and were not in old, and the nodes that are back.
func (t *Table) changes(old *Table) (lost, back []*probe.Row) {
	for i := range t.rows {
		r := &t.rows[i]
		j, ok := old.find(r.Node.ID)
		was := ok && old.rows[j].Lost
		switch {
		case r.Lost && !was:
			lost = append(lost, r)
		case !r.Lost && was:
			back = append(back, r)
		}
	}
	return lost, back
}
