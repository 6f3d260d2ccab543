package balance

import (
	"cmp"
	"math"
	"slices"
	"sync/atomic"
	"time"
)

// liveRegion outlives snapshots: it lives as long as the app has machines in the region. It holds
// the dense array of scores, in which each machine keeps its place while it is in the fleet.
type liveRegion struct {
	chunks []*chunk // only ever appended; snapshots hold the slice as it was
	used   int32    // places given so far
	spare  []spare
	like   *shared // of the row packed last

	_    [64]byte
	turn atomic.Uint32 // advances when all equally used machines were picked; see score
	_    [60]byte

	// the mean of what others have at a machine, as float32 bits, for machines of which nothing was
	// heard
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

// spare is a place that is reused once nobody can still write to it: when its last cell has nothing
// in flight and any release that was under way has long ended.
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

// newCell makes the cell of a joining machine.
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

// step ages a region's machines, gathers its means, and appends the machines that have become
// outliers or ceased to be. It reports whether another tick would change anything.
func (r *regionRows) step(turned []MachineID, dt, ramp int64, j *jury) ([]MachineID, bool) {
	a, tick := r.live, j.tick
	if a.tick > 0 && a.tick < tick {
		dt = tick - a.tick // the region may have rested
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
	// something can be picked, is in flight, or has not fully aged
	moving bool
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

// rewind restarts the turns before they overflow.
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

// stayed returns the mean stay as a duration.
func (a *liveRegion) stayed() time.Duration { return time.Duration(a.stay * float32(tickEvery)) }

// regionRows are the rows of one app in one region. It is immutable once published.
type regionRows struct {
	name   string
	live   *liveRegion
	chunks []*chunk // the dense array of scores
	rows   []*row   // by place; nil where there is no machine
	byID   []int32  // places in the order of IDs
	byRank []int32  // places in the canonical order
	// by place, see MachineKey.Rank; like the orders they change with the members, not with the rows
	ranks  []uint64
	byTier [tiers][]int32 // places, in no order
	own    struct {       // of a draft: which lists have been copied already
		members bool
		byTier  [tiers]bool
	}
}

// scoreAt returns the score at a place.
func (r *regionRows) scoreAt(pos int32) score { return r.chunks[pos/chunkLen][pos%chunkLen].Load() }

// find returns the index in byID of a machine, or where it would stand.
func (r *regionRows) find(id MachineID) (int, bool) {
	return slices.BinarySearchFunc(
		r.byID, id, func(p int32, id MachineID) int { return cmp.Compare(r.rows[p].id, id) },
	)
}

// get returns a machine's row, or nil.
func (r *regionRows) get(id MachineID) *row {
	if i, ok := r.find(id); ok {
		return r.rows[r.byID[i]]
	}
	return nil
}

// findRank returns the index in byRank of a machine of that rank, or where it would stand.
func (r *regionRows) findRank(rank uint64, id MachineID) int {
	i, _ := slices.BinarySearchFunc(r.byRank, id, func(p int32, id MachineID) int {
		return cmp.Or(cmp.Compare(r.ranks[p], rank), cmp.Compare(r.rows[p].id, id))
	})
	return i
}

// edit returns a draft: a copy to change. Lists are copied on their first change.
func (r *regionRows) edit() *regionRows {
	return &regionRows{
		name: r.name, live: r.live, rows: slices.Clone(r.rows), byID: r.byID, byRank: r.byRank,
		ranks: r.ranks, byTier: r.byTier,
	}
}

// members makes the lists writable that a joining machine changes.
func (r *regionRows) members() {
	if r.own.members {
		return
	}
	r.own.members = true
	r.byID = append(make([]int32, 0, len(r.byID)+1), r.byID...)
	r.byRank = append(make([]int32, 0, len(r.byRank)+1), r.byRank...)
	r.ranks = append(make([]uint64, 0, len(r.rows)), r.ranks...)
}

// usable returns how many machines are in a tier that can be used.
func (r *regionRows) usable() (n int) {
	for t := range tiers {
		n += len(r.byTier[t])
	}
	return n
}

// set puts a row at its place, instead of the one that is there or as a new one.
func (r *regionRows) set(m *row) {
	for int(m.pos) >= len(r.rows) {
		r.rows = append(r.rows, nil)
	}
	old := r.rows[m.pos]
	r.rows[m.pos] = m
	if old == nil {
		r.members()
		for len(r.ranks) < len(r.rows) {
			r.ranks = append(r.ranks, 0)
		}
		rank := m.key().Rank()
		i, _ := r.find(m.id)
		r.byID = slices.Insert(r.byID, i, m.pos)
		r.byRank = slices.Insert(r.byRank, r.findRank(rank, m.id), m.pos)
		r.ranks[m.pos] = rank
	}
	r.move(old, m)
}

// drop takes a row out.
func (r *regionRows) drop(m *row) {
	r.members()
	i, _ := r.find(m.id)
	r.byID = slices.Delete(r.byID, i, i+1)
	i = r.findRank(r.ranks[m.pos], m.id)
	r.byRank = slices.Delete(r.byRank, i, i+1)
	r.rows[m.pos] = nil
	r.move(m, nil)
}

func (r *regionRows) move(old, now *row) {
	from, to := TierNone, TierNone
	if old != nil {
		from = old.tier
	}
	if now != nil {
		to = now.tier
	}
	if from == to {
		return
	}
	if from < tiers {
		l := mine(r.byTier[from], &r.own.byTier[from])
		i := slices.Index(l, old.pos)
		l[i] = l[len(l)-1]
		r.byTier[from] = l[:len(l)-1]
	}
	if to < tiers {
		r.byTier[to] = append(mine(r.byTier[to], &r.own.byTier[to]), now.pos)
	}
}

// mine returns l, or on the first call a copy that may be changed.
func mine(l []int32, owned *bool) []int32 {
	if *owned {
		return l
	}
	*owned = true
	return append(make([]int32, 0, len(l)+1), l...)
}
