package core

import (
	"cmp"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange/internal/wire"
)

// check requests a snapshot of a node when something of it is missing.
func (f *Follower) check(now time.Time, n *node) {
	if n.state != NodeLive || !n.doubt && !n.behind() {
		if !n.asking.busy {
			delete(f.wanting, n.Node)
		}
		return
	}
	if _, ok := f.wanting[n.Node]; !ok {
		f.wanting[n.Node] = n
		due := now
		if n.whole && n.applied > 0 {
			due = now.Add(grace)
		}
		if due.After(n.due) {
			n.due = due
		}
	}
	f.askDue(now)
}

// askDue sends the requests that are due, the one due longest first.
func (f *Follower) askDue(now time.Time) {
	for f.busy < asksAtOnce {
		n := f.nextDue()
		if n == nil || n.due.After(now) {
			return
		}
		if n.state != NodeLive {
			delete(f.wanting, n.Node)
			continue
		}
		n.asking.busy = true
		f.busy++
		f.do(Ask{n.Node, f.question(n)})
	}
}

func (f *Follower) nextDue() (next *node) {
	for _, n := range f.wanting {
		if n.asking.busy {
			continue
		}
		if next == nil || cmp.Or(n.due.Compare(next.due), cmp.Compare(n.Node, next.Node)) < 0 {
			next = n
		}
	}
	return next
}

func (f *Follower) question(n *node) wire.Ask {
	a := wire.Ask{Node: f.self}
	a.Part, a.Cut = n.next()
	if n.whole {
		a.Incarnation, a.Seq = n.incarnation, n.applied
	}
	return a
}

// Wake returns when the next request is due; zero when none is.
func (f *Follower) Wake() time.Time {
	if f.busy >= asksAtOnce {
		return time.Time{}
	}
	if n := f.nextDue(); n != nil {
		return n.due
	}
	return time.Time{}
}

// Answer handles the answer to a request.
func (f *Follower) Answer(now time.Time, node balance.NodeID, m *wire.Snapshot) {
	n, ok := f.nodes[node]
	if !ok || !n.asking.busy {
		return
	}
	n.asking.busy = false
	f.busy--
	defer f.askDue(now)
	switch {
	case m.Incarnation < n.incarnation:
		f.tellOlder(now, n)
		f.retry(now, n)
		return
	case m.Incarnation > n.incarnation:
		f.renew(n, m.Incarnation)
	}
	if m.Parts == 0 { // nothing has changed
		n.ahead = max(n.ahead, m.Seq)
		n.doubt = false
		f.answered(now, n)
		return
	}
	rows, r := n.snapshot(m)
	f.apply(n, rows)
	switch r {
	case partTaken:
		n.fails, n.due = 0, now
	case partRefused:
		f.retry(now, n)
	case partLast:
		n.doubt = false
		f.answered(now, n)
	}
}

// answered ends a request, or delays the next one a little when something is missing again.
func (f *Follower) answered(now time.Time, n *node) {
	n.fails, n.due = 0, now.Add(grace)
	if !n.behind() {
		n.due = time.Time{}
		delete(f.wanting, n.Node)
	}
}

// Failed says that a request was not answered.
func (f *Follower) Failed(now time.Time, node balance.NodeID) {
	n, ok := f.nodes[node]
	if !ok || !n.asking.busy {
		return
	}
	n.asking.busy = false
	f.busy--
	f.retry(now, n)
	f.askDue(now)
}

func (f *Follower) retry(now time.Time, n *node) {
	n.stream.forget()
	wait := min(backoffLeast<<min(n.fails, 20), backoffMost)
	n.fails++
	n.due = now.Add(wait/2 + share(wait/2, f.self, n.Node))
}

// Reconnected says that messages may have been lost: a snapshot of every node is requested.
func (f *Follower) Reconnected(now time.Time) {
	for _, n := range f.nodes {
		if n.state != NodeLive {
			continue
		}
		n.doubt, n.fails = true, 0
		n.due = now.Add(share(spread, f.self, n.Node))
		f.wanting[n.Node] = n
	}
	f.askDue(now)
}

// share returns a part of d that depends on the pair of nodes, so that many nodes do not ask one
// node at once.
func share(d time.Duration, a, b balance.NodeID) time.Duration {
	const parts = 1 << 20
	pair := balance.MachineKey{App: balance.AppID(a), ID: balance.MachineID(b)}
	return d / parts * time.Duration(pair.Rank()%parts)
}
