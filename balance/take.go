package balance

import (
	"cmp"
	"iter"
	"slices"
	"sync"
)

// Take takes in a slot that a machine's owner has granted to this node, or taken back; the next pick may use it. It reports false when
// the machine is not known. Grants may come late, twice and out of order: a pick uses each once, and one that was taken back
// not at all. From an app's first grant on, this node sends its machines that take 1 to 3 requests at a time
// nothing without one, until 5 s have passed without any: then it guesses again. So either all owners of an app's machines
// grant their slots, or none.
func (b *Balancer) Take(g Grant) bool {
	a, ok := (*b.fleet.apps.Load())[g.App]
	if !ok {
		return false
	}
	c := a.cells.find(g.Machine)
	if c == nil {
		return false
	}
	w := c.remember().purse()
	if g.Revoked {
		w.drop(c, g.Token)
		return true
	}
	now := b.fleet.tick.Load()
	if a.granted.Swap(now) == 0 {
		for m := range a.snap.Load().rows() {
			m.cell.underGrants(m.kin.limits)
		}
	}
	w.put(c, ticket{g.Token, now + max(1, int64(g.For/tickEvery))})
	b.signal(g.App)
	return true
}

// Grant returns the token of the slot that the pick uses, for [Gate.Enter]; ok is false when the machine's owner does not
// grant. Ask for it when the request is about to leave: a reservation that is released without having been asked leaves its
// slot to this node's next request.
func (r *Reservation) Grant() (token uint64, ok bool) {
	r.shown = true
	return r.ticket.token, r.ticket.token != 0
}

// Undelivered says that the token which Grant returned has not left this process: the machine's owner could not be reached.
// Release then hands the slot to [Config.GiveBack] rather than leave it to expire.
func (r *Reservation) Undelivered() { r.lost = true }

// giveBack does what is right with the granted slot of a reservation that is being released.
func (r *Reservation) giveBack() {
	switch {
	case !r.shown:
		r.row.cell.remember().purse().putBack(r.row.cell, r.ticket)
	case r.lost && r.b.giveBack != nil:
		r.b.giveBack(r.row.kin.owner, Grant{App: r.row.kin.app, Machine: r.row.id, Token: r.ticket.token})
	}
}

// Asks says whom to tell about an app's parked requests, for [Granter.Ask]: each owner of machines that take one to three
// requests at a time, with its part of them. The parts add up to parked, so that no two owners reserve slots for the same
// request. The nearest regions come first: they are told of as many as it pays to wait there for, by the
// round trips, the slots and how long requests stay, and farther ones of the rest; a negative part says that the owner need not keep a slot at hand
// for this node either. Inside a region parts go by the slots of the machines that run or start, and each call leaves what
// does not come out even to another owner. It yields nothing for an app that has no such machines. Call it when the number
// has changed, and every second or less while this node lives.
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

// granting returns the owners of machines that take a few requests at a time: the near ones first, then by name. A region's
// owners are as near as the region is.
func (v *View) granting() (owners []asked) {
	for i := range v.order {
		near, share := v.Near(i), float64(v.order[i].share)/shareAll
		for _, p := range v.order[i].rows.byID {
			m := v.order[i].rows.rows[p]
			l := m.kin.limits
			if l.Hard == 0 || l.Hard > fewSlots {
				continue
			}
			at := slices.IndexFunc(owners, func(o asked) bool { return o.node == m.kin.owner })
			if at < 0 {
				at = len(owners)
				owners = append(owners, asked{node: m.kin.owner, near: near, share: share, rtt: v.order[i].rtt, stay: v.order[i].stats.Stay})
			}
			if m.state == Started || m.state == Starting {
				owners[at].slots += l.Hard
			}
		}
	}
	slices.SortFunc(owners, func(x, y asked) int { return cmp.Or(cmp.Compare(x.near, y.near), cmp.Compare(x.node, y.node)) })
	return owners
}

// wallet holds the granted slots of one machine that wait to be used. The count in the cell's estimate is written under its
// lock only, so that both always agree.
type wallet struct {
	mu      sync.Mutex
	tickets []ticket
	past    [8]uint64 // tokens that came and must not come again, the latest first
}

// ticket is a granted slot and the tick until which it may be used.
type ticket struct {
	token uint64
	until int64
}

// purse returns the memory's wallet, made on demand.
func (m *memory) purse() *wallet {
	for {
		if w := m.wallet.Load(); w != nil {
			return w
		}
		m.wallet.CompareAndSwap(nil, &wallet{})
	}
}

// put takes a ticket in, unless it was here before.
func (w *wallet) put(c *cell, t ticket) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if slices.Contains(w.past[:], t.token) || slices.ContainsFunc(w.tickets, func(o ticket) bool { return o.token == t.token }) {
		return
	}
	w.tickets = append(w.tickets, t)
	w.count(c, true)
}

// drop takes a ticket out, also one that is still on its way.
func (w *wallet) drop(c *cell, token uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tickets = slices.DeleteFunc(w.tickets, func(t ticket) bool { return t.token == token })
	w.bury(token)
	w.count(c, false)
}

// take returns the ticket that came last; ok is false when there is none.
func (w *wallet) take(c *cell) (t ticket, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if last := len(w.tickets) - 1; last >= 0 {
		t, ok = w.tickets[last], true
		w.tickets = w.tickets[:last]
		w.bury(t.token)
	}
	w.count(c, false)
	return t, ok
}

// putBack takes a ticket in that take returned and nobody has used.
func (w *wallet) putBack(c *cell, t ticket) {
	w.mu.Lock()
	if i := slices.Index(w.past[:], t.token); i >= 0 {
		w.past[i] = 0
	}
	w.mu.Unlock()
	w.put(c, t)
}

func (w *wallet) bury(token uint64) {
	if !slices.Contains(w.past[:], token) {
		copy(w.past[1:], w.past[:])
		w.past[0] = token
	}
}

// count writes how many tickets there are into the estimate. Only a ticket that comes makes a node wait for grants.
func (w *wallet) count(c *cell, came bool) {
	n := len(w.tickets)
	c.update(func(e est) est {
		_, in := e.grant()
		return e.withGrant(n, in || came)
	})
}

// lapse is how many ticks after the last grant a node takes the owner for one that does not grant.
const lapse = 50

// expire drops tickets that are too old and returns how many are left.
func (w *wallet) expire(now int64) (left int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tickets = slices.DeleteFunc(w.tickets, func(t ticket) bool { return t.until < now })
	return len(w.tickets)
}

// clear drops all tickets: their owner has been started again, and does not know them.
func (w *wallet) clear(c *cell) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tickets = nil
	w.count(c, false)
}

// underGrants has the machine wait for grants if it takes a few requests at a time.
func (c *cell) underGrants(l Limits) {
	if l.Hard == 0 || l.Hard > fewSlots {
		return
	}
	c.remember().purse().wait(c)
}

func (w *wallet) wait(c *cell) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count(c, true)
}
