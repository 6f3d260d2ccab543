package exchange

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange/internal/core"
	"github.com/ebbkit/ebb/balance/exchange/internal/wire"
)

// inboxMax bounds what waits for Run, in messages. What is dropped shows as a gap.
const inboxMax = 8192

// inbox is what has arrived and waits for Run.
type inbox struct {
	mu      sync.Mutex
	items   []any // Message, or one of the events below
	dropped uint64
	wake    chan struct{}
}

type (
	reconnected struct{}
	outdated    struct{ incarnation uint64 }
	answered    struct {
		node balance.NodeID
		snap wire.Snapshot
		err  error
	}
)

func (b *inbox) put(m Message) {
	b.mu.Lock()
	full := len(b.items) >= inboxMax
	if full {
		b.dropped++
	}
	b.mu.Unlock()
	if !full {
		b.add(m)
	}
}

func (b *inbox) add(item any) {
	b.mu.Lock()
	b.items = append(b.items, item)
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

func (b *inbox) take() (items []any, dropped uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	items, dropped = b.items, b.dropped
	b.items, b.dropped = nil, 0
	return items, dropped
}

// receive takes in what has arrived.
func (l *Link) receive(ctx context.Context) {
	items, dropped := l.inbox.take()
	l.count.dropped.Add(dropped)
	for _, item := range items {
		switch item := item.(type) {
		case Message:
			l.count.received.Add(1)
			if err := l.message(ctx, item); err != nil {
				l.refuse(item.Subject.Node, balance.MachineKey{}, err)
				l.count.refused.Add(1)
			}
		case answered:
			l.step(ctx, func(now time.Time) {
				if item.err != nil {
					l.follower.Failed(now, item.node)
					return
				}
				l.count.snapshots.Add(1)
				l.follower.Answer(now, item.node, &item.snap)
			})
		case reconnected:
			l.step(ctx, func(now time.Time) { l.follower.Reconnected(now) })
			l.out.again()
		case outdated:
			l.renumber(item.incarnation)
		}
	}
}

// message takes in one message; the error says why it cannot be read.
func (l *Link) message(ctx context.Context, m Message) error {
	from := core.Sender{Node: m.Subject.Node, Region: m.Subject.Region}
	var take func(time.Time)
	var h wire.Header
	switch m.Subject.Kind {
	case "row":
		v, err := wire.DecodeRows(m.Payload)
		if err != nil {
			return err
		}
		h, take = v.Header, func(now time.Time) { l.follower.Rows(now, from, &v) }
	case "load":
		v, err := wire.DecodeLoad(m.Payload)
		if err != nil {
			return err
		}
		h, take = v.Header, func(now time.Time) { l.follower.Load(now, from, &v) }
	case "ack":
		v, err := wire.DecodeAcks(m.Payload)
		if err != nil {
			return err
		}
		h, take = v.Header, func(now time.Time) { l.follower.Acks(now, from, &v) }
	case "ask":
		v, err := wire.DecodeAsks(m.Payload)
		if err != nil {
			return err
		}
		h, take = v.Header, func(now time.Time) { l.follower.Demand(now, from, &v) }
	default:
		return nil // of a later release
	}
	if h.Cluster != l.c.Cluster {
		return fmt.Errorf("exchange: message of cluster %q in %q", h.Cluster, l.c.Cluster)
	}
	l.step(ctx, take)
	return nil
}

func (l *Link) refuse(node balance.NodeID, machine balance.MachineKey, err error) {
	if l.c.Trace.Refused != nil {
		l.c.Trace.Refused(node, machine, err)
	}
}

// ask asks a node, without waiting.
func (l *Link) ask(ctx context.Context, a core.Ask) {
	a.Message.Cluster = l.c.Cluster
	question := a.Message.Encode()
	l.asks.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		b, err := l.x.Request(ctx, Subject{Cluster: l.c.Cluster, Kind: "snap", Node: a.Node}, question)
		r := answered{node: a.Node, err: err}
		if err == nil {
			r.snap, r.err = wire.DecodeSnapshot(b)
		}
		if r.err == nil && r.snap.Cluster != l.c.Cluster {
			r.err = fmt.Errorf("exchange: snapshot of cluster %q in %q", r.snap.Cluster, l.c.Cluster)
		}
		if a.Message.Older == 0 {
			l.inbox.add(r)
		}
	})
}

// apply puts a node's rows into the fleet. A row that is refused is left out; the others stand.
func (l *Link) apply(a core.Apply) {
	var us []balance.Update
	for _, r := range a.Rows {
		l.applied++
		v := balance.Version{Incarnation: a.Incarnation, Seq: l.applied}
		k := r.Machine.Key()
		switch {
		case r.Err != nil:
			l.bad(a.Node, k, r.Err)
			us = l.markGone(us, a.Node, k, v)
		case r.Removed:
			if l.owner(k) == a.Node {
				us = append(us, balance.RemoveMachine{App: k.App, ID: k.ID, Version: v})
			}
		default:
			r.Machine.Owner = a.Node
			us = append(us, balance.PutMachine{Machine: r.Machine, Version: v})
		}
	}
	l.put(a.Node, us)
}

// owner returns whose a machine in the fleet is.
func (l *Link) owner(k balance.MachineKey) balance.NodeID {
	s, ok := l.fleet.App(k.App)
	if !ok {
		return ""
	}
	m, _ := s.Machine(k.ID)
	return m.Owner
}

// markGone appends that a node's machine cannot be used.
func (l *Link) markGone(us []balance.Update, node balance.NodeID, k balance.MachineKey, v balance.Version) []balance.Update {
	s, ok := l.fleet.App(k.App)
	if !ok {
		return us
	}
	m, ok := s.Machine(k.ID)
	if !ok || m.Owner != node || m.State == balance.StateGone {
		return us
	}
	m.State = balance.StateGone
	return append(us, balance.PutMachine{Machine: m, Version: v})
}

// gone marks the machines of a node that is gone.
func (l *Link) gone(a core.Gone) {
	var us []balance.Update
	for _, k := range a.Machines {
		l.applied++
		us = l.markGone(us, a.Node, k, balance.Version{Incarnation: a.Incarnation, Seq: l.applied})
	}
	l.put(a.Node, us)
}

// put applies updates at once, or, where one of them is refused, one by one.
func (l *Link) put(node balance.NodeID, us []balance.Update) {
	if len(us) == 0 {
		return
	}
	if l.try(us...) == nil {
		l.count.rows.Add(uint64(len(us)))
		return
	}
	for _, u := range us {
		if err := l.try(u); err != nil {
			l.bad(node, keyOf(u), err)
			continue
		}
		l.count.rows.Add(1)
	}
}

func keyOf(u balance.Update) (k balance.MachineKey) {
	switch u := u.(type) {
	case balance.PutMachine:
		k = u.Machine.Key()
	case balance.RemoveMachine:
		k = balance.MachineKey{App: u.App, ID: u.ID}
	}
	return k
}

// try applies updates. What another node wrote must not end this one: a panic is an error.
func (l *Link) try(us ...balance.Update) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("exchange: panic: %v", p)
		}
	}()
	return l.fleet.Apply(us...)
}

func (l *Link) bad(node balance.NodeID, k balance.MachineKey, err error) {
	l.count.badRows.Add(1)
	l.refuse(node, k, err)
}
