// Package core decides what a node does with the messages of other nodes, and numbers its own.
//
// A [Follower] puts what arrives in order and decides what to apply, from which nodes to request a
// snapshot, and which nodes are gone. A [Publisher] numbers rows and cuts snapshots. Both are pure:
// they are given the time.
package core

import (
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange/internal/wire"
)

const (
	// asksAtOnce bounds the snapshots in flight to this node: after a restart of the engine every
	// node requests all of them at once.
	asksAtOnce = 8
	// grace is how long a gap may last before a snapshot is requested: a heartbeat may overtake the
	// rows that it announces.
	grace = 20 * time.Millisecond
	// backoffLeast and backoffMost bound the backoff after a request that was not answered.
	backoffLeast, backoffMost = 100 * time.Millisecond, 10 * time.Second
	// spread is the time over which a node's requests are spread after a reconnect.
	spread = 250 * time.Millisecond
	// tellEvery is how often a node is told that a later incarnation of it is known.
	tellEvery = time.Second
	// olderEvery is how long this node keeps its incarnation at least. It doubles each time until
	// olderForget has passed without a change: two processes with one ID outdo each other forever.
	olderEvery, olderForget = time.Second, 10 * time.Minute
	// demandFor is how long a node's demand stays valid: three of its heartbeats.
	demandFor = 3 * time.Second
	// forgetAfter is how long a gone node must be silent before it is forgotten with its machines,
	// forgetEmpty if it has none.
	forgetAfter, forgetEmpty = 24 * time.Hour, 10 * time.Minute
	// maxNodes bounds the nodes that are kept: any name in a message makes one.
	maxNodes = 10_000
)

// Sender is where a message came from, as its subject says.
type Sender struct {
	Node   balance.NodeID
	Region string
}

// Action is something that the shell has to do: [Apply], [Gone], [Ask], [Report], [Outdated] or
// [Noticed].
type Action interface{ action() }

// Apply puts rows of a node into the fleet, in order, and takes out those with Removed.
type Apply struct {
	Node        balance.NodeID
	Incarnation uint64
	Rows        []wire.Row
}

// Gone marks a node's machines as gone.
type Gone struct {
	Node        balance.NodeID
	Incarnation uint64
	Machines    []balance.MachineKey
}

// Ask sends a request to a node; the answer goes to [Follower.Answer] or [Follower.Failed].
type Ask struct {
	Node    balance.NodeID
	Message wire.Ask
}

// Report passes on load reports. Read them at once: the next heartbeat overwrites them.
type Report struct{ Reports []balance.Report }

// Outdated says that another node knows a later incarnation of this very node, which has to take
// the one after it. Times counts how often that happened lately: a clock that was set back causes
// it once, two processes with one ID again and again.
type Outdated struct {
	Incarnation uint64
	Times       int
}

// Noticed says that a node was heard, is gone, or began a new incarnation.
type Noticed struct{ Node Node }

func (Noticed) action()  {}
func (Apply) action()    {}
func (Gone) action()     {}
func (Ask) action()      {}
func (Report) action()   {}
func (Outdated) action() {}

// Follower keeps what one node knows of the others. It is not safe for concurrent use. Each method
// that handles a message may leave actions, see [Follower.Take].
type Follower struct {
	self        balance.NodeID
	incarnation uint64
	expire      time.Duration

	nodes   map[balance.NodeID]*node
	wanting map[balance.NodeID]*node // whose snapshot is wanted or in flight
	busy    int                      // snapshots in flight
	actions []Action
	reports []balance.Report // scratch

	olderAt time.Time // when this node last had to take a later incarnation
	older   int       // how often that happened lately
	forgot  time.Time // when nodes were last forgotten

	echo    time.Time // when the last message of this node came back
	upSince time.Time // since when they have come without a pause; zero while they do not
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
	demandPart int                           // the next part
}

// NodeState is the state of a node as this one sees it.
type NodeState uint8

// The states.
const (
	NodeLive NodeState = iota
	NodeGone           // not heard for too long
	NodeLeft           // it said that it shuts down
)

// asking is the state of the requests to one node.
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

// Take returns the actions to carry out, in order.
func (f *Follower) Take() []Action {
	as := f.actions
	f.actions = nil
	return as
}

func (f *Follower) do(a Action) { f.actions = append(f.actions, a) }

// Renumber sets the incarnation in which this node speaks from now on.
func (f *Follower) Renumber(incarnation uint64) { f.incarnation = incarnation }

// Older handles the news that another node knows a later incarnation of this node.
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

// accept finds the sender of a message. It returns nil if the message is to be dropped.
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

// renew notes that a node has begun a new incarnation. What it said before is void, except for its
// rows: these stand until it has said which of them still exist.
func (f *Follower) renew(n *node, incarnation uint64) {
	n.incarnation, n.info, n.acks, n.ackSeq = incarnation, wire.Load{}, nil, 0
	n.demand, n.demandAt, n.askSeq, n.coming = nil, time.Time{}, 0, nil
	n.state = NodeLive
	n.fails, n.due = 0, time.Time{}
	n.stream.renew()
	f.notice(n)
}

func (f *Follower) notice(n *node) { f.do(Noticed{f.show(n)}) }

// hear notes that a node lives. The state of a node that was gone has to be requested again.
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

// tellOlder answers a message of an earlier incarnation: either it is late, or the node's clock was
// set back.
func (f *Follower) tellOlder(now time.Time, n *node) {
	if now.Sub(n.told) < tellEvery {
		return
	}
	n.told = now
	f.do(Ask{n.Node, wire.Ask{Node: f.self, Older: n.incarnation}})
}

// Load handles a heartbeat.
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

// Rows handles changed rows.
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

// Acks handles acknowledgements.
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
			continue // only acknowledgements of this node's rows are of use here
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

// Demand handles a message of a node's demand.
func (f *Follower) Demand(now time.Time, from Sender, m *wire.Asks) {
	n := f.accept(now, from, &m.Header)
	if n == nil || m.Seq <= n.askSeq || n.state == NodeLeft {
		return
	}
	f.hear(now, n)
	n.putDemand(now, m)
	f.check(now, n)
}

// putDemand adds a part of a node's demand, which replaces the last demand once it is complete.
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

// Tick expires silent nodes and sends the requests that are due.
func (f *Follower) Tick(now time.Time) {
	f.expireSilent(now)
	if now.Sub(f.forgot) >= forgetEmpty/10 && f.Settled(now) {
		f.forgot = now
		f.forgetGone(now)
	}
	f.askDue(now)
}
