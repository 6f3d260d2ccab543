package balance

import (
	"sync"
	"sync/atomic"

	"github.com/ebbkit/ebb/balance/internal/granting"
)

// Reservation is one request of this node that is counted in at one machine. It is a handle: pass
// it by pointer and release it once; do not copy it.
type Reservation struct {
	b      *Balancer
	row    *row
	ticket ticket // of a granted slot; token 0 without one
	shown  bool   // the token may have left this process
	lost   bool   // the token has not left after all
	full   bool   // the owner has said that the machine is full
	away   bool   // the owner has said that the machine does not run
}

// Machine returns the row that was picked. It is valid while the reservation is.
func (r *Reservation) Machine() *Machine { return r.row.machine() }

// Incarnation returns the incarnation of the machine's owner that wrote the picked row: a later one
// is another process, which knows nothing of what this node has agreed with the earlier one. It is
// valid while the reservation is.
func (r *Reservation) Incarnation() uint64 { return r.row.shared.incarnation }

// Gate returns the gate of the machine when this process owns it, else nil.
func (r *Reservation) Gate() *Gate { return r.row.cell.gate }

// Busy reports whether the machine, this request included, is above its soft limit: the signal to
// start another.
func (r *Reservation) Busy() bool {
	_, all, _ := r.row.cell.inFlight()
	return overSoft(all, r.row.shared.limits.Soft)
}

// Failing reports whether the machine was picked only because there was no better one: its checks
// fail, or this node has ejected it as an outlier. Then the request is no sign that the app is
// served.
func (r *Reservation) Failing() bool { return r.row.tier == TierFailing }

// Observe takes in the load that the owner sent with a reply or a bounce. Call it while the
// reservation is held; it is O(1) and does not allocate. Stale loads are ignored.
func (r *Reservation) Observe(l Load) {
	c := r.row.cell
	if l.Epoch != 0 && l.Epoch < c.row.Load().epoch ||
		r.row.shared.incarnation < c.row.Load().shared.incarnation {
		return // of an earlier run
	}
	r.away = l.State != StateStarted
	r.full = l.Limits.Hard > 0 && l.InFlight >= l.Limits.Hard
	if c.observe(l, 0, true) && (l.Limits.Hard == 0 || l.InFlight < l.Limits.Hard) {
		r.b.signal(r.row.shared.app)
	}
}

// Release counts the request out and records how it ended. The handle is zeroed; a second Release
// panics.
func (r *Reservation) Release(o Outcome) {
	if r.row == nil {
		panic("balance: Reservation released twice")
	}
	if r.ticket.token != 0 && (!r.shown || r.lost) {
		r.giveBack()
	}
	b, m, full, away := r.b, r.row, r.full, r.away
	*r = Reservation{}
	c := m.cell
	if o == OutcomeError && m.epoch < c.row.Load().epoch {
		o = OutcomeUnserved // the run that failed has ended
	}
	switch o {
	case OutcomeError:
		c.remember().fails.Add(1)
		usual := c.usualFailures()
		c.update(func(e est) est { return e.failed(usual) })
	case OutcomeDone:
		if est(c.est.Load())&(penaltyMask|failsMask|probeBit) != 0 {
			usual := c.usualFailures()
			c.update(func(e est) est { return e.succeeded(usual) })
		}
	default:
		c.remember().void.Add(1)
		switch {
		case o != OutcomeBounced:
		case away:
			c.away()
		case full:
			c.refuse()
		}
	}
	c.leave()
	b.signal(m.shared.app)
}

// GrantToken returns the token of the slot that the pick uses, for [Gate.Enter]; ok is false if the
// machine's owner does not grant slots. Call it when the request is about to be sent: without that
// call, Release leaves the slot to this node's next request.
func (r *Reservation) GrantToken() (token uint64, ok bool) {
	r.shown = true
	return r.ticket.token, r.ticket.token != 0
}

// NotSent says that the token which GrantToken returned has not left this process, since the
// machine's owner could not be reached. Release then passes the slot to [Config.GiveBack] instead
// of leaving it to expire.
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

// ticket is a granted slot and the tick until which it may be used.
type ticket struct {
	token uint64
	until int64
}

const (
	// ticketsMax is how many granted slots of one machine a node holds. An owner never grants more
	// than FewSlots at a time. The rest is for slots that the owner has taken back without this
	// node having heard of it.
	ticketsMax = 2 * granting.FewSlots
	// tokensKept is how many tokens are remembered that must not be accepted again.
	tokensKept = 16
)

// tickets are the granted slots of one machine that wait to be used. A pick takes one without a
// lock; everything else happens under the lock. The number of tickets is in the cell's estimate
// too. Whoever changes it recounts, and checks afterwards whether it has changed meanwhile, so the
// last count written always belongs to the last change.
type tickets struct {
	changes atomic.Uint32
	held    [ticketsMax]heldTicket

	used [tokensKept]atomic.Uint64 // a ring of tokens that came and must not be accepted again
	next atomic.Uint32             // place in the ring

	mu sync.Mutex // for all but take
}

// heldTicket is a place for a ticket; token 0 is none.
type heldTicket struct {
	token atomic.Uint64
	until atomic.Int64 // written before token
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
	} // else its owner takes it back in time
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

// drop removes a ticket, or one that is still on its way.
func (t *tickets) drop(c *cell, token uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.spend(token) // first: see take
	for i := range t.held {
		t.held[i].token.CompareAndSwap(token, 0)
	}
	t.count(c, false)
}

// take returns the ticket that lasts longest; ok is false when there is none. It is lock-free: if a
// ticket is gone, another pick has it.
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
		// before the token leaves its place, so that a second message about it finds it in one of
		// the two
		t.spend(of.token)
		if t.held[best].token.CompareAndSwap(of.token, 0) {
			t.count(c, false)
			return of, true
		}
	}
}

// putBack adds a ticket that take returned and nobody has used.
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

// count writes the number of tickets into the estimate, after a change. Only an incoming ticket
// makes a node wait for grants.
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

// expire drops expired tickets.
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

// clear drops all tickets: their owner has been restarted, and does not know them.
func (t *tickets) clear(c *cell) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.held {
		t.held[i].token.Store(0)
	}
	t.count(c, false)
}

// wait makes picks avoid the machine until there is a grant.
func (t *tickets) wait(c *cell) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count(c, true)
}
