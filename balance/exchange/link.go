package exchange

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange/internal/core"
	"github.com/ebbkit/ebb/balance/exchange/internal/wire"
)

// Link joins a node's fleet to those of the other nodes: it sends them this node's rows, loads,
// acknowledgements and demand, and applies theirs to the fleet. Make one with [New]; all methods
// are safe for concurrent use.
type Link struct {
	fleet *balance.Fleet
	x     Exchange
	c     Config
	inbox inbox
	ran   atomic.Bool

	mu        sync.Mutex
	follower  *core.Follower
	publisher *core.Publisher

	// of Run's goroutine
	out   sender
	rows  rows
	spare []any // an emptied inbox, to be reused
	most  int   // bytes of entries in a message, at most

	asks  sync.WaitGroup
	count counters
}

// ErrSameNode is given to [Trace] when another process repeatedly speaks as this node.
var ErrSameNode = errors.New(
	"exchange: another process speaks as this node: give each an ID of its own",
)

// Node is what a link knows of another node.
type Node struct {
	ID           balance.NodeID
	Region       string
	Hop, Probe   string
	Edge, Worker bool
	Incarnation  uint64
	// State is "live", "gone" (silent for too long) or "left" (it said that it shuts down).
	State    string
	Heard    time.Time // when it was last heard
	Machines int       // its own machines that are in the fleet
	Behind   bool      // some of its rows have not arrived
	Acked    uint64    // the last message of this node's rows that it has applied
}

// Stats counts events since the link was made.
type Stats struct {
	Received  uint64 // messages
	Refused   uint64 // messages that could not be read, or are of another cluster
	Dropped   uint64 // messages for which there was no room; the gap is closed by a snapshot
	Rows      uint64 // rows applied
	BadRows   uint64 // rows that could not be applied
	Snapshots uint64 // answers to requests for a snapshot
	Unsent    uint64 // messages that the engine did not take
}

// New returns a link. It starts nothing.
func New(fleet *balance.Fleet, x Exchange, c Config) (*Link, error) {
	switch {
	case fleet == nil:
		return nil, errors.New("exchange: New without a fleet: make one with balance.NewFleet")
	case x == nil:
		return nil, errors.New("exchange: New without an Exchange: " +
			"use a Memory, or package nats; one process alone needs no Link")
	}
	c, err := c.resolve()
	if err != nil {
		return nil, err
	}
	l := &Link{fleet: fleet, x: x, c: c}
	l.inbox.wake, l.inbox.of = make(chan struct{}, 1), map[balance.NodeID]int{}
	incarnation := max(fleet.Incarnation(), uint64(max(0, time.Now().UnixMilli())))
	l.follower = core.NewFollower(fleet.Node(), incarnation, c.Expire)
	l.publisher = core.NewPublisher(c.Cluster, incarnation, rowsPerMessage)
	l.fit()
	l.out = sender{l: l, running: map[balance.MachineKey]*sentLoad{}}
	l.rows = rows{l: l, refused: map[balance.NodeID]map[balance.MachineKey]balance.PutMachine{}}
	return l, nil
}

// fit bounds messages by what the engine takes, which may differ after a reconnect.
func (l *Link) fit() {
	l.most = max(min(l.x.MaxPayload(), wire.MaxMessage)-payloadSlack, payloadSlack)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.publisher.Limit(min(l.most, rowsPerMessage))
}

// Run publishes and follows until ctx ends, then publishes that this node leaves, and returns nil.
// It may run once. An error says that the engine refused a subscription.
func (l *Link) Run(ctx context.Context) (err error) {
	if l.ran.Swap(true) {
		return errors.New("exchange: Link.Run was called before: make another Link")
	}
	defer l.asks.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	cancel, err := l.subscribe()
	defer func() {
		for _, c := range cancel {
			c()
		}
	}()
	if err != nil {
		return err
	}
	w := l.fleet.Watch()
	defer w.Close()
	beat := time.NewTicker(l.c.Interval)
	defer beat.Stop()
	wake := time.NewTimer(time.Hour)
	defer wake.Stop()
	l.publish(ctx, w)
	l.out.beat(time.Now())
	for {
		select {
		case <-ctx.Done():
			l.out.heartbeat(nil, true)
			return nil
		case <-w.C():
			l.publish(ctx, w)
		case <-l.inbox.wake:
			l.receive(ctx)
		case <-beat.C:
			l.tick(ctx)
			if l.out.beat(time.Now()) {
				l.rows.again()
			}
		case <-wake.C:
			l.tick(ctx)
		}
		l.setWake(wake)
	}
}

func (l *Link) subscribe() (cancel []func(), err error) {
	for _, kind := range []string{"row", "load", "ack", "ask"} {
		c, err := l.x.Subscribe(Subject{Cluster: l.c.Cluster, Kind: kind}, l.inbox.put)
		if err != nil {
			return cancel, fmt.Errorf("exchange: subscribe to %q: %w", kind, err)
		}
		cancel = append(cancel, c)
	}
	c, err := l.x.Serve(Subject{Cluster: l.c.Cluster, Kind: "snap", Node: l.fleet.Node()}, l.answer)
	if err != nil {
		return cancel, fmt.Errorf("exchange: serve snapshots: %w", err)
	}
	return append(cancel, c, l.x.OnReconnect(func() { l.inbox.add(reconnected{}) })), nil
}

// setWake arms the timer for the next request for a snapshot.
func (l *Link) setWake(t *time.Timer) {
	l.mu.Lock()
	due := l.follower.Wake()
	l.mu.Unlock()
	if due.IsZero() {
		t.Reset(time.Hour)
		return
	}
	t.Reset(time.Until(due))
}

// publish sends what has changed in the fleet. It also reports removed apps to the follower, since
// other nodes may still have machines of them.
func (l *Link) publish(ctx context.Context, w *balance.Watcher) {
	for _, app := range l.out.rows(w.Take()) {
		l.step(ctx, func(now time.Time) { l.follower.Missing(now, app) })
	}
}

func (l *Link) tick(ctx context.Context) {
	l.step(ctx, l.follower.Tick)
}

// step changes the follower and carries out the resulting actions.
func (l *Link) step(ctx context.Context, change func(now time.Time)) {
	l.mu.Lock()
	change(time.Now())
	actions := l.follower.Take()
	l.mu.Unlock()
	for _, a := range actions {
		switch a := a.(type) {
		case core.Apply:
			l.rows.apply(a)
			l.out.applied = append(l.out.applied, a.Node)
		case core.Gone:
			l.rows.gone(a)
		case core.Report:
			for _, r := range a.Reports {
				l.fleet.Report(r)
				if l.c.Report != nil {
					l.c.Report(r)
				}
			}
		case core.Ask:
			l.ask(ctx, a)
		case core.Outdated:
			l.renumber(a)
		case core.Noticed:
			if l.c.Trace.Node != nil {
				l.c.Trace.Node(publicNode(a.Node))
			}
		}
	}
}

// renumber takes the incarnation after the later one of this node that another node knows.
func (l *Link) renumber(a core.Outdated) {
	l.mu.Lock()
	l.publisher.Renumber(a.Incarnation + 1)
	l.follower.Renumber(a.Incarnation + 1)
	l.mu.Unlock()
	l.out.again()
	if a.Times > 2 {
		l.refuse(l.fleet.Node(), balance.MachineKey{}, ErrSameNode)
	}
}

// Acked implements downscale.Acks: it reports whether every live edge picks by that generation of
// the machine's cordon. While the engine carries nothing, or not yet for long enough to have heard
// all edges, it is false.
func (l *Link) Acked(app balance.AppID, id balance.MachineID, gen uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	seq, ok := l.publisher.Told(balance.MachineKey{App: app, ID: id}, gen)
	return ok && l.follower.Acked(time.Now(), seq)
}

// Parked implements downscale.Demand: it returns how many of the app's requests wait on all edges,
// this node included.
func (l *Link) Parked(app balance.AppID) (n int, fresh bool) {
	if l.c.Demand != nil {
		_, _, n = l.c.Demand(app)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	others, fresh := l.follower.Parked(time.Now(), app)
	return n + others, fresh
}

// Others returns how many of an app's requests, in flight and parked, other nodes have that count
// in that region. It is for Config.Others of package autostart.
func (l *Link) Others(app balance.AppID, region string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.follower.Others(time.Now(), app, region)
}

// Node returns what is known of a node.
func (l *Link) Node(id balance.NodeID) (Node, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, ok := l.follower.Node(id)
	return publicNode(n), ok
}

// Nodes returns what is known of all other nodes, sorted by ID.
func (l *Link) Nodes() (ns []Node) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range l.follower.Nodes() {
		n, _ := l.follower.Node(id)
		ns = append(ns, publicNode(n))
	}
	return ns
}

// Incarnation returns this node's incarnation: the fleet's, the clock's, or a later one if another
// node knew one.
func (l *Link) Incarnation() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.publisher.Incarnation()
}

// Stats returns the counters.
func (l *Link) Stats() Stats { return l.count.stats() }

var nodeStates = [...]string{core.NodeLive: "live", core.NodeGone: "gone", core.NodeLeft: "left"}

func publicNode(n core.Node) Node {
	return Node{
		ID: n.Node, Region: n.Region, Hop: n.Info.Hop, Probe: n.Info.Probe, Edge: n.Info.Edge,
		Worker: n.Info.Worker, Incarnation: n.Incarnation, State: nodeStates[n.State], Heard: n.Heard,
		Machines: n.Machines, Behind: n.Behind, Acked: n.Acked.Seq,
	}
}

type counters struct {
	received, refused, dropped, rows, badRows, snapshots, unsent atomic.Uint64
}

func (c *counters) stats() Stats {
	return Stats{
		Received: c.received.Load(), Refused: c.refused.Load(), Dropped: c.dropped.Load(),
		Rows: c.rows.Load(), BadRows: c.badRows.Load(), Snapshots: c.snapshots.Load(),
		Unsent: c.unsent.Load(),
	}
}
