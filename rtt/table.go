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

// builder makes tables. It keeps what must outlive one: the orders and the disagreements. Not safe for concurrent use.
type builder struct {
	self    Node
	regions Order
	nodes   Order
	agree   agreement
	turn    int // whose view is checked next
	off     map[string]bool
}

// build makes a table of the own rows, sorted by ID, and the vectors of others. It keeps both.
func (b *builder) build(now time.Time, rows []row, shared map[string]gathered) *Table {
	t := &Table{self: b.self, at: now, rows: rows, shared: shared}
	b.excuse(rows)
	distance := make([]time.Duration, len(rows))
	for i, r := range rows {
		distance[i] = r.stat.Base
		back, ok := t.Between(r.node.ID, b.self.ID)
		if !ok || r.stat.Base == 0 {
			continue
		}
		if d, bad := b.agree.check(now, b.self.ID, r.node.ID, r.stat, back); bad {
			t.bad = append(t.bad, d)
			if r.stat.residence > apart/2 {
				distance[i] = max(distance[i], back.Base)
			}
		}
	}
	b.orders(t, distance)
	b.views(t)
	return t
}

// excuse turns lost into stale when all of three or more peers are lost: then this node is the likelier culprit, and
// the last known distances are better than none. Mass silence expires nobody.
func (b *builder) excuse(rows []row) {
	if len(rows) < 3 {
		return
	}
	for _, r := range rows {
		if r.stat.State != StateLost && r.stat.State != StateUnknown {
			return
		}
	}
	for i := range rows {
		if rows[i].stat.State == StateLost {
			rows[i].stat.State = StateStale
		}
	}
}

// orders fills in the order of nodes and of regions.
func (b *builder) orders(t *Table, distance []time.Duration) {
	nodes := make([]Candidate, len(t.rows))
	index := make(map[string]int)
	var regions []Region
	for i, r := range t.rows {
		s := r.stat
		nodes[i] = Candidate{Name: r.node.ID, RTT: distance[i], State: s.State, Settled: s.Samples >= 3}
		if r.node.Region == b.self.Region {
			continue
		}
		k, ok := index[r.node.Region]
		if !ok {
			k = len(regions)
			index[r.node.Region] = k
			regions = append(regions, Region{Place: Place{Name: r.node.Region}, State: s.State, Source: s.Source})
		}
		g := &regions[k]
		g.Nodes++
		if s.Known() {
			g.Usable++
		}
		if better(s.State, distance[i], g.State, g.Base) {
			g.Base, g.Node, g.Source, g.State, g.Sampled = distance[i], r.node.ID, s.Source, s.State, s.Samples
		}
	}
	regions = b.hearsay(t, index, regions)
	cs := make([]Candidate, len(regions))
	for i, g := range regions {
		cs[i] = Candidate{Name: g.Name, RTT: g.Base, State: g.State, Settled: g.Sampled >= 3}
	}
	b.nodes.Update(t.at, nodes)
	b.regions.Update(t.at, cs)
	t.nodes = b.nodes.Places()
	places := b.regions.Places()
	t.regions = make([]Region, len(places))
	t.index = make(map[string]int, len(places))
	for i, p := range places {
		g := regions[index[p.Name]]
		g.Place = p
		t.regions[i] = g
		t.index[p.Name] = i
	}
}

// better reports whether a node in state s at distance d stands for its region rather than the one that does so far.
func better(s State, d time.Duration, than State, thanD time.Duration) bool {
	rank := [...]int{StateFresh: 3, StateStale: 2, StateUnknown: 1, StateLost: 0}
	if s != than {
		return rank[s] > rank[than]
	}
	return d > 0 && (thanD == 0 || d < thanD)
}

// hearsay fills in regions this node has not measured itself from the vectors of its own region's nodes: they are next
// door, so what they see is what this node would.
func (b *builder) hearsay(t *Table, index map[string]int, regions []Region) []Region {
	for from, v := range t.shared {
		if from == b.self.ID || v.Region != b.self.Region || t.at.Sub(v.at) > sharedFresh {
			continue
		}
		for i := range v.Entries {
			e := &v.Entries[i]
			if e.Region == b.self.Region || e.State != StateFresh || e.Base <= 0 {
				continue
			}
			k, ok := index[e.Region]
			if !ok {
				k = len(regions)
				index[e.Region] = k
				regions = append(regions, Region{Place: Place{Name: e.Region}})
			}
			g := &regions[k]
			nearer := e.Base < g.Base || e.Base == g.Base && e.To < g.Node // the ID, so that map order does not show
			if g.State == StateUnknown || g.Source == SourceShared && nearer {
				g.Base, g.Node, g.Source, g.State, g.Sampled = e.Base, e.To, SourceShared, StateFresh, e.Samples
			}
		}
	}
	return regions
}

// views checks the view of one node per table, in turn, so that a large mesh costs no more per table than a small one.
func (b *builder) views(t *Table) {
	ids := make([]string, 0, len(t.shared))
	for id := range t.shared {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	if b.off == nil {
		b.off = make(map[string]bool)
	}
	if len(ids) > 0 {
		b.turn = (b.turn + 1) % len(ids)
		id := ids[b.turn]
		b.off[id] = off(t.shared[id].Vector, t.Between)
	}
	for id, is := range b.off {
		if _, ok := t.shared[id]; !ok || !is {
			delete(b.off, id)
			continue
		}
		t.off = append(t.off, id)
	}
	slices.Sort(t.off)
	b.agree.keep(func(id string) bool {
		_, ok := t.find(id)
		return ok || id == b.self.ID
	})
}

// nearOnes returns the IDs of the peers that decide something: the n nearest, and the nearest of every region. The
// never measured are among them while there is room.
func nearOnes(t *Table, n int) map[string]bool {
	near := make(map[string]bool, n)
	for i := range t.nodes[:min(n, len(t.nodes))] {
		near[t.nodes[i].Name] = true
	}
	for i := range t.regions {
		if id := t.regions[i].Node; id != "" {
			if _, ok := t.find(id); ok {
				near[id] = true
			}
		}
	}
	return near
}
