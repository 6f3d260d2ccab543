// Package core decides what a node does with the messages of other nodes, and numbers its own.
//
// A [Follower] puts what arrives in order and says what to apply, whom to ask for a snapshot and
// whom to take for gone. A [Publisher] numbers rows and cuts snapshots. Both are pure: they are
// told the time.
package core

import (
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange/internal/wire"
)

const (
	// asksAtOnce bounds the snapshots that are on their way here: after a restart of the engine
	// every node asks for all at once.
	asksAtOnce = 8
	// grace is how long a gap may last before a snapshot is asked for: a heartbeat may overtake the
	// rows that it announces.
	grace = 20 * time.Millisecond
	// backoffLeast and backoffMost bound the wait after a question that was not answered.
	backoffLeast, backoffMost = 100 * time.Millisecond, 10 * time.Second
	// spread is the time over which a node's questions are spread after a reconnect.
	spread = 250 * time.Millisecond
	// tellEvery is how often a node is told that a later incarnation of it is known.
	tellEvery = time.Second
	// olderEvery is how long this node keeps its incarnation at least, doubled with each time until
	// olderForget has passed without: two processes of one ID outdo each other for ever.
	olderEvery, olderForget = time.Second, 10 * time.Minute
	// demandFor is how long what a node said of its demand is believed: three of its heartbeats.
	demandFor = 3 * time.Second
	// forgetAfter is after which silence a node that is gone is forgotten with its machines, and
	// forgetEmpty where it has none.
	forgetAfter, forgetEmpty = 24 * time.Hour, 10 * time.Minute
	// maxNodes bounds what is kept of nodes that are only a name in a message.
	maxNodes = 10_000
)

// Sender is where a message came from, as its subject says.
type Sender struct {
	Node   balance.NodeID
	Region string
}

// Action is what the shell has to do: [Apply], [Gone], [Ask], [Report], [Outdated] or
// [Noticed].
type Action interface{ action() }

// Apply has rows of a node put into the fleet, in order. Those with Removed go out of it.
type Apply struct {
	Node        balance.NodeID
	Incarnation uint64
	Rows        []wire.Row
}

// Gone has a node's machines marked as gone.
type Gone struct {
	Node        balance.NodeID
	Incarnation uint64
	Machines    []balance.MachineKey
}

// Ask has a node asked; the answer goes to [Follower.Answer] or [Follower.Failed].
type Ask struct {
	Node    balance.NodeID
	Message wire.Ask
}

// Report hands out load reports. They are read at once: the next heartbeat writes over them.
type Report struct{ Reports []balance.Report }

// Outdated says that somebody knows a later incarnation of this very node: it has to take the one
// after it. Times counts how often that came lately: a clock that was set back does it once, two
// processes of one ID again and again.
type Outdated struct {
	Incarnation uint64
	Times       int
}

// Noticed says that a node has come, gone, or begun anew.
type Noticed struct{ Node Node }

func (Noticed) action()  {}
func (Apply) action()    {}
func (Gone) action()     {}
func (Ask) action()      {}
func (Report) action()   {}
func (Outdated) action() {}

// Follower keeps what one node knows of the others. It is not safe for concurrent use. Each method
// that takes in a message may leave actions, see [Follower.Take].
type Follower struct {
	self        balance.NodeID
	incarnation uint64
	expire      time.Duration

	nodes   map[balance.NodeID]*node
	wanting map[balance.NodeID]*node // whose snapshot is wanted or on its way
	busy    int                      // snapshots on their way
	actions []Action
	reports []balance.Report // scratch

	olderAt time.Time // when this node last had to take a later incarnation
	older   int       // how often lately
	forgot  time.Time // when nodes were last forgotten

	echo    time.Time // when the last message of this node came back
	upSince time.Time // from when on they came without a pause; zero while they do not come
}

// node is what is known of one other node.
type node struct {
	Sender
	incarnation uint64
	info        wire.Load // of the last heartbeat, without reports
	heard       time.Time
	state       NodeState
	told        time.Time // when it was last told of a later incarnation

	stream
	asking
	acks   map[balance.NodeID]wire.Ack
	ackSeq uint64

	demand     map[balance.AppID]wire.Demand
	demandAt   time.Time
	askSeq     uint64
	coming     map[balance.AppID]wire.Demand // parts of the next demand, up to message askSeq
	demandPart int                           // the next one
}

// NodeState is what is thought of a node.
type NodeState uint8

// The states.
const (
	NodeLive NodeState = iota
	NodeGone           // not heard for too long
	NodeLeft           // it said that it ends
)

// asking is the state of the questions to one node.
type asking struct {
	doubt bool // ask even if nothing is known to be missing
	busy  bool
	due   time.Time
	fails int
}

// NewFollower returns the follower of a node. A node that is silent for longer than expire is gone.
func NewFollower(self balance.NodeID, incarnation uint64, expire time.Duration) *Follower {
	return &Follower{
		self: self, incarnation: incarnation, expire: expire,
		nodes: map[balance.NodeID]*node{}, wanting: map[balance.NodeID]*node{},
	}
}

// Take returns what is to be done, in order.
func (f *Follower) Take() []Action {
	as := f.actions
	f.actions = nil
	return as
}

func (f *Follower) do(a Action) { f.actions = append(f.actions, a) }

// Renumber says that this node speaks in a later incarnation from now on.
func (f *Follower) Renumber(incarnation uint64) { f.incarnation = incarnation }

// Older takes in that somebody knows a later incarnation of this node.
func (f *Follower) Older(now time.Time, known uint64) {
	if now.Sub(f.olderAt) > olderForget {
		f.older = 0
	}
	if known <= f.incarnation || f.older > 0 && now.Sub(f.olderAt) < olderEvery<<min(f.older-1, 6) {
		return
	}
	f.older++
	f.olderAt = now
	f.do(Outdated{known, f.older})
}

// accept finds the sender of a message, and returns nil for one that is to be dropped.
func (f *Follower) accept(now time.Time, from Sender, h *wire.Header) *node {
	if from.Node == f.self {
		switch {
		case h.Incarnation > f.incarnation:
			f.Older(now, h.Incarnation)
		case h.Incarnation == f.incarnation:
			f.hearSelf(now)
		}
		return nil
	}
	n, ok := f.nodes[from.Node]
	if !ok {
		if len(f.nodes) >= maxNodes {
			return nil
		}
		n = &node{Sender: from}
		f.nodes[from.Node] = n
	}
	switch {
	case h.Incarnation < n.incarnation:
		f.tellOlder(now, n)
		return nil
	case h.Incarnation > n.incarnation || !ok:
		f.renew(n, h.Incarnation)
	}
	n.Sender = from
	return n
}

// renew notes that a node has begun anew: what it said before is void, but for its rows, which stand
// until it has said which are still there.
func (f *Follower) renew(n *node, incarnation uint64) {
	n.incarnation, n.info, n.acks, n.ackSeq = incarnation, wire.Load{}, nil, 0
	n.demand, n.demandAt, n.askSeq, n.coming = nil, time.Time{}, 0, nil
	n.state = NodeLive
	n.fails, n.due = 0, time.Time{}
	n.stream.renew()
	f.notice(n)
}

func (f *Follower) notice(n *node) { f.do(Noticed{f.show(n)}) }

// hear notes that a node lives. What is known of one that was gone has to be asked for again.
func (f *Follower) hear(now time.Time, n *node) {
	n.heard = now
	if n.state == NodeGone {
		n.state, n.whole = NodeLive, len(n.keys) == 0
		f.notice(n)
	}
}

func (f *Follower) hearSelf(now time.Time) {
	if !f.up(now) {
		f.upSince = now
	}
	f.echo = now
}

// tellOlder answers a message of an incarnation that is over: either it is late, or the node's clock
// has been set back.
func (f *Follower) tellOlder(now time.Time, n *node) {
	if now.Sub(n.told) < tellEvery {
		return
	}
	n.told = now
	f.do(Ask{n.Node, wire.Ask{Node: f.self, Older: n.incarnation}})
}

// Load takes in a heartbeat.
func (f *Follower) Load(now time.Time, from Sender, m *wire.Load) {
	n := f.accept(now, from, &m.Header)
	if n == nil || m.Seq <= n.info.Seq || n.state == NodeLeft {
		return
	}
	f.hear(now, n)
	first := n.info.Seq == 0
	n.info = *m
	n.info.Reports = nil
	if first {
		f.notice(n)
	}
	n.ahead = max(n.ahead, m.Rows)
	f.report(n, m.Reports)
	if m.Leaving {
		n.state = NodeLeft
		f.gone(n)
	}
	f.check(now, n)
}

func (f *Follower) report(n *node, of []wire.Report) {
	f.reports = f.reports[:0]
	for i := range of {
		r := &of[i]
		if k, ok := n.index[r.Index]; ok {
			f.reports = append(f.reports, balance.Report{
				App: k.App, ID: k.ID, Load: r.Load, Granted: r.Granted, Idle: r.Idle,
				Incarnation: n.incarnation,
			})
		}
	}
	if len(f.reports) > 0 {
		f.do(Report{f.reports})
	}
}

// Rows takes in changed rows.
func (f *Follower) Rows(now time.Time, from Sender, m *wire.Rows) {
	n := f.accept(now, from, &m.Header)
	if n == nil || n.state == NodeLeft {
		return
	}
	if m.Seq > n.ahead {
		f.hear(now, n)
	}
	f.apply(n, n.put(m))
	f.check(now, n)
}

func (f *Follower) apply(n *node, rows []wire.Row) {
	if len(rows) > 0 {
		f.do(Apply{n.Node, n.incarnation, rows})
	}
}

// Acks takes in acknowledgements.
func (f *Follower) Acks(now time.Time, from Sender, m *wire.Acks) {
	n := f.accept(now, from, &m.Header)
	if n == nil || n.state == NodeLeft {
		return
	}
	if m.Seq > n.ackSeq {
		f.hear(now, n)
		n.ackSeq = m.Seq
	}
	for _, a := range m.Acks {
		if a.Node != f.self {
			continue // only what concerns this node's rows is of use here
		}
		if old, ok := n.acks[a.Node]; !ok || a.Incarnation > old.Incarnation ||
			a.Incarnation == old.Incarnation && a.Seq > old.Seq {
			if n.acks == nil {
				n.acks = map[balance.NodeID]wire.Ack{}
			}
			n.acks[a.Node] = a
		}
	}
	f.check(now, n)
}

// Demand takes in a node's demand.
func (f *Follower) Demand(now time.Time, from Sender, m *wire.Asks) {
	n := f.accept(now, from, &m.Header)
	if n == nil || m.Seq <= n.askSeq || n.state == NodeLeft {
		return
	}
	f.hear(now, n)
	n.putDemand(now, m)
	f.check(now, n)
}

// putDemand takes in a part of a node's demand, which replaces the last one when it is whole.
func (n *node) putDemand(now time.Time, m *wire.Asks) {
	follows := m.Seq == n.askSeq+1 && m.Part == n.demandPart
	n.askSeq = m.Seq
	switch {
	case m.Part == 0:
		n.coming, n.demandPart = map[balance.AppID]wire.Demand{}, 0
	case !follows || n.coming == nil:
		n.coming = nil
		return
	}
	for _, d := range m.Demand {
		n.coming[d.App] = d
	}
	if n.demandPart++; n.demandPart >= m.Parts {
		n.demand, n.demandAt, n.coming = n.coming, now, nil
	}
}

// Tick has nodes expire and questions asked that are due.
func (f *Follower) Tick(now time.Time) {
	f.expireSilent(now)
	if now.Sub(f.forgot) >= forgetEmpty/10 && f.Settled(now) {
		f.forgot = now
		f.forgetGone(now)
	}
	f.askDue(now)
}
