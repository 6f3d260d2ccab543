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

// Bounds of what waits for Run, in messages. A dropped message shows as a gap. A node that floods
// loses its own messages first.
const (
	inboxOfNode = 1024
	inboxOfAll  = 64 << 10
)

// inbox is what has arrived and waits for Run.
type inbox struct {
	mu      sync.Mutex
	items   []any // Message, or one of the events below
	of      map[balance.NodeID]int
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

// put appends a message if there is room.
func (b *inbox) put(m Message) {
	b.mu.Lock()
	full := b.of[m.Subject.Node] >= inboxOfNode || len(b.items) >= inboxOfAll
	if full {
		b.dropped++
	} else {
		b.of[m.Subject.Node]++
		b.items = append(b.items, m)
	}
	b.mu.Unlock()
	b.signal()
}

// add appends an event; there are few.
func (b *inbox) add(event any) {
	b.mu.Lock()
	b.items = append(b.items, event)
	b.mu.Unlock()
	b.signal()
}

func (b *inbox) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// take empties the inbox, and leaves it spare to fill.
func (b *inbox) take(spare []any) (items []any, dropped uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	items, dropped = b.items, b.dropped
	b.items, b.dropped = spare, 0
	clear(b.of)
	return items, dropped
}

// receive handles what has arrived, and then acknowledges it at once.
func (l *Link) receive(ctx context.Context) {
	items, dropped := l.inbox.take(l.spare)
	l.count.dropped.Add(dropped)
	for _, item := range items {
		switch item := item.(type) {
		case Message:
			l.count.received.Add(1)
			if err := l.message(ctx, item); err != nil {
				l.count.refused.Add(1)
				l.refuse(item.Subject.Node, balance.MachineKey{}, err)
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
			l.fit()
			l.step(ctx, l.follower.Reconnected)
			l.out.again()
		case outdated:
			l.step(ctx, func(now time.Time) { l.follower.Older(now, item.incarnation) })
		case told:
			l.tell(item)
		}
	}
	clear(items)
	l.spare = items[:0]
	l.out.acks()
}

// message handles one message; the error says why it cannot be read.
func (l *Link) message(ctx context.Context, m Message) error {
	from := core.Sender{Node: m.Subject.Node, Region: m.Subject.Region}
	switch m.Subject.Kind {
	case "row":
		v, err := wire.DecodeRows(m.Payload)
		return l.take(ctx, &v.Header, err, func(now time.Time) { l.follower.Rows(now, from, &v) })
	case "load":
		v, err := wire.DecodeLoad(m.Payload)
		return l.take(ctx, &v.Header, err, func(now time.Time) { l.follower.Load(now, from, &v) })
	case "ack":
		v, err := wire.DecodeAcks(m.Payload)
		return l.take(ctx, &v.Header, err, func(now time.Time) { l.follower.Acks(now, from, &v) })
	case "ask":
		v, err := wire.DecodeAsks(m.Payload)
		return l.take(ctx, &v.Header, err, func(now time.Time) { l.follower.Demand(now, from, &v) })
	}
	return nil // from a later release
}

// take passes a message to the follower if it could be read and is of this cluster.
func (l *Link) take(ctx context.Context, h *wire.Header, err error, to func(time.Time)) error {
	if err != nil {
		return err
	}
	if h.Cluster != l.c.Cluster {
		return fmt.Errorf("exchange: message of cluster %q in %q", h.Cluster, l.c.Cluster)
	}
	l.step(ctx, to)
	return nil
}

func (l *Link) refuse(node balance.NodeID, machine balance.MachineKey, err error) {
	if l.c.Trace.Refused != nil {
		l.c.Trace.Refused(node, machine, err)
	}
}

// ask sends a request to a node without waiting. Only a few are in flight at once: see core.
func (l *Link) ask(ctx context.Context, a core.Ask) {
	a.Message.Cluster = l.c.Cluster
	question := a.Message.Encode()
	l.asks.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		b, err := l.x.Request(ctx, Subject{Cluster: l.c.Cluster, Kind: "snap", Node: a.Node}, question)
		if a.Message.Older > 0 {
			return // it told the node of a later incarnation; that has no answer
		}
		r := answered{node: a.Node, err: err}
		if err == nil {
			r.snap, r.err = wire.DecodeSnapshot(b)
		}
		if r.err == nil && r.snap.Cluster != l.c.Cluster {
			r.err = fmt.Errorf("exchange: snapshot of cluster %q in %q", r.snap.Cluster, l.c.Cluster)
		}
		l.inbox.add(r)
	})
}

// answer serves this node's snapshots. It runs on the engine's goroutines.
func (l *Link) answer(question []byte) []byte {
	a, err := wire.DecodeAsk(question)
	if err != nil || a.Cluster != l.c.Cluster {
		l.count.refused.Add(1)
		return nil
	}
	if a.Older > 0 {
		l.inbox.add(outdated{a.Older})
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.publisher.Answer(&a)
}
