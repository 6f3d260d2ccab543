package exchange

import (
	"slices"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange/internal/core"
	"github.com/ebbkit/ebb/balance/exchange/internal/wire"
)

// sender tells what changes at this node. It belongs to Run's goroutine, but for its sequences.
type sender struct {
	l                       *Link
	loadSeq, ackSeq, askSeq uint64 // under Link.mu
	whole                   time.Time
	told                    uint64 // rows, as the last heartbeat said
	loads                   map[balance.MachineKey]sentLoad
	demand                  []wire.Demand
}

// sentLoad is what was last told of a machine.
type sentLoad struct{ inFlight, granted int }

// again has everything told with the next heartbeat.
func (s *sender) again() { s.whole = time.Time{} }

func (s *sender) publish(kind string, payload []byte) {
	// What is not sent is lost, like what the engine loses: the next heartbeat shows it.
	_ = s.l.x.Publish(Subject{
		Cluster: s.l.c.Cluster, Kind: kind, Region: s.l.fleet.Region(), Node: s.l.fleet.Node(),
	}, payload)
}

// header numbers a message; Link.mu is held.
func (s *sender) header(seq *uint64) wire.Header {
	*seq++
	return wire.Header{Cluster: s.l.c.Cluster, Incarnation: s.l.publisher.Incarnation(), Seq: *seq}
}

// rows tells the rows of this node's machines that have changed.
func (s *sender) rows(w *balance.Watcher) {
	var changed []balance.Machine
	var removed []balance.MachineKey
	l := s.l
	updates := w.Take()
	l.mu.Lock()
	for _, u := range updates {
		switch u := u.(type) {
		case balance.PutMachine:
			if u.Machine.Owner == l.fleet.Node() {
				changed = append(changed, u.Machine)
			}
		case balance.RemoveMachine:
			removed = append(removed, balance.MachineKey{App: u.App, ID: u.ID})
		case balance.RemoveApp:
			removed = append(removed, l.publisher.Of(u.ID)...)
		}
	}
	messages := l.publisher.Put(changed, removed)
	l.mu.Unlock()
	for _, m := range messages {
		s.publish("row", m)
	}
}

// beat sends a heartbeat if something has changed, or a second has passed.
func (s *sender) beat(now time.Time) {
	whole := now.Sub(s.whole) >= wholeEvery
	if whole {
		s.whole = now
	}
	reports := s.reports(whole)
	l := s.l
	l.mu.Lock()
	var load []byte
	if whole || len(reports) > 0 || s.told != l.publisher.Seq() {
		s.told = l.publisher.Seq()
		m := s.heartbeat()
		m.Reports = reports
		load = m.Encode()
	}
	l.mu.Unlock()
	if load != nil {
		s.publish("load", load)
	}
	s.demands(whole)
	if whole && l.c.Edge {
		s.tellAcks(nil)
	}
}

// heartbeat returns one without reports; Link.mu is held.
func (s *sender) heartbeat() wire.Load {
	c := s.l.c
	return wire.Load{
		Header: s.header(&s.loadSeq), Hop: c.Hop, Probe: c.Probe, Edge: c.Edge, Worker: c.Worker,
		Rows: s.l.publisher.Seq(), Acks: s.ackSeq,
	}
}

// reports returns the load of this node's machines that run: of all, or of those where it changed.
func (s *sender) reports(whole bool) (rs []wire.Report) {
	for _, app := range s.l.fleet.Apps() {
		for m, g := range s.l.fleet.Owned(app) {
			if m.State != balance.StateStarted {
				continue
			}
			k, now := m.Key(), sentLoad{g.InFlight(), g.Granted()}
			if !whole && s.loads[k] == now {
				continue
			}
			s.loads[k] = now
			s.l.mu.Lock()
			i, ok := s.l.publisher.Index(k)
			s.l.mu.Unlock()
			if ok {
				rs = append(rs, wire.Report{Index: i, Load: g.Load(), Granted: now.granted})
			}
		}
	}
	return rs
}

// demands tells what this node has of each app's requests.
func (s *sender) demands(whole bool) {
	l := s.l
	if !l.c.Edge {
		return
	}
	var ds []wire.Demand
	if l.c.Demand != nil {
		for _, app := range l.fleet.Apps() {
			if home, inFlight, parked := l.c.Demand(app); inFlight > 0 || parked > 0 {
				ds = append(ds, wire.Demand{App: app, Home: home, InFlight: inFlight, Parked: parked})
			}
		}
	}
	if !whole && slices.Equal(ds, s.demand) {
		return
	}
	s.demand = ds
	l.mu.Lock()
	m := wire.Asks{Header: s.header(&s.askSeq), Demand: ds}
	l.mu.Unlock()
	s.publish("ask", m.Encode())
}

// acks tells at once up to where rows were applied.
func (s *sender) acks(done []core.Action) {
	if !s.l.c.Edge {
		return
	}
	var of []balance.NodeID
	for _, a := range done {
		if a, ok := a.(core.Apply); ok {
			of = append(of, a.Node)
		}
	}
	if of != nil {
		s.tellAcks(of)
	}
}

// tellAcks acknowledges the rows of some nodes; nil means of all.
func (s *sender) tellAcks(of []balance.NodeID) {
	l := s.l
	l.mu.Lock()
	as := l.follower.Applied()
	if of != nil {
		as = slices.DeleteFunc(as, func(a wire.Ack) bool { return !slices.Contains(of, a.Node) })
	}
	m := wire.Acks{Header: s.header(&s.ackSeq), Acks: as}
	l.mu.Unlock()
	s.publish("ack", m.Encode())
}

// leave says that this node ends.
func (s *sender) leave() {
	s.l.mu.Lock()
	m := s.heartbeat()
	m.Leaving = true
	s.l.mu.Unlock()
	s.publish("load", m.Encode())
}
