package rtt

import (
	"time"
)

// builder makes tables. It keeps what must outlive one: the orders. Not safe for concurrent use.
type builder struct {
	self    Node
	regions Order
	nodes   Order
}

// build makes a table of the rows, sorted by ID, and keeps them.
func (b *builder) build(now time.Time, rows []row) *Table {
	t := &Table{self: b.self, at: now, rows: rows}
	b.excuse(rows)
	b.orders(t)
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
func (b *builder) orders(t *Table) {
	nodes := make([]Candidate, len(t.rows))
	index := make(map[string]int)
	var regions []Region
	for i, r := range t.rows {
		s := r.stat
		nodes[i] = Candidate{Name: r.node.ID, RTT: s.Base, State: s.State, Settled: s.Samples >= 3}
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
		if better(s.State, s.Base, g.State, g.Base) {
			g.Base, g.Node, g.Source, g.State, g.Sampled = s.Base, r.node.ID, s.Source, s.State, s.Samples
		}
	}
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

// nearOnes returns the IDs of the peers that decide something: the n nearest, and the nearest of every region. The
// never measured are among them while there is room.
func nearOnes(t *Table, n int) map[string]bool {
	near := make(map[string]bool, n)
	for i := range t.nodes[:min(n, len(t.nodes))] {
		near[t.nodes[i].Name] = true
	}
	for i := range t.regions {
		if id := t.regions[i].Node; id != "" {
			near[id] = true
		}
	}
	return near
}
