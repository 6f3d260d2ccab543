package probe

import (
	"time"

	"github.com/ebbkit/ebb/rtt/internal/estimate"
)

// Row is what is known of the path to one node.
type Row struct {
	Node *Node
	Stat estimate.Stat
	Lost bool // by its own probes, whatever Stat says after mass silence
}

// Region is the path to the nearest node of a region.
type Region struct {
	estimate.Place
	Base    time.Duration
	Node    string
	Nodes   int
	Usable  int // nodes that are known and not lost
	Source  estimate.Source
	State   estimate.State
	Sampled int
}

// Ranking keeps nodes, and regions other than its own, in their orders. It is not safe for
// concurrent use.
type Ranking struct {
	Own string // region

	regions, nodes estimate.Order
}

// measured: from this many samples on, hysteresis holds a distance in its place in the order.
const measured = 3

// Update takes in the rows, sorted by ID, and returns regions and nodes in their orders. After mass
// silence it changes the rows.
func (r *Ranking) Update(now time.Time, rows []Row) ([]Region, []estimate.Place) {
	excuse(rows)
	nodes := make([]estimate.Candidate, len(rows))
	index := make(map[string]int)
	var found []Region
	for i := range rows {
		n, s := rows[i].Node, &rows[i].Stat
		nodes[i] = estimate.Candidate{
			Name: n.ID, RTT: s.Base, State: s.State, Settled: s.Samples >= measured,
		}
		if n.Region == r.Own {
			continue
		}
		k, ok := index[n.Region]
		if !ok {
			k = len(found)
			index[n.Region] = k
			found = append(found, Region{State: s.State, Source: s.Source})
		}
		g := &found[k]
		g.Nodes++
		if s.Known() {
			g.Usable++
		}
		if nearer(s, g) {
			g.Base, g.Node, g.Source = s.Base, n.ID, s.Source
			g.State, g.Sampled = s.State, s.Samples
		}
	}
	cs := make([]estimate.Candidate, 0, len(found))
	for name, k := range index {
		g := &found[k]
		cs = append(cs, estimate.Candidate{
			Name: name, RTT: g.Base, State: g.State, Settled: g.Sampled >= measured,
		})
	}
	r.nodes.Update(now, nodes)
	r.regions.Update(now, cs)
	places := r.regions.Places()
	regions := make([]Region, len(places))
	for i, p := range places {
		regions[i] = found[index[p.Name]]
		regions[i].Place = p
	}
	return regions, r.nodes.Places()
}

// excuse turns lost into stale when all of three or more peers are lost: then this node is the more
// likely cause, and the last known distances are better than none. During mass silence no distance
// expires.
func excuse(rows []Row) {
	if len(rows) < 3 {
		return
	}
	for i := range rows {
		if s := rows[i].Stat.State; s != estimate.StateLost && s != estimate.StateUnknown {
			return
		}
	}
	for i := range rows {
		if rows[i].Stat.State == estimate.StateLost {
			rows[i].Stat.State = estimate.StateStale
		}
	}
}

// nearer reports whether a node represents its region better than the one that does so far.
func nearer(s *estimate.Stat, g *Region) bool {
	rank := [...]int{
		estimate.StateFresh: 3, estimate.StateStale: 2, estimate.StateUnknown: 1,
		estimate.StateLost: 0,
	}
	if s.State != g.State {
		return rank[s.State] > rank[g.State]
	}
	return s.Base > 0 && (g.Base == 0 || s.Base < g.Base)
}

// nearPeers are probed at the shorter interval; they cost 32 probes a second by default.
const nearPeers = 32

// Near returns the IDs of the peers that matter to the order: the nearest, and the nearest of every
// region. Peers that were never measured are among them while there is room.
func Near(regions []Region, nodes []estimate.Place) map[string]bool {
	near := make(map[string]bool, nearPeers)
	for i := range nodes[:min(nearPeers, len(nodes))] {
		near[nodes[i].Name] = true
	}
	for i := range regions {
		if id := regions[i].Node; id != "" {
			near[id] = true
		}
	}
	return near
}
