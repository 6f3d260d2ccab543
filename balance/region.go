package balance

import (
	"math"
	"sync/atomic"
	"time"
)

// liveRegion is what outlives snapshots: it lives as long as an app has machines in a region. It
// holds the dense array of scores, and each machine keeps its place there while it is in the fleet.
type liveRegion struct {
	chunks []*chunk // only ever appended; snapshots hold the slice as it was
	used   int32    // places given so far
	spare  []spare
	like   *shared // of the row packed last

	_    [64]byte
	turn atomic.Uint32 // moves on when all machines that are equally used were picked; see score
	_    [60]byte

	// mean of what others have at a machine, as float32 bits: for those nobody heard of
	now atomic.Uint32

	// Written by the tick only; guarded by Fleet.ageing.
	regionHistory
	regionMeans
	stays struct{ own, taken float32 } // fading sums, for the mean stay
}

// regionMeans are what a region's ready machines do on average, by the last tick.
type regionMeans struct {
	ready      int
	limits     bool    // they have soft limits
	use, least float32 // mean and least load over the soft limit
	own        float32 // mean of this node's own requests
}

// chunk is a part of the dense array. Chunks never move, so that cells can point into them.
type chunk [chunkLen]atomic.Uint64

const chunkLen = 64

// spare is a place that is given again once nobody can still write to it: when its last cell has
// nothing in flight and a release that was under way has long ended.
type spare struct {
	pos  int32
	cell *cell
	tick int64
}

const quarantine = 3 // ticks

// place gives a place to a new machine; the fleet's lock is held.
func (a *liveRegion) place(tick int64, salt uint64) (pos int32, w *atomic.Uint64) {
	pos = -1
	for i, s := range a.spare {
		if s.cell.own() == 0 && (tick-s.tick >= quarantine || s.cell.unused()) {
			a.spare = append(a.spare[:i], a.spare[i+1:]...)
			pos = s.pos
			break
		}
	}
	if pos < 0 {
		pos = a.used
		a.used++
		if int(pos)/chunkLen == len(a.chunks) {
			c := new(chunk)
			for i := range c {
				c[i].Store(noUse)
			}
			a.chunks = append(a.chunks[:len(a.chunks):len(a.chunks)], c)
		}
	}
	w = &a.chunks[pos/chunkLen][pos%chunkLen]
	w.Store(noUse | salt&(1<<saltBits-1))
	return pos, w
}

// newCell makes the cell of a machine that joins.
func (a *liveRegion) newCell(node NodeID, id MachineID, tick int64, gate *Gate) (*cell, int32) {
	pos, w := a.place(tick, hash2(string(node), string(id)))
	c := &cell{score: w, gate: gate}
	c.base.Store(uint64(baseNone))
	c.est.Store(uint64(est(0).withOthers(math.Float32frombits(a.now.Load()))))
	return c, pos
}

// retire takes a cell's machine out of use for good.
func (a *liveRegion) retire(c *cell, pos int32, tick int64) {
	c.base.Store(uint64(baseNone))
	c.changed()
	c.base.Store(uint64(baseRetired))
	a.spare = append(a.spare, spare{pos, c, tick})
}

// step ages a region's machines, gathers its means, and appends those that have become or ceased to
// be outliers. It reports whether another tick would change anything.
func (r *regionRows) step(turned []MachineID, dt, ramp int64, j *jury) ([]MachineID, bool) {
	a, tick := r.live, j.tick
	if a.tick > 0 && a.tick < tick {
		dt = tick - a.tick // it may have rested
	}
	a.tick, a.dt, a.ramp = tick, float32(dt), ramp
	if a.gap == 0 {
		a.gap = 5
	}
	var sum tickSums
	sum.least = math.MaxFloat32
	for _, m := range r.rows {
		if m == nil || m.tier >= tiers && m.cell.mem.Load() == nil {
			continue
		}
		turned = m.age(turned, a, &sum, j)
	}
	a.take(&sum)
	if a.turn.Load() > turnMax/2 {
		a.rewind(r)
	}
	return turned, sum.moving
}

// tickSums are the sums over a region's machines at one tick.
type tickSums struct {
	ready, heard, news, sent, own int
	others, use, least            float32
	soft                          int
	// something can be picked, is in flight, or has not aged to its end
	moving bool
}

func (m *row) age(turned []MachineID, a *liveRegion, sum *tickSums, j *jury) []MachineID {
	c := m.cell
	if mem := c.mem.Load(); mem != nil {
		if t := mem.tickets.Load(); t != nil {
			t.expire(c, a.tick)
		}
	}
	old, seen, n := est(c.est.Load()), c.seen.Load(), c.count.Load()
	own, sent := int(n&ownMask), uint32(n/sentUnit)&sentMask
	mem := c.mem.Load()
	e := old
	switch {
	case mem == nil && seen == 0 && sent == 0 && e&^othersMask == 0: // nothing happened yet
		e = e.withOthers(a.mean)
	default:
		mem = c.remember()
		news := seen != mem.seen
		taken := int((sent - mem.sent) & sentMask)
		e = mem.step(e, seen, own, m.shared.limits.Hard, sent, a.regionHistory)
		if mem.note(sent-uint32(own), mem.fails.Load(), mem.void.Load(), j.record) &&
			e.penalty() > mem.most() {
			e = e.withPenalty(mem.most())
		}
		if started := mem.started.Load(); started > 0 {
			part := a.rampAt(started)
			if part >= 1 {
				mem.started.Store(0)
			}
			e = e.withRamp(part)
		}
		if n, granted := e.grant(); granted {
			e = e.withGrant(n, a.granted || n > 0)
		}
		if m.tier == TierReady {
			sum.sent += taken
			if news {
				sum.news++
			}
			if seen != 0 && mem.age <= max(staleTicks, staleGaps*a.gap) {
				sum.heard++
				sum.others += float32(seen & seenMask)
			}
		}
		turned, e = j.judge(turned, m, mem, e)
	}
	if m.tier < tiers || own > 0 || e != old || mem != nil && mem.out.Load() {
		sum.moving = true
	}
	if e != old && c.est.CompareAndSwap(uint64(old), uint64(e)) {
		c.changed()
	} else if c.score.Load()&^keep != c.compute(c.count.Load()) {
		c.rescore(c.count.Load())
	}
	if m.tier == TierReady {
		all := inFlight(own, c.inGate(), e)
		used := use(all, m.shared.limits.Soft)
		sum.ready++
		sum.own += own
		sum.use += used
		sum.least = min(sum.least, used)
		sum.soft += m.shared.limits.Soft
	}
	return turned
}

// take turns the sums into means.
func (a *liveRegion) take(s *tickSums) {
	if s.heard > 0 {
		a.mean = s.others / float32(s.heard)
	}
	a.now.Store(math.Float32bits(a.mean))
	if s.news > 0 {
		gap := min(max(a.dt*float32(s.ready)/float32(s.news), 1), 100)
		a.gap += (gap - a.gap) * min(1, 0.2*a.dt)
	}
	keep := 1 - fading(a.dt, memoryTicks)
	a.stays.own = a.stays.own*keep + float32(s.own)*a.dt
	a.stays.taken = a.stays.taken*keep + float32(s.sent)
	a.stay = 0
	if a.stays.taken >= 1 {
		a.stay = a.stays.own / a.stays.taken
	}
	a.regionMeans = regionMeans{ready: s.ready, limits: s.soft > 0}
	if s.ready > 0 {
		n := float32(s.ready)
		a.use, a.own, a.least = s.use/n, float32(s.own)/n, s.least
	}
}

// rewind begins the turns anew before they overflow.
func (a *liveRegion) rewind(r *regionRows) {
	for _, m := range r.rows {
		if m != nil {
			w := m.cell.score
			w.Store(w.Load() &^ (turnMax << lapShift))
			m.cell.rescore(m.cell.count.Load())
		}
	}
	a.turn.Store(1)
}

// stayed returns the mean stay as a time.
func (a *liveRegion) stayed() time.Duration { return time.Duration(a.stay * float32(tickEvery)) }
