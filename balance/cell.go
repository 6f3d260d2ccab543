package balance

import (
	"sync/atomic"
)

// cell is what one node knows of one machine's load. It belongs to the machine's identity, not to a snapshot: counts
// survive every change of the rows. A machine that leaves the fleet and returns gets a new cell.
type cell struct {
	own atomic.Int32 // this node's own requests in flight: exact
	// others estimates what everybody else has in flight, in 1/16 requests; written by observations and by the tick.
	others atomic.Int32
	// seen packs the last observation: seqs (44 bits) | others (20 bits). The sequence orders them.
	seen atomic.Uint64
	// fullUntil is the tick up to which the machine is left out, because its owner just said that it is full.
	fullUntil atomic.Int64
	seenTick  atomic.Int64 // when seen was written
	penalty   atomic.Int32 // recent failures, as requests of load
	picked    atomic.Int64 // when it was last picked, as a count of picks
	_         [12]byte     // one cache line, so that two machines' counts do not share one
}

const (
	othersShift = 4 // 1/16 requests
	othersBits  = 20
	othersMask  = 1<<othersBits - 1
	seqMask     = 1<<(64-othersBits) - 1
)

// observe notes what the owner said; it reports false for what is older than what is known. own is this node's count at
// that moment, the answered request included.
func (c *cell) observe(l Load, tick int64) bool {
	seq := l.Seq & seqMask
	others := uint64(max(0, l.InFlight-int(c.own.Load()))) & othersMask
	for {
		old := c.seen.Load()
		if seq <= old>>othersBits {
			return false
		}
		if c.seen.CompareAndSwap(old, seq<<othersBits|others) {
			break
		}
	}
	c.others.Store(int32(others << othersShift))
	c.seenTick.Store(tick)
	if l.Limits.Hard > 0 && l.InFlight >= l.Limits.Hard {
		c.fullUntil.Store(tick + fullTicks)
	} else {
		c.fullUntil.Store(0)
	}
	return true
}

// forget drops what was observed: the owner has been restarted, or the machine has.
func (c *cell) forget() {
	c.seen.Store(0)
	c.others.Store(0)
	c.fullUntil.Store(0)
}
