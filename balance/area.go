package balance

import (
	"math"
	"sync/atomic"
)

// area is what lives as long as an app has machines in a region, whatever the snapshot: the dense array of words and who
// stands where in it. A machine keeps its place while it is in the fleet.
type area struct {
	chunks []*chunk // only ever appended; snapshots hold the slice as it was
	used   int32    // places given so far
	spare  []spare
	like   *shared // of the row packed last

	_    [64]byte
	turn atomic.Uint32 // see word: moves on when all that are equally used were picked
	_    [60]byte

	now atomic.Uint32 // mean of what others have at a machine, as float32 bits: for those nobody heard of

	// Of the tick, which is one at a time.
	around
	use, least float32 // mean and least load over the soft limit, of ready machines
	load       float32 // mean load
	own        float32 // mean of this node's own
	ready      int
	limits     bool // the ready machines have soft limits
	stays      struct{ own, taken float32 }
}

// chunk is a part of the dense array. Chunks never move, so that cells can point into them.
type chunk [chunkLen]atomic.Uint64

const chunkLen = 64

// spare is a place that may be given again, once nobody can still write to it: its last cell has nothing in flight and a
// release that was under way has long ended.
type spare struct {
	pos  int32
	cell *cell
	tick int64
}

const quarantine = 3 // ticks

// unused reports whether nobody ever counted at the cell.
func (c *cell) unused() bool {
	return c.count.Load()&(sentMask*sentUnit) == 0 && c.seen.Load() == 0 && c.gate == nil
}

// place gives a place to a new machine; the fleet's lock is held.
func (a *area) place(tick int64, salt uint64) (pos int32, w *atomic.Uint64) {
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
func (a *area) newCell(node NodeID, id MachineID, tick int64, gate *Gate) (*cell, int32) {
	pos, w := a.place(tick, hash2(string(node), string(id)))
	c := &cell{word: w, gate: gate}
	c.base.Store(uint64(baseNone))
	c.est.Store(uint64(est(0).withOthers(math.Float32frombits(a.now.Load()))))
	return c, pos
}

// retire takes a cell's machine out of use for good.
func (a *area) retire(c *cell, pos int32, tick int64) {
	c.base.Store(uint64(baseNone))
	c.changed()
	c.base.Store(uint64(baseRetired))
	a.spare = append(a.spare, spare{pos, c, tick})
}
