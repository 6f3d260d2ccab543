package balance

import (
	"sync/atomic"
	"time"
)

// View is what a [Strategy] sees of one app: the regions with their round trips, nearest first, and in each the machines
// with their load as this node estimates it. It is immutable but for the counts, and safe for concurrent use.
type View struct {
	snap  *Snapshot
	order []distance
	tick  *atomic.Int64
}

type distance struct {
	rows  *regionRows
	rtt   time.Duration
	known bool
}

// Slot names a machine in one view. It means nothing in another.
type Slot struct{ region, index int32 }

// Candidate is a machine as a strategy compares it.
type Candidate struct {
	ID     MachineID
	Own    int     // this node's requests in flight: exact
	Load   float64 // all requests in flight, estimated: own, what others had by the last reply, failures as load
	Limits Limits
	Rank   uint64 // canonical order: the same on all nodes
	Salt   uint64 // hash(node, machine): different on each node
	Picked int64  // when it was last picked, as a count of picks
	Said   bool   // the owner just said that it is full
}

// Full reports whether the machine is at its hard limit as far as this node knows.
func (c *Candidate) Full() bool {
	return c.Said || c.Limits.Hard > 0 && c.Load >= float64(c.Limits.Hard)
}

// Busy reports whether the machine is at or above its soft limit.
func (c *Candidate) Busy() bool { return c.Limits.Soft > 0 && c.Load >= float64(c.Limits.Soft) }

// Use is the load in units of the soft limit, or the load itself when there is none: what load is compared by.
func (c *Candidate) Use() float64 { return c.Load / float64(max(1, c.Limits.Soft)) }

// Regions returns the number of regions that have machines of the app.
func (v *View) Regions() int { return len(v.order) }

// Region returns the name of region i, counted from the nearest, and its round trip; ok is false when that is unknown.
// Unknown regions come last.
func (v *View) Region(i int) (name string, rtt time.Duration, ok bool) {
	d := &v.order[i]
	return d.rows.name, d.rtt, d.known
}

// Len returns the number of machines of a tier in region i.
func (v *View) Len(i int, t Tier) int { return len(v.order[i].rows.byTier[t]) }

// Slot returns the slot of machine j of a tier in region i.
func (v *View) Slot(i int, t Tier, j int) Slot {
	return Slot{int32(i), v.order[i].rows.byTier[t][j]}
}

// Usable looks at a machine and reports whether it can serve the request: it was not tried and is below its hard limit.
// The candidate is filled in either way.
func (v *View) Usable(s Slot, r *Request, c *Candidate) bool {
	m := v.row(s)
	if len(r.Tried) > 0 && r.tried(m.ID) {
		return false
	}
	m.look(c, v.tick.Load())
	return !c.Full()
}

func (v *View) row(s Slot) *row { return v.order[s.region].rows.rows[s.index] }

func (m *row) look(c *Candidate, tick int64) {
	own := m.cell.own.Load()
	c.ID, c.Own, c.Limits, c.Rank, c.Salt = m.ID, int(own), m.limits, m.rank, m.salt
	c.Picked = m.cell.picked.Load()
	penalty := m.cell.penalty.Load()
	if m.gate != nil { // owned by this process: the truth is at hand
		c.Load = float64(max(int(own), m.gate.InFlight()) + int(penalty))
		c.Said = false
		return
	}
	c.Load = float64(own+penalty) + float64(m.cell.others.Load())/(1<<othersShift)
	c.Said = m.cell.fullUntil.Load() > tick
}
