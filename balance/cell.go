package balance

import (
	"math"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
)

// cell is what one node knows of one machine's load. It belongs to the machine's identity, not to a
// snapshot: counts survive every change of the rows. A machine that leaves the fleet and returns
// gets a new cell. One cache line.
//
// Whoever changes an input of the score increments count and then calls rescore, which stores the
// score and checks whether count has moved. So the last score stored always belongs to the last
// change, without a lock.
type cell struct {
	// count packs this node's own requests in flight, exact (20 bits) | requests sent so far (24) |
	// changes of the other inputs of the score (20). Each field overflows into the next, or out,
	// without harm.
	count atomic.Uint64
	base  atomic.Uint64 // what the row says: see base
	est   atomic.Uint64 // the node's estimates: see est
	// seen packs the last load heard: its sequence number (43 bits) | whether it came by a reply,
	// not a report (1) | the load of others (20).
	seen  atomic.Uint64
	score *atomic.Uint64 // its place in the dense array of its region; it does not move
	row   atomic.Pointer[row]
	// what only the tick and failures need; nil until there is something to record
	mem  atomic.Pointer[memory]
	gate *Gate // of a machine that this process owns, else nil
}

const (
	ownMask   = 1<<20 - 1
	sentUnit  = 1 << 20
	sentMask  = 1<<24 - 1
	turnedOne = 1 << 44

	seenMask = 1<<20 - 1
	replyBit = 1 << 20
	seqShift = 21
	seqMask  = 1<<(64-seqShift) - 1
)

func (c *cell) own() int { return int(c.count.Load() & ownMask) }

// compute returns the upper part of the score for n requests in flight here.
func (c *cell) compute(n uint64) score { return c.computeFor(base(c.base.Load()), n) }

func (c *cell) computeFor(b base, n uint64) score {
	return scoreOf(b, int(n&ownMask), c.inGate(), est(c.est.Load()))
}

// inGate is how many are in flight at a machine that this process owns; else it is negative.
func (c *cell) inGate() int {
	if c.gate == nil {
		return -1
	}
	return c.gate.InFlight()
}

// inFlight returns this node's requests in flight at the machine, and all, as far as it knows.
func (c *cell) inFlight() (own int, all float32, e est) {
	own, e = c.own(), est(c.est.Load())
	return own, inFlight(own, c.inGate(), e), e
}

// rescore updates the score; n is the last count that was seen.
func (c *cell) rescore(n uint64) {
	for {
		b := base(c.base.Load())
		if b == baseRetired {
			return
		}
		c.score.Store(c.computeFor(b, n) | c.score.Load()&keep)
		now := c.count.Load()
		if now == n {
			return
		}
		n = now
	}
}

// changed is called when an input of the score other than the count has changed.
func (c *cell) changed() {
	c.rescore(c.count.Add(turnedOne))
}

// enter counts one request of this node in, below the limits that this node knows exactly, and
// records whose turn it was, unless the machine is alone in its region.
func (c *cell) enter(a *liveRegion, alone bool) bool {
	b := base(c.base.Load())
	limit := most(b.hard(), est(c.est.Load()))
	n := c.count.Load()
	for {
		if int(n&ownMask) >= limit || b.tier() >= tiers {
			return false
		}
		if c.count.CompareAndSwap(n, n+sentUnit+1) {
			n += sentUnit + 1
			break
		}
		n = c.count.Load()
	}
	was := c.score.Load()
	if !alone {
		turn := a.turn.Load()
		if turnOf(was) >= turn && turn < turnMax { // all that are equally used have had their turn
			turn = turnOf(was) + 1
			a.turn.Store(turn)
		}
		was = was&^(turnMax<<lapShift) | score(turn)<<lapShift
	}
	c.score.Store(c.computeFor(b, n) | was&keep)
	if now := c.count.Load(); now != n {
		c.rescore(now)
	}
	return true
}

// leave counts one request out.
func (c *cell) leave() {
	c.rescore(c.count.Add(^uint64(0)))
}

// observe records what the owner said; it returns false for a load older than the last one known.
// The node's own requests are taken at that moment, including the answered one. A reply is private
// and fresh: it moves the estimate at once. A report is shared and late: it only says "full of
// others", and moves the averages at the next tick. granted counts the slots in flight that are
// reserved for requests still to come: they are no load to a node that waits for one.
func (c *cell) observe(l Load, granted int, reply bool) bool {
	if granted > 0 && est(c.est.Load())&grantMask == 0 {
		granted = 0 // a node that guesses cannot use a granted slot
	}
	others := min(max(0, l.InFlight-granted-c.own()), MaxLimit)
	next := l.Seq&seqMask<<seqShift | uint64(others)
	if reply {
		next |= replyBit
	}
	for {
		old := c.seen.Load()
		if next>>seqShift <= old>>seqShift {
			return false
		}
		if c.seen.CompareAndSwap(old, next) {
			break
		}
	}
	full := !reply && l.Limits.Hard > 0 && others >= l.Limits.Hard
	for {
		old := est(c.est.Load())
		e := old &^ saidFullBit
		if full {
			e |= saidFullBit
		}
		if l.State == StateStarted {
			e &^= awayBit | cordonedBit
			if l.Cordon == CordonSoft && l.CordonGen > c.row.Load().gen {
				e |= cordonedBit
			}
		}
		if reply || full || e&heardBit == 0 {
			e = e.withOthers(float32(others)) | heardBit
		}
		if e == old {
			return true
		}
		if c.est.CompareAndSwap(uint64(old), uint64(e)) {
			c.changed()
			return true
		}
	}
}

// refuse records that the owner refused a request because the machine was full: the request that
// observe counted is not there, and for a moment no other is sent.
func (c *cell) refuse() {
	c.update(func(e est) est { return e.withOthers(e.others()+1) | saidFullBit })
}

// away records that the machine refused a request because it does not run; its row will say so.
func (c *cell) away() {
	c.update(func(e est) est { return e | awayBit })
	c.remember()
}

// forget drops the estimates about the machine: its owner or the machine itself has been restarted.
// Grants and slow start are facts and stay.
func (c *cell) forget() {
	c.seen.Store(0)
	c.update(func(e est) est { return e & (grantMask | rampMask) })
	if m := c.mem.Load(); m != nil {
		kept := &memory{} // starts counting where the last one ended
		n := c.count.Load()
		kept.sent = uint32(n/sentUnit) & sentMask
		kept.ended = kept.sent - uint32(n&ownMask)
		if t := m.tickets.Load(); t != nil {
			kept.tickets.Store(t)
		}
		c.mem.CompareAndSwap(m, kept)
	}
}

// update changes the estimate.
func (c *cell) update(f func(est) est) {
	for {
		old := est(c.est.Load())
		e := f(old)
		if e == old {
			return
		}
		if c.est.CompareAndSwap(uint64(old), uint64(e)) {
			c.changed()
			return
		}
	}
}

// remember returns the cell's memory, and makes it on demand.
func (c *cell) remember() *memory {
	for {
		if m := c.mem.Load(); m != nil {
			return m
		}
		c.mem.CompareAndSwap(nil, &memory{})
	}
}

// memory is what is remembered of a machine beyond its cell.
type memory struct {
	history                         // of the tick, which is one at a time
	fails   atomic.Uint32           // failures so far
	void    atomic.Uint32           // requests that ended and say nothing about the machine
	usual   atomic.Uint32           // share of failures at the other machines, as float32 bits
	started atomic.Int64            // the tick at which slow start began; 0 for none
	out     atomic.Bool             // ejected as an outlier
	tickets atomic.Pointer[tickets] // slots granted by the owner; nil until there is one
}

// slowStart begins slow start: the machine has just started.
func (c *cell) slowStart(tick int64) {
	c.remember().started.Store(tick)
	c.update(func(e est) est { return e.withRamp(rampFrom) })
}

// usualFailures returns the share of failures at the other machines.
func (c *cell) usualFailures() float32 {
	if m := c.mem.Load(); m != nil {
		return math.Float32frombits(m.usual.Load())
	}
	return 0
}

// ejected reports whether this node treats the machine as an outlier.
func (c *cell) ejected() bool {
	m := c.mem.Load()
	return m != nil && m.out.Load()
}

// unused reports whether no request was ever counted at the cell.
func (c *cell) unused() bool {
	return c.count.Load()&(sentMask*sentUnit) == 0 && c.seen.Load() == 0 && c.gate == nil
}

// turnTo makes m the cell's row, unless a newer one is there already.
func (c *cell) turnTo(m *row) {
	c.row.Store(m)
	c.base.Store(uint64(newBase(m.tier, m.shared.limits)))
	if e := c.est.Load(); est(e)&(awayBit|cordonedBit) != 0 {
		c.est.CompareAndSwap(e, uint64(est(e)&^(awayBit|cordonedBit)))
	}
	c.changed()
}

// underGrants stops guessing at a machine whose slots are granted.
func (c *cell) underGrants(l Limits) {
	if !l.Granted() {
		return
	}
	c.remember().granted().wait(c)
}

// index finds the cell of a machine. Readers take no lock; there is one writer at a time. It costs
// 10 to 20 bytes per machine, a tenth of what a concurrent map of the standard library needs.
type index struct {
	table atomic.Pointer[[]atomic.Pointer[cell]]
	live  int // cells held
	dead  int // places of removed ones, which searches must step over
}

var removedCell = &cell{}

func hashID(id MachineID) uint64 { return xxhash.Sum64String(string(id)) }

// find returns the cell of id, or nil.
func (x *index) find(id MachineID) *cell {
	t := x.table.Load()
	if t == nil {
		return nil
	}
	s := *t
	for i := hashID(id); ; i++ {
		c := s[i&uint64(len(s)-1)].Load()
		if c == nil {
			return nil
		}
		if c != removedCell && c.row.Load().id == id {
			return c
		}
	}
}

// put adds a cell that is not in the index.
func (x *index) put(c *cell) {
	t := x.table.Load()
	if t == nil || (x.live+x.dead+1)*8 > len(*t)*7 {
		t = x.grow(t)
	}
	x.live++
	place(*t, c)
}

func place(s []atomic.Pointer[cell], c *cell) {
	i := hashID(c.row.Load().id)
	for s[i&uint64(len(s)-1)].Load() != nil {
		i++
	}
	s[i&uint64(len(s)-1)].Store(c)
}

// remove takes a cell out.
func (x *index) remove(id MachineID) {
	s := *x.table.Load()
	for i := hashID(id); ; i++ {
		c := s[i&uint64(len(s)-1)].Load()
		if c == nil {
			return
		}
		if c != removedCell && c.row.Load().id == id {
			s[i&uint64(len(s)-1)].Store(removedCell)
			x.live--
			x.dead++
			return
		}
	}
}

// grow makes a table with room for at least a sixth more, without the removed cells. Full tables
// are still searched in a few steps, which lie in one cache line or two.
func (x *index) grow(old *[]atomic.Pointer[cell]) *[]atomic.Pointer[cell] {
	n := 8
	for n*3 < 4*(x.live+1) {
		n *= 2
	}
	next := make([]atomic.Pointer[cell], n)
	if old != nil {
		for i := range *old {
			if c := (*old)[i].Load(); c != nil && c != removedCell {
				place(next, c)
			}
		}
	}
	x.dead = 0
	x.table.Store(&next)
	return &next
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
