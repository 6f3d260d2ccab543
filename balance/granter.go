package balance

import (
	"fmt"
	"sync"
	"time"
)

// Grant is a slot of a machine that its owner has reserved for a node. The gate counts it as in flight already; the
// request that uses it enters with [Gate.Redeem] and the token. It fits a wire.
type Grant struct {
	App     AppID
	Machine MachineID
	Epoch   uint64
	Token   uint64
	For     time.Duration // how long the node may use it, from when it is received
	Revoked bool          // the owner takes the slot back: another node needs it more
}

// GranterConfig configures a [Granter].
type GranterConfig struct {
	// Give carries a grant to a node: in this process to [Balancer.Take]. It is called with no lock held; required.
	Give func(NodeID, Grant)
	// For is how long a grant may be used; 0 means 1 s. Unused ones return to the owner after twice as long.
	For time.Duration
	// MaxHard is up to which hard limit a machine's slots are granted; 0 means 3. Above it guessing is good enough.
	MaxHard int
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Granter hands out the slots of an owner's machines that take 1 to 3 requests at a time: GPU pools. No node can guess
// which of them is free now, so the owner says it: a slot goes to the node at which most requests wait, or, when nobody
// waits, to one node after the other. All methods are safe for concurrent use.
type Granter struct {
	fleet *Fleet
	c     GranterConfig

	mu   sync.Mutex
	apps map[AppID]*granting
}

// granting is one app's slots.
type granting struct {
	slots  slots
	out    []given
	hooked map[*Gate]bool
	used   time.Time // when a request waited or a slot was used last
}

// given is a grant that is on its way or waits to be used.
type given struct {
	node  NodeID
	gate  *Gate
	token uint64
	at    time.Time
	lent  bool // given to a node at which nothing waited
}

// NewGranter returns a granter for the machines that f's node owns. It starts nothing: it acts when it is asked, when a
// request leaves, and on Tick.
func NewGranter(f *Fleet, c GranterConfig) (*Granter, error) {
	switch {
	case f == nil:
		return nil, fmt.Errorf("balance: NewGranter without a fleet: make one with NewFleet")
	case c.Give == nil:
		return nil, fmt.Errorf("balance: GranterConfig.Give is nil: set it to what carries a grant to a node")
	case c.For < 0:
		return nil, fmt.Errorf("balance: GranterConfig.For %v: want 0 (1 s) or more", c.For)
	case c.MaxHard < 0:
		return nil, fmt.Errorf("balance: GranterConfig.MaxHard %d: want 0 (3) or more", c.MaxHard)
	}
	if c.For == 0 {
		c.For = time.Second
	}
	if c.MaxHard == 0 {
		c.MaxHard = fewSlots
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Granter{fleet: f, c: c, apps: map[AppID]*granting{}}, nil
}

// lendFor is how long after the last use slots are lent to nodes at which nothing waits. A lent slot counts as in flight,
// and an app that nobody uses has to fall asleep.
const lendFor = 10 * time.Second

// askFor is how long what a node said about its parked requests counts.
const askFor = 5 * time.Second

// Ask says how many requests of an app wait at a node now; it replaces what the node said before. A node that asks several
// owners tells each a part, another one each time: told of all, several would reserve slots for the same request. Nodes say it when it
// changes, and every second or so while they live: a node that is not heard of gets no slots.
func (g *Granter) Ask(node NodeID, app AppID, parked int) {
	now := g.c.Now()
	g.mu.Lock()
	a := g.app(app)
	if parked > 0 {
		a.used = now
	}
	a.slots.ask(node, max(parked, 0), now.Add(askFor).UnixNano())
	g.mu.Unlock()
	g.deal(app)
}

// Tick takes back what was not used in time and hands out what is free. Call it every 100 ms or so.
func (g *Granter) Tick() {
	g.mu.Lock()
	var apps []AppID
	for id := range g.apps {
		apps = append(apps, id)
	}
	g.mu.Unlock()
	for _, id := range apps {
		g.deal(id)
	}
}

func (g *Granter) app(id AppID) *granting {
	a, ok := g.apps[id]
	if !ok {
		a = &granting{hooked: map[*Gate]bool{}}
		g.apps[id] = a
	}
	return a
}

// deal brings the grants of an app in line with its gates: level-triggered, whatever happened in between.
func (g *Granter) deal(app AppID) {
	now := g.c.Now()
	type gift struct {
		node NodeID
		Grant
	}
	var gifts []gift
	g.mu.Lock()
	a := g.app(app)
	a.settle(now, g.c.For)
	if s, ok := g.fleet.App(app); ok {
		for m := range s.rows() {
			gate := m.cell.gate
			if gate == nil || m.kin.limits.Hard == 0 || m.kin.limits.Hard > g.c.MaxHard {
				continue
			}
			if !a.hooked[gate] {
				a.hooked[gate] = true
				gate.onLeave(func() { g.deal(app) })
			}
			for {
				node, lacks, ok := a.slots.next(now.UnixNano())
				if !ok || !lacks && (now.Sub(a.used) > lendFor || m.cordon() != CordonNone) {
					break
				}
				token, ok := gate.Grant()
				if !ok && lacks {
					var from given
					if from, ok = a.takeBack(gate, now.Add(-g.c.For/10)); ok {
						gifts = append(gifts, gift{from.node, Grant{App: app, Machine: m.id, Token: from.token, Revoked: true}})
						token, ok = gate.Grant()
					}
				}
				if !ok {
					break
				}
				a.slots.hold(node, 1)
				a.out = append(a.out, given{node, gate, token, now, !lacks})
				gifts = append(gifts, gift{node, Grant{App: app, Machine: m.id, Epoch: gate.epoch.Load(), Token: token, For: g.c.For}})
			}
		}
	}
	g.mu.Unlock()
	for _, x := range gifts {
		g.c.Give(x.node, x.Grant)
	}
}

// settle drops the grants that were used, and takes back those that were not used in time.
func (a *granting) settle(now time.Time, lasts time.Duration) {
	kept := a.out[:0]
	for _, x := range a.out {
		late := now.Sub(x.at) > 2*lasts && x.gate.Revoke(x.token)
		if late || !x.gate.granted(x.token) {
			a.slots.hold(x.node, -1)
			if !late {
				a.used = now
			}
			continue
		}
		kept = append(kept, x)
	}
	a.out = kept
	a.slots.expire(now.UnixNano())
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
