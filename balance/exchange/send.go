package exchange

import (
	"slices"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange/internal/wire"
)

// sender publishes what changes at this node. It belongs to Run's goroutine.
type sender struct {
	l                       *Link
	loadSeq, ackSeq, askSeq uint64
	whole                   time.Time // when everything was last sent
	told                    uint64    // the message of rows that the last heartbeat named
	running                 map[balance.MachineKey]*sentLoad
	demand                  []wire.Demand
	applied                 []balance.NodeID // whose rows were applied since the last acknowledgement
}

// sentLoad is what was last sent of a running machine.
type sentLoad struct {
	gate              *balance.Gate
	index             uint32
	inFlight, granted int
	told              bool
}

// Bounds of what an entry of a message takes, in bytes: numbers of at most 10 and names of 255.
const (
	reportSize = 64
	ackSize    = 300
	demandSize = 550
)

// again has everything sent with the next heartbeat.
func (s *sender) again() { s.whole = time.Time{} }

func (s *sender) publish(kind string, payload []byte) {
	subject := Subject{
		Cluster: s.l.c.Cluster, Kind: kind, Region: s.l.fleet.Region(), Node: s.l.fleet.Node(),
	}
	if s.l.x.Publish(subject, payload) != nil {
		s.l.count.unsent.Add(1) // as if the engine had lost it: the next heartbeat shows the gap
	}
}

// header numbers a message.
func (s *sender) header(seq *uint64) wire.Header {
	*seq++
	return wire.Header{Cluster: s.l.c.Cluster, Incarnation: s.l.Incarnation(), Seq: *seq}
}

// rows sends the rows of this node's machines that have changed, and returns the apps that were
// removed.
func (s *sender) rows(updates []balance.Update) (apps []balance.AppID) {
	l := s.l
	var changed []balance.Machine
	var removed []balance.MachineKey
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
			apps = append(apps, u.ID)
		}
	}
	messages := l.publisher.Put(changed, removed)
	for _, m := range changed {
		s.follow(m)
	}
	l.mu.Unlock()
	for _, k := range removed {
		delete(s.running, k)
	}
	for _, m := range messages {
		s.publish("row", m)
	}
	return apps
}

// follow notes whether a machine's load is sent; Link.mu is held.
func (s *sender) follow(m balance.Machine) {
	k := m.Key()
	if m.State != balance.StateStarted {
		delete(s.running, k)
		return
	}
	g := s.l.fleet.Gate(m.App, m.ID)
	if old := s.running[k]; g == nil || old != nil && old.gate == g {
		return
	}
	index, _ := s.l.publisher.Index(k)
	s.running[k] = &sentLoad{gate: g, index: index}
}

// beat sends a heartbeat if something has changed, or a whole one when a second has passed.
func (s *sender) beat(now time.Time) (whole bool) {
	whole = now.Sub(s.whole) >= wholeEvery
	if whole {
		s.whole = now
	}
	reports := s.reports(whole)
	if seq := s.rowSeq(); whole || len(reports) > 0 || seq != s.told {
		s.heartbeat(reports, false)
	}
	if s.l.c.Edge {
		s.demands(whole)
		if whole {
			s.allAcks()
		}
	}
	return whole
}

func (s *sender) rowSeq() uint64 {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	return s.l.publisher.Seq()
}

// reports returns the loads of this node's running machines: all, or those that have changed.
func (s *sender) reports(whole bool) (rs []wire.Report) {
	for _, m := range s.running {
		inFlight, granted := m.gate.InFlight(), m.gate.Granted()
		if whole || !m.told || inFlight != m.inFlight || granted != m.granted {
			m.inFlight, m.granted, m.told = inFlight, granted, true
			rs = append(rs, wire.Report{Index: m.index, Load: m.gate.Load(), Granted: granted})
		}
	}
	return rs
}

// heartbeat sends a heartbeat, in several messages if the reports do not fit into one.
func (s *sender) heartbeat(reports []wire.Report, leaving bool) {
	c := s.l.c
	s.told = s.rowSeq()
	for part := range chunks(reports, s.l.most/reportSize) {
		m := wire.Load{
			Header: s.header(&s.loadSeq), Hop: c.Hop, Probe: c.Probe, Edge: c.Edge, Worker: c.Worker,
			Leaving: leaving, Rows: s.told, Acks: s.ackSeq, Reports: part,
		}
		s.publish("load", m.Encode())
	}
}

// chunks yields xs in parts of at most n, and one empty part where there is nothing.
func chunks[T any](xs []T, n int) func(func([]T) bool) {
	return func(yield func([]T) bool) {
		if len(xs) == 0 {
			yield(nil)
			return
		}
		for part := range slices.Chunk(xs, max(1, n)) {
			if !yield(part) {
				return
			}
		}
	}
}

// demands sends this node's demand for each app.
func (s *sender) demands(whole bool) {
	var ds []wire.Demand
	if s.l.c.Demand != nil {
		for _, app := range s.l.fleet.Apps() {
			if home, inFlight, parked := s.l.c.Demand(app); inFlight > 0 || parked > 0 {
				ds = append(ds, wire.Demand{App: app, Home: home, InFlight: inFlight, Parked: parked})
			}
		}
	}
	if !whole && slices.Equal(ds, s.demand) {
		return
	}
	s.demand = ds
	each := max(1, s.l.most/demandSize)
	part, parts := 0, max(1, (len(ds)+each-1)/each)
	for some := range chunks(ds, each) {
		m := wire.Asks{Header: s.header(&s.askSeq), Part: part, Parts: parts, Demand: some}
		s.publish("ask", m.Encode())
		part++
	}
}

// acks acknowledges the rows that were applied.
func (s *sender) acks() {
	if s.l.c.Edge && len(s.applied) > 0 {
		slices.Sort(s.applied)
		s.acknowledge(slices.Compact(s.applied))
	}
	s.applied = s.applied[:0]
}

func (s *sender) allAcks() {
	s.l.mu.Lock()
	all := s.l.follower.Nodes()
	s.l.mu.Unlock()
	s.acknowledge(all)
}

func (s *sender) acknowledge(of []balance.NodeID) {
	s.l.mu.Lock()
	as := s.l.follower.Applied(of)
	s.l.mu.Unlock()
	for part := range chunks(as, s.l.most/ackSize) {
		m := wire.Acks{Header: s.header(&s.ackSeq), Acks: part}
		s.publish("ack", m.Encode())
	}
}
