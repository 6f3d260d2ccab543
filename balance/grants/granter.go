package balance

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// GranterConfig configures a [Granter].
type GranterConfig struct {
	// Give carries a grant to a node: in this process to [Balancer.Take]. It is called with no lock held, on
	// the goroutine of whatever frees a slot, and must not block; required.
	Give func(NodeID, Grant)
	// For is how long a grant may be used; 0 means 1 s. Unused ones return to the owner after twice as long: it has
	// to be longer than the way to the node and back.
	For time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// tickGrants is how often Run takes back and hands out.
const tickGrants = 100 * time.Millisecond

// Granter hands out the slots of an owner's machines that take 1 to 3 requests at a time: GPU pools. No node can guess
// which of them is free now, so the owner says it: a slot goes to the node at which most requests wait, or, when nobody
// waits, to one node after the other. All methods are safe for concurrent use.
//
// Nodes say how many requests wait with [Granter.Ask], split over the owners by [Balancer.Asks]. A grant reaches the node
// through [GranterConfig.Give] and [Balancer.Take]; its next pick uses it, and the token, which [Reservation.Grant] returns,
// travels with the request to [Gate.Enter]; package backhaul does that. Any of these messages may be lost, late or
// doubled: the gate counts a granted slot as taken until its token is spent or taken back, so that limits hold, and what is
// not used returns in time.
//
// Where all requests enter in the process that owns the machines no grants are needed: a [Balancer] reads its own gates, and
// its picks are exact. A node that shares the machines it owns with other nodes asks itself like any other.
type Granter struct {
	fleet *Fleet
	c     GranterConfig
	ran   atomic.Bool

	mu   sync.Mutex
	apps map[AppID]*granting
}

// granting is one app's slots.
type granting struct {
	slots  slots
	out    []given
	hooked map[*Gate]uint64 // the round that saw it last
	round  uint64
	used   time.Time // when a request waited or a slot was used last
	gave   time.Time // when a slot was given last
}

// given is a grant that is on its way or waits to be used.
type given struct {
	node    NodeID
	machine MachineID
	gate    *Gate
	token   uint64
	at      time.Time
	lent    bool // given to a node at which nothing waited
}

// NewGranter returns a granter for the machines that f's node owns; a fleet has one. It starts nothing: it acts when it is
// asked, when a request leaves, when a row changes, and on Tick.
func NewGranter(f *Fleet, c GranterConfig) (*Granter, error) {
	switch {
	case f == nil:
		return nil, fmt.Errorf("balance: NewGranter without a fleet: make one with NewFleet")
	case c.Give == nil:
		return nil, fmt.Errorf("balance: GranterConfig.Give is nil: set it to what carries a grant to a node")
	case c.For < 0:
		return nil, fmt.Errorf("balance: GranterConfig.For %v: want 0 (1 s) or more", c.For)
	}
	if c.For == 0 {
		c.For = time.Second
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	g := &Granter{fleet: f, c: c, apps: map[AppID]*granting{}}
	f.listen(g.changed)
	return g, nil
}

// lendFor is how long after the last use slots are lent to nodes at which nothing waits. A lent slot counts as in flight,
// and an app that nobody uses has to fall asleep.
const lendFor = 10 * time.Second

// askFor is how long what a node said about its parked requests counts.
const askFor = 5 * time.Second

// Ask says how many requests of an app wait at a node now; it replaces what the node said before. A node that asks several
// owners tells each a part, another one each time: told of all, several would reserve slots for the same request.
// [Balancer.Asks] splits them. Nodes say it when it changes, and every second or so while they live: a node that is not
// heard of gets no slots. A negative number says that the node does not even want one at hand.
func (g *Granter) Ask(node NodeID, app AppID, parked int) {
	now := g.c.Now()
	g.mu.Lock()
	a, ok := g.apps[app]
	if !ok {
		a = &granting{hooked: map[*Gate]uint64{}}
		g.apps[app] = a
	}
	if parked > 0 {
		a.used = now
	}
	a.slots.ask(node, parked, now.Add(askFor).UnixNano())
	g.mu.Unlock()
	g.deal(app)
}

// Back takes back a slot that the node could not use, see [Config.GiveBack]. It is free at the next occasion, and not at
// once: the same node would only fail to use it again. Of a slot that was used or taken back meanwhile it does nothing.
func (g *Granter) Back(node NodeID, back Grant) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a, ok := g.apps[back.App]
	if !ok {
		return
	}
	for i, x := range a.out {
		if x.token == back.Token && x.machine == back.Machine && x.node == node && x.gate.Revoke(x.token) {
			a.slots.hold(node, -1)
			a.out = append(a.out[:i], a.out[i+1:]...)
			return
		}
	}
}

// Run ticks every 100 ms until ctx ends; then it returns nil. A Granter runs once: another call returns an error.
func (g *Granter) Run(ctx context.Context) error {
	if g.ran.Swap(true) {
		return errors.New("balance: Granter.Run was called before: make another granter with NewGranter")
	}
	t := time.NewTicker(tickGrants)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			g.Tick()
		}
	}
}

// Tick takes back what was not used in time and hands out what is free. It is for callers with a loop or a clock of their
// own: call it every 100 ms or so.
func (g *Granter) Tick() {
	g.mu.Lock()
	var apps []AppID
	for id, a := range g.apps {
		if len(a.slots.nodes) == 0 && len(a.out) == 0 {
			delete(g.apps, id) // nobody has asked for long
			continue
		}
		apps = append(apps, id)
	}
	g.mu.Unlock()
	for _, id := range apps {
		g.deal(id)
	}
}

// changed is called when rows of an app have changed. To nodes that have had slots lately it hands those of a new machine at
// once. Others guess, and would find the slot that is on its way to them taken.
func (g *Granter) changed(app AppID) {
	g.mu.Lock()
	a, ok := g.apps[app]
	var gave time.Time
	if ok {
		gave = a.gave
	}
	g.mu.Unlock()
	if ok && g.c.Now().Sub(gave) < lapse*tickEvery {
		g.deal(app)
	}
}

// notice is a message to a node: a grant, or the end of one.
type notice struct {
	node NodeID
	Grant
}

// deal brings the grants of an app in line with its gates: level-triggered, whatever happened in between.
func (g *Granter) deal(app AppID) {
	now := g.c.Now()
	var notices []notice
	g.mu.Lock()
	if a, ok := g.apps[app]; ok {
		for _, x := range a.settle(now, g.c.For) {
			notices = append(notices, x.revoked(app))
		}
		if s, ok := g.fleet.App(app); ok {
			notices = g.hand(s, app, a, now, notices)
		}
	}
	g.mu.Unlock()
	for _, x := range notices {
		g.c.Give(x.node, x.Grant)
	}
}

// hand gives free slots to nodes: those of the best machines first. What nodes hold without need is taken from them only when
// nothing is free and somebody waits.
func (g *Granter) hand(s *Snapshot, app AppID, a *granting, now time.Time,
	notices []notice) []notice {
	a.round++
	for tier := range tiers {
		for m := range s.rows() {
			if !g.grants(m) || m.tier != tier {
				continue
			}
			gate := m.cell.gate
			if a.hooked[gate] == 0 {
				gate.onLeave(func() { g.deal(app) })
			}
			a.hooked[gate] = a.round
			for {
				node, lacks, ok := a.slots.next(now.UnixNano())
				if !ok || !lacks && (now.Sub(a.used) > lendFor || tier != TierReady || gate.word.Load()&cordonBit != 0) {
					break
				}
				token, ok := gate.Grant()
				if !ok {
					break
				}
				notices = append(notices, a.give(m, app, node, token, now, g.c.For, !lacks))
			}
		}
	}
	for gate, round := range a.hooked {
		if round != a.round {
			delete(a.hooked, gate) // it sleeps, or has been removed
		}
	}
	for m := range s.rows() {
		for g.grants(m) && m.tier < tiers {
			node, lacks, ok := a.slots.next(now.UnixNano())
			if !ok || !lacks {
				return notices
			}
			from, ok := a.takeBack(m.cell.gate, now.Add(-g.c.For/10))
			if !ok {
				break
			}
			notices = append(notices, from.revoked(app))
			if token, ok := m.cell.gate.Grant(); ok {
				notices = append(notices, a.give(m, app, node, token, now, g.c.For, false))
			}
		}
	}
	return notices
}

// grants reports whether the slots of a machine are granted here.
func (g *Granter) grants(m *row) bool {
	return m.cell.gate != nil && m.shared.limits.granted()
}

// give notes a grant.
func (a *granting) give(m *row, app AppID, node NodeID, token uint64, now time.Time,
	lasts time.Duration, lent bool) notice {
	a.gave = now
	a.slots.hold(node, 1)
	a.out = append(a.out, given{node, m.id, m.cell.gate, token, now, lent})
	return notice{
		node, Grant{App: app, Machine: m.id, Epoch: m.cell.gate.epoch.Load(), Token: token, For: lasts},
	}
}

func (x *given) revoked(app AppID) notice {
	return notice{x.node, Grant{App: app, Machine: x.machine, Token: x.token, Revoked: true}}
}

// settle drops the grants that were used, and takes back those that were not used in time. Those that it takes back before
// it returns: of a machine that does not run, and loans of one that is about to sleep.
func (a *granting) settle(now time.Time, lasts time.Duration) (revoked []given) {
	kept := a.out[:0]
	for _, x := range a.out {
		w := x.gate.word.Load()
		early := stateOf(w) != Started || x.lent && w&cordonBit != 0
		back := (early || now.Sub(x.at) > 2*lasts) && x.gate.Revoke(x.token)
		switch {
		case back && early:
			revoked = append(revoked, x)
		case back:
		case x.gate.granted(x.token):
			kept = append(kept, x)
			continue
		default:
			a.used = now
		}
		a.slots.hold(x.node, -1)
	}
	clear(a.out[len(kept):])
	a.out = kept
	a.slots.expire(now.UnixNano())
	return revoked
}

// takeBack revokes a slot of the gate that a node holds without need: one that was lent, or one asked for that should have
// been used by now. A node that uses it before it hears of that is bounced.
func (a *granting) takeBack(gate *Gate, before time.Time) (given, bool) {
	for i, x := range a.out {
		if x.gate == gate && (x.lent || x.at.Before(before)) && a.slots.idle(x.node) && gate.Revoke(x.token) {
			a.slots.hold(x.node, -1)
			a.out = append(a.out[:i], a.out[i+1:]...)
			return x, true
		}
	}
	return given{}, false
}
