package grants

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/grants/internal/deal"
	"github.com/ebbkit/ebb/balance/internal/granting"
)

// Config configures a [Granter].
type Config struct {
	// Give carries a grant to a node: in this process to [balance.Balancer.AcceptGrant]. It is called
	// with no lock held, on the goroutine of whatever frees a slot, and must not block; required.
	Give func(balance.NodeID, balance.Grant)
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

const (
	// grantFor is how long a grant may be used. Unused slots return to the owner after twice as
	// long. It is longer than the round trip to any node, and short compared with a request on
	// machines that take a few at a time.
	grantFor = time.Second
	// tickEvery is how often Run takes back and hands out slots.
	tickEvery = 100 * time.Millisecond
)

// Granter hands out the slots of an owner's machines that take one to three requests at a time. A
// slot goes to the node at which most requests wait, or, when nobody waits, to one node after the
// other. All methods are safe for concurrent use.
//
// Nodes say with [Granter.Ask] how many requests wait, split over the owners by
// [balance.Balancer.Asks]. A grant reaches the node through [Config.Give] and
// [balance.Balancer.AcceptGrant]. The node's next pick uses it, and the token, which
// [balance.Reservation.GrantToken] returns, travels with the request to [balance.Gate.Enter];
// package backhaul does that. Any of these messages may be lost, late or duplicated: the gate
// counts a granted slot as taken until its token is spent or revoked, so that limits hold, and
// unused slots return in time.
//
// If all requests enter in the process that owns the machines, no grants are needed: a
// [balance.Balancer] reads the gates of its own process, and its picks are exact. A node that
// shares the machines it owns with other nodes asks itself like any other.
type Granter struct {
	fleet *balance.Fleet
	c     Config
	lasts time.Duration // of a grant
	ran   atomic.Bool

	mu   sync.Mutex
	apps map[balance.AppID]*app
}

// app is an app for which nodes ask.
type app struct {
	slots    *deal.Slots
	machines []deal.Machine // scratch
	// gates that report requests that leave, by the last round in which they were seen
	hooked map[*balance.Gate]uint64
	round  uint64
}

// New returns a granter for the machines that f's node owns; a fleet has one. It starts nothing: it
// acts when it is asked, when a request leaves, when a row changes, and on Tick.
func New(f *balance.Fleet, c Config) (*Granter, error) {
	switch {
	case f == nil:
		return nil, fmt.Errorf("grants: New without a fleet: make one with balance.NewFleet")
	case c.Give == nil:
		return nil, fmt.Errorf("grants: Config.Give is nil: set it to what carries a grant to a node")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	g := &Granter{fleet: f, c: c, lasts: grantFor, apps: map[balance.AppID]*app{}}
	f.OnChange(g.changed)
	return g, nil
}

// Ask says how many requests of an app wait at a node now; it replaces what the node said before. A
// node that asks several owners tells each of a different part, which [balance.Balancer.Asks]
// splits: otherwise several owners would reserve slots for the same request. Nodes ask when the
// number changes, and at least every second while they live: a silent node gets no slots. A
// negative number says that the node does not even want a slot kept ready.
func (g *Granter) Ask(node balance.NodeID, id balance.AppID, parked int) {
	now := g.c.Now()
	g.mu.Lock()
	a, ok := g.apps[id]
	if !ok {
		a = &app{slots: deal.New(id, g.lasts), hooked: map[*balance.Gate]uint64{}}
		g.apps[id] = a
	}
	a.slots.Ask(now, node, parked)
	g.mu.Unlock()
	g.deal(id)
}

// Back takes back a slot that the node could not use, see [balance.Config.GiveBack]. The slot is
// handed out in the next round, not at once: the same node would fail to use it again. Back does
// nothing for a slot that was used or revoked meanwhile.
func (g *Granter) Back(node balance.NodeID, back balance.Grant) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if a, ok := g.apps[back.App]; ok {
		a.slots.Back(node, back)
	}
}

// Run ticks every 100 ms until ctx ends; then it returns nil. A Granter runs once: another call
// returns an error.
func (g *Granter) Run(ctx context.Context) error {
	if g.ran.Swap(true) {
		return errors.New("grants: Granter.Run was called before: make another granter with New")
	}
	t := time.NewTicker(tickEvery)
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

// Tick takes back slots that were not used in time and hands out free ones. It is for callers with
// a loop or a clock of their own: call it about every 100 ms.
func (g *Granter) Tick() {
	g.mu.Lock()
	var asked []balance.AppID
	for id, a := range g.apps {
		if a.slots.Forgotten() {
			delete(g.apps, id)
			continue
		}
		asked = append(asked, id)
	}
	g.mu.Unlock()
	for _, id := range asked {
		g.deal(id)
	}
}

// changed is called when rows of an app have changed.
func (g *Granter) changed(id balance.AppID) {
	g.mu.Lock()
	a, ok := g.apps[id]
	var gave time.Time
	if ok {
		gave = a.slots.Gave()
	}
	g.mu.Unlock()
	// Slots of a machine that joins are handed out at once only while nodes do not guess: a node
	// that guesses would be bounced because of the slot that is on its way to it.
	if ok && g.c.Now().Sub(gave) < granting.GuessAfter {
		g.deal(id)
	}
}

// deal makes the grants of an app agree with its gates, whatever happened in between.
func (g *Granter) deal(id balance.AppID) {
	now := g.c.Now()
	var notices []deal.Notice
	g.mu.Lock()
	if a, ok := g.apps[id]; ok {
		notices = a.slots.Deal(now, g.look(id, a))
	}
	g.mu.Unlock()
	for _, n := range notices {
		g.c.Give(n.Node, n.Grant)
	}
}

// look returns the machines of an app whose slots can be granted now, and makes their gates report
// when a request leaves. g.mu is held.
func (g *Granter) look(id balance.AppID, a *app) []deal.Machine {
	a.machines = a.machines[:0]
	s, ok := g.fleet.App(id)
	if !ok {
		return nil
	}
	a.round++
	settings := s.App()
	for m, gate := range g.fleet.Owned(id) {
		tier := gate.Tier()
		if tier == balance.TierNone || !settings.LimitsOf(*m).Granted() {
			continue
		}
		if a.hooked[gate] == 0 {
			gate.OnLeave(func() { g.deal(id) })
		}
		a.hooked[gate] = a.round
		a.machines = append(a.machines, deal.Machine{ID: m.ID, Gate: gate, Tier: tier})
	}
	for gate, round := range a.hooked {
		if round != a.round {
			delete(a.hooked, gate) // it sleeps, or has been removed
		}
	}
	return a.machines
}
