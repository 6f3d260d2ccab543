package balance

import (
	"iter"
	"sync"
	"sync/atomic"
	"time"
)

// Grant is a slot of a machine that its owner has reserved for a node. The gate counts it as in
// flight already; the request that uses it enters with [Gate.Enter] and the token. It fits a wire.
type Grant struct {
	App     AppID
	Machine MachineID
	Epoch   uint64
	Token   uint64
	For     time.Duration // how long the node may use it, from when it is received
	// the owner takes the slot back: another node needs it more, or the machine goes to sleep
	Revoked bool
}

// AcceptGrant takes in a slot that a machine's owner has granted to this node, or taken back; the
// next pick may use it. It reports false when the machine is not known. Grants may come late, twice
// and out of order: a pick uses each once, and one that was taken back not at all. From an app's
// first grant on, this node sends its machines that take 1 to 3 requests at a time nothing without
// one, until 5 s have passed without any: then it guesses again. So either all owners of an app's
// machines grant their slots, or none.
func (b *Balancer) AcceptGrant(g Grant) bool {
	a, ok := (*b.fleet.apps.Load())[g.App]
	if !ok {
		return false
	}
	c := a.cells.find(g.Machine)
	if c == nil {
		return false
	}
	held := c.remember().granted()
	if g.Revoked {
		held.drop(c, g.Token)
		return true
	}
	now := b.fleet.tick.Load()
	if a.granted.Swap(now) == 0 {
		for m := range a.snap.Load().rows() {
			m.cell.underGrants(m.shared.limits)
		}
	}
	held.put(c, ticket{g.Token, now + max(1, int64(g.For/tickEvery))})
	b.signal(g.App)
	return true
}

// GrantToken returns the token of the slot that the pick uses, for [Gate.Enter]; ok is false when
// the machine's owner does not grant. Ask for it when the request is about to leave: a reservation
// that is released without having been asked leaves its slot to this node's next request.
func (r *Reservation) GrantToken() (token uint64, ok bool) {
	r.shown = true
	return r.ticket.token, r.ticket.token != 0
}

// NotSent says that the token which GrantToken returned has not left this process: the machine's
// owner could not be reached. Release then hands the slot to [Config.GiveBack] rather than leave it
// to expire.
func (r *Reservation) NotSent() { r.lost = true }

// giveBack returns the unused granted slot of a reservation that is being released: to this node's
// next request, or to the owner.
func (r *Reservation) giveBack() {
	switch {
	case !r.shown:
		r.row.cell.remember().granted().putBack(r.row.cell, r.ticket)
	case r.lost && r.b.giveBack != nil:
		r.b.giveBack(r.row.shared.owner,
			Grant{App: r.row.shared.app, Machine: r.row.id, Token: r.ticket.token})
	}
}

// Asks says whom to tell about an app's parked requests, for Granter.Ask of package balance/grants:
// each owner of machines that take one to three requests at a time, with its part of them. The
// parts add up to parked, so that no two owners reserve slots for the same request. The nearest
// regions come first: they are told of as many as it pays to wait there for, by the round trips,
// the slots and how long requests stay, and farther ones of the rest; a negative part says that the
// owner need not keep a slot at hand for this node either. Inside a region parts go by the slots of
// the machines that run or start, and each call leaves what does not come out even to another
// owner. It yields nothing for an app that has no such machines. Call it when the number has
// changed, and every second or less while this node lives.
func (b *Balancer) Asks(app AppID, parked int) iter.Seq2[NodeID, int] {
	return func(yield func(NodeID, int) bool) {
		ab, ok := (*b.apps.Load())[app]
		if !ok {
			return
		}
		owners := ab.view.Load().granting()
		split(max(parked, 0), owners, ab.asks.Add(1)+hash2(string(b.fleet.node), string(app)))
		for i := range owners {
			if !yield(owners[i].node, owners[i].part) {
				return
			}
		}
	}
}

// lapse is how many ticks after the last grant a node takes the owner for one that does not grant.
const lapse = 50

// ticket is a granted slot and the tick until which it may be used.
type ticket struct {
	token uint64
	until int64
}

const (
	// ticketsMax is how many granted slots of one machine a node holds. An owner never grants more
	// than fewSlots at a time; beyond that there may be some that it has taken back, of which this
	// node has not heard.
	ticketsMax = 2 * fewSlots
	// tokensKept is how many tokens are remembered that must not come again.
	tokensKept = 16
)

// tickets are the granted slots of one machine that wait to be used. A pick takes one without a
// lock; only that happens beside what the lock guards. The number of them stands in the cell's
// estimate too: whoever changes it counts them anew, and looks again whether somebody else has
// changed it meanwhile, so the last count written always belongs to the last change.
type tickets struct {
	changes atomic.Uint32
	held    [ticketsMax]heldTicket

	used [tokensKept]atomic.Uint64 // a ring of tokens that came and must not come again
	next atomic.Uint32             // place in the ring

	mu sync.Mutex // for all but take
}

// heldTicket is a place for a ticket; token 0 is none.
type heldTicket struct {
	token atomic.Uint64
	until atomic.Int64 // written before token
}

// granted returns the memory's tickets, made on demand.
func (m *memory) granted() *tickets {
	for {
		if t := m.tickets.Load(); t != nil {
			return t
		}
		m.tickets.CompareAndSwap(nil, &tickets{})
	}
}

// put adds a ticket, unless it was here before.
func (t *tickets) put(c *cell, of ticket) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.putLocked(c, of)
}

func (t *tickets) putLocked(c *cell, of ticket) {
	if t.seen(of.token) {
		return
	}
	for i := range t.held {
		if h := &t.held[i]; h.token.Load() == 0 {
			h.until.Store(of.until)
			h.token.Store(of.token)
			t.count(c, true)
			return
		}
	} // else its owner has it back in time
}

// seen reports whether a token is here or has been.
func (t *tickets) seen(token uint64) bool {
	for i := range t.held {
		if t.held[i].token.Load() == token {
			return true
		}
	}
	return t.spent(token)
}

// drop removes a ticket, also one that is still on its way.
func (t *tickets) drop(c *cell, token uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.spend(token) // first: see take
	for i := range t.held {
		t.held[i].token.CompareAndSwap(token, 0)
	}
	t.count(c, false)
}

// take returns the ticket that lasts longest; ok is false when there is none. It is lock-free: when
// a ticket is gone, somebody else has it.
func (t *tickets) take(c *cell) (of ticket, ok bool) {
	for {
		best := -1
		for i := range t.held {
			token, until := t.held[i].token.Load(), t.held[i].until.Load()
			if token != 0 && (best < 0 || until >= of.until) {
				best, of = i, ticket{token, until}
			}
		}
		if best < 0 {
			t.count(c, false)
			return ticket{}, false
		}
		// before it leaves its place, so that a second message about it finds it in one of the two
		t.spend(of.token)
		if t.held[best].token.CompareAndSwap(of.token, 0) {
			t.count(c, false)
			return of, true
		}
	}
}

// putBack adds a ticket again that take returned and nobody has used.
func (t *tickets) putBack(c *cell, of ticket) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.used {
		t.used[i].CompareAndSwap(of.token, 0)
	}
	t.putLocked(c, of)
}

func (t *tickets) spent(token uint64) bool {
	for i := range t.used {
		if t.used[i].Load() == token {
			return true
		}
	}
	return false
}

// spend remembers a token.
func (t *tickets) spend(token uint64) {
	if !t.spent(token) {
		t.used[t.next.Add(1)%tokensKept].Store(token)
	}
}

// len returns how many tickets there are.
func (t *tickets) len() (n int) {
	for i := range t.held {
		if t.held[i].token.Load() != 0 {
			n++
		}
	}
	return n
}

// count writes how many tickets there are into the estimate, after a change. Only a ticket that
// comes makes a node wait for grants.
func (t *tickets) count(c *cell, came bool) {
	t.changes.Add(1)
	for {
		change := t.changes.Load()
		n := t.len()
		c.update(func(e est) est {
			_, in := e.grant()
			return e.withGrant(n, in || came)
		})
		if t.changes.Load() == change {
			return
		}
	}
}

// expire drops tickets that are too old.
func (t *tickets) expire(c *cell, now int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	dropped := false
	for i := range t.held {
		h := &t.held[i]
		if token := h.token.Load(); token != 0 && h.until.Load() < now &&
			h.token.CompareAndSwap(token, 0) {
			dropped = true
		}
	}
	if dropped {
		t.count(c, false)
	}
}

// clear drops all tickets: their owner has been started again, and does not know them.
func (t *tickets) clear(c *cell) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.held {
		t.held[i].token.Store(0)
	}
	t.count(c, false)
}

// wait has picks leave the machine alone until there is a grant.
func (t *tickets) wait(c *cell) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count(c, true)
}
