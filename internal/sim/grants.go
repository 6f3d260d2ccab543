package sim

import (
	"fmt"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/grants"
)

// granting is what a world with grants has in addition to its gates: a granter for each owner.
// Edges tell owners how many requests wait; owners reserve slots and send them; both take half a
// round trip.
type granting struct {
	granters []*grants.Granter
	owners   map[balance.NodeID]int32
	edges    map[balance.NodeID]int32
	notes    []note
	free     []int32
	said     []int32 // what each edge sent last
}

// note is a message between an edge and an owner: a grant, or how many requests wait.
type note struct {
	edge, owner int32
	waiting     int
	grant       balance.Grant
}

// sayAgain is how often edges repeat how many requests wait, in ticks.
const sayAgain = 10

// makeGrants makes each owner's fleet host its machines' gates, with a granter beside it, once for
// all edges.
func (s *Sim) makeGrants() error {
	if s.grants != nil {
		return nil
	}
	g := &granting{
		owners: map[balance.NodeID]int32{},
		edges:  map[balance.NodeID]int32{},
		said:   make([]int32, len(s.edges)),
	}
	s.grants = g
	for i := range s.edges {
		g.edges[nodeID(&s.edges[i])] = int32(i)
	}
	for o, own := range s.owners {
		first := &s.machines[own.first]
		g.owners[first.row.Owner] = int32(o)
		f, err := balance.NewFleet(balance.FleetConfig{Node: first.row.Owner, Region: first.row.Region})
		if err != nil {
			return err
		}
		if err := f.Apply(balance.PutApp{App: balance.App{ID: app, Limits: s.w.Limits}}); err != nil {
			return err
		}
		if err := s.host(f, own); err != nil {
			return err
		}
		granter, err := grants.New(f, grants.Config{
			Now: func() time.Time { return epoch.Add(time.Duration(s.now)) },
			Give: func(to balance.NodeID, grant balance.Grant) {
				s.send(evGrant, note{edge: g.edges[to], owner: int32(o), grant: grant})
			},
		})
		if err != nil {
			return err
		}
		g.granters = append(g.granters, granter)
		s.q.push(int64(s.links.float64()*float64(tickEvery)), evGranter, int32(o), 0)
	}
	return nil
}

// send sends a note between its edge and its owner.
func (s *Sim) send(k kind, n note) {
	g := s.grants
	var i int32
	if last := len(g.free) - 1; last >= 0 {
		i, g.free = g.free[last], g.free[:last]
	} else {
		i = int32(len(g.notes))
		g.notes = append(g.notes, note{})
	}
	g.notes[i] = n
	s.q.push(s.now+s.half(s.edges[n.edge].region, s.machines[s.owners[n.owner].first].region), k, i, 0)
}

func (s *Sim) receive(i int32) note {
	s.grants.free = append(s.grants.free, i)
	return s.grants.notes[i]
}

// granted handles evGrant: a slot reaches its edge.
func (s *Sim) granted(i int32) {
	n := s.receive(i)
	e := &s.edges[n.edge]
	s.Balancer(int(n.edge)).AcceptGrant(n.grant)
	s.drain(e)
}

// asked handles evAsk: a message of an edge reaches an owner.
func (s *Sim) asked(i int32) {
	n := s.receive(i)
	s.grants.granters[n.owner].Ask(nodeID(&s.edges[n.edge]), app, n.waiting)
}

// granter handles evGranter.
func (s *Sim) granter(o int32) {
	s.grants.granters[o].Tick()
	s.q.push(s.now+int64(tickEvery), evGranter, o, 0)
}

// say tells owners how many requests wait at an edge, if that has changed or again is set.
func (s *Sim) say(e *edge, again bool) {
	g := s.grants
	if g == nil || !again && int(g.said[e.index]) == len(e.parked) {
		return
	}
	g.said[e.index] = int32(len(e.parked))
	for owner, part := range s.Balancer(int(e.index)).Asks(app, len(e.parked)) {
		s.send(evAsk, note{edge: e.index, owner: g.owners[owner], waiting: part})
	}
}

func ownerID(i int) balance.NodeID { return balance.NodeID(fmt.Sprintf("owner-%03d", i)) }
