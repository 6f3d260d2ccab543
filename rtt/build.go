package rtt

import (
	"slices"
	"time"
)

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
