package balance

import (
	"sync"
	"sync/atomic"
)

// ticket is a granted slot and the tick until which it may be used.
type ticket struct {
	token uint64
	until int64
}

const (
	// ticketsMax is how many granted slots of one machine a node holds. An owner never grants more than fewSlots at a time;
	// beyond that there may be some that it has taken back, of which this node has not heard.
	ticketsMax = 2 * fewSlots
	// tokensKept is how many tokens are remembered that must not come again.
	tokensKept = 16
)

// tickets are the granted slots of one machine that wait to be used. A pick takes one without a lock; only that happens beside
// what the lock guards. The number of them stands in the cell's estimate too: whoever changes it counts them anew, and looks
// again whether somebody else has changed it meanwhile, so the last count written always belongs to the last change.
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

// put takes a ticket in, unless it was here before.
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

// drop takes a ticket out, also one that is still on its way.
func (t *tickets) drop(c *cell, token uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.spend(token) // first: see take
	for i := range t.held {
		t.held[i].token.CompareAndSwap(token, 0)
	}
	t.count(c, false)
}

// take returns the ticket that lasts longest; ok is false when there is none. It is lock-free: when a ticket is gone, somebody
// else has it.
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
		t.spend(of.token) // before it leaves its place, so that a second message about it finds it in one of the two
		if t.held[best].token.CompareAndSwap(of.token, 0) {
			t.count(c, false)
			return of, true
		}
	}
}

// putBack takes a ticket in that take returned and nobody has used.
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

// count writes how many tickets there are into the estimate, after a change. Only a ticket that comes makes a node wait for
// grants.
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
		if token := h.token.Load(); token != 0 && h.until.Load() < now && h.token.CompareAndSwap(token, 0) {
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

// wait has the machine wait for grants.
func (t *tickets) wait(c *cell) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count(c, true)
}
