package balance

import (
	"slices"
	"sync"
)

// Take takes in a slot that a machine's owner has granted to this node, or taken back; the next pick may use it. It reports false when
// the machine is not known. From an app's first grant on, this node sends its machines that take 1 to 3 requests at a time
// nothing without one, until 5 s have passed without any: then it guesses again.
func (b *Balancer) Take(g Grant) bool {
	a, ok := (*b.fleet.apps.Load())[g.App]
	if !ok {
		return false
	}
	c := a.cells.find(g.Machine)
	if c == nil {
		return false
	}
	if g.Revoked {
		if c.remember().wallet.drop(g.Token) {
			c.update(func(e est) est { n, in := e.grant(); return e.withGrant(n-1, in) })
		}
		return true
	}
	now := b.fleet.tick.Load()
	w := &c.remember().wallet
	w.put(ticket{g.Token, now + max(1, int64(g.For/tickEvery))})
	if a.granted.Swap(now) == 0 {
		for m := range a.snap.Load().rows() {
			m.cell.underGrants(m.kin.limits)
		}
	}
	c.update(func(e est) est {
		n, _ := e.grant()
		return e.withGrant(max(n, 0)+1, true)
	})
	b.signal(g.App)
	return true
}

// Grant returns the token of the slot that the pick uses; ok is false when the machine's owner does not grant. The request
// takes the token to [Gate.Redeem].
func (r *Reservation) Grant() (token uint64, ok bool) { return r.token, r.token != 0 }

// wallet holds the granted slots of one machine that wait to be used.
type wallet struct {
	mu      sync.Mutex
	tickets []ticket
}

// ticket is a granted slot and the tick until which it may be used.
type ticket struct {
	token uint64
	until int64
}

func (w *wallet) put(t ticket) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tickets = append(w.tickets, t)
}

// drop takes a ticket out.
func (w *wallet) drop(token uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(w.tickets, func(t ticket) bool { return t.token == token })
	if i >= 0 {
		w.tickets = slices.Delete(w.tickets, i, i+1)
	}
	return i >= 0
}

// take returns the ticket that lasts longest; ok is false when there is none.
func (w *wallet) take() (token uint64, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.tickets) == 0 {
		return 0, false
	}
	last := len(w.tickets) - 1
	t := w.tickets[last]
	w.tickets = w.tickets[:last]
	return t.token, true
}

// lapse is how many ticks after the last grant a node takes the owner for one that does not grant.
const lapse = 50

// expire drops tickets that are too old and returns how many are left.
func (w *wallet) expire(now int64) (left int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	kept := w.tickets[:0]
	for _, t := range w.tickets {
		if t.until >= now {
			kept = append(kept, t)
		}
	}
	w.tickets = kept
	return len(kept)
}

// underGrants has the machine wait for grants if it takes a few requests at a time.
func (c *cell) underGrants(l Limits) {
	if l.Hard == 0 || l.Hard > fewSlots {
		return
	}
	c.update(func(e est) est {
		n, _ := e.grant()
		return e.withGrant(max(n, 0), true)
	})
}

// spend takes one of the cell's granted slots.
func (c *cell) spend() (token uint64, ok bool) {
	if token, ok = c.remember().wallet.take(); ok {
		c.update(func(e est) est {
			n, in := e.grant()
			return e.withGrant(n-1, in)
		})
	}
	return token, ok
}
