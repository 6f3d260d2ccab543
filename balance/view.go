package balance

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Strategy chooses the machine for a request.
type Strategy interface {
	// Pick chooses one machine of v that is usable for r. It neither blocks nor allocates and is
	// safe for concurrent use. r.Rand is the only source of chance: an equal view and an equal
	// request give an equal answer. ok is false when no machine is usable. A soft-cordoned machine
	// is picked only when no plain one is usable, and so on down the tiers.
	Pick(v *View, r Request) (s Slot, ok bool)
}

// StrategyFunc makes a function a [Strategy].
type StrategyFunc func(v *View, r Request) (Slot, bool)

// Pick calls f.
func (f StrategyFunc) Pick(v *View, r Request) (Slot, bool) { return f(v, r) }

// View is what a [Strategy] sees of one app: the regions with their round trips, nearest first, and
// in each the machines with their load as this node estimates it. Only the counts change; it is
// safe for concurrent use.
type View struct {
	snap  *Snapshot
	order []regionView
	upTo  []int32 // for each region, the ready machines up to it
}

func newView(s *Snapshot, order []regionView) *View {
	v := &View{snap: s, order: order, upTo: make([]int32, len(order))}
	n := 0
	for i := range order {
		n += len(order[i].rows.byTier[TierReady])
		v.upTo[i] = int32(n)
	}
	return v
}

// count returns the machines of a tier in all regions.
func (v *View) count(t Tier) (n int) {
	if t == TierReady && len(v.upTo) > 0 {
		return int(v.upTo[len(v.upTo)-1])
	}
	for i := range v.order {
		n += v.Len(i, t)
	}
	return n
}

// nth returns the nth machine of a tier over all regions.
func (v *View) nth(t Tier, n int) Slot {
	i := 0
	if t == TierReady {
		for int(v.upTo[i]) <= n {
			i++
		}
		if i > 0 {
			n -= int(v.upTo[i-1])
		}
	} else {
		for ; n >= v.Len(i, t); i++ {
			n -= v.Len(i, t)
		}
	}
	return Slot{int32(i), v.order[i].rows.byTier[t][n]}
}

// regionView is a region as seen from this node.
type regionView struct {
	rows  *regionRows
	rtt   time.Duration
	known bool
	end   int // one past the last region that is as near as this one
	// share is the part of its requests that the region takes while it has room, of shareAll.
	share uint32
	slice []int32 // the machines that this node keeps to; nil for all
	level float32 // of water-filling, see accept
	least float32
	regionStats
}

// regionStats is what a region's machines did up to the last tick, see Region.
type regionStats struct {
	ready int
	use   float64
	stay  time.Duration
}

// accepts reports whether the region, the ith, takes a request with these random bits at its
// present share. If no other region has room, one that does not accept is used all the same.
func (p *regionView) accepts(i int, bits uint64) bool {
	return p.share >= shareAll || uint32(mix(bits, uint64(i)+1))%shareAll < p.share
}

// Region is a region as a view has it, or as a pick saw it.
type Region struct {
	Name  string
	RTT   time.Duration // the round trip from this node; valid if Known
	Known bool          // the round trip is measured: unknown is never treated as near
	// one past the last region that is as near as this one: measured round trips that differ by less
	// than a tenth or 2 ms are alike
	Near int

	// State of the region's machines up to the last tick, as this node estimates it.
	Ready int           // machines of the first tier
	Use   float64       // their mean load over their soft limit, or the load where there is none
	Stay  time.Duration // how long this node's requests stay, with the round trip; 0 when unknown
	Share float64       // of the requests that the region takes while it has room, from 0 to 1

	// Set only in the Explanation of one request; zero elsewhere.
	Accepted bool // the region's share accepted the request
	Sliced   int  // machines that this node keeps to; 0 for all
	Usable   int  // that the request could have gone to
	Busy     int  // of these, at or above the soft limit
	Full     int
	Excluded int         // by the request
	Best     []Candidate // the best usable ones, at most four
}

// Slot names a machine in one view. It means nothing in another.
type Slot struct{ region, pos int32 }

// Candidate is a machine as a strategy compares it.
type Candidate struct {
	ID     MachineID
	Tier   Tier
	Own    int     // this node's requests in flight: exact
	Others float64 // what others have in flight, estimated
	Told   int     // what they had in flight, as last reported; set by Balancer.Loads only
	Load   float64 // all requests in flight, estimated; failures and gross slowness count as load
	Limits Limits
	Rank   uint64 // canonical order: the same on all nodes
	Salt   uint64 // hash(node, machine): different on each node
	// the lower, the longer ago the machine was picked; turns are by machine, not by request
	Picked   int64
	SaidFull bool // the owner just said that it is full
	full     bool
}

// Full reports whether the machine is at its hard limit as far as this node knows, or takes no more
// for another reason: its owner just said that it is full, its grants are used up, or it is on
// probation.
func (c *Candidate) Full() bool { return c.full }

// Busy reports whether the machine is at or above its soft limit, or the part of that limit that it
// takes in slow start.
func (c *Candidate) Busy() bool { return atSoft(c.Load, c.Limits.Soft) }

// Use is the load in units of the soft limit, or the load itself when there is none: machines are
// compared by it.
func (c *Candidate) Use() float64 { return use(c.Load, c.Limits.Soft) }

// Regions returns the number of regions that have machines of the app.
func (v *View) Regions() int { return len(v.order) }

// Region returns region i, counted from the nearest. Those of unknown distance come last.
func (v *View) Region(i int) Region {
	p := &v.order[i]
	return Region{
		Name: p.rows.name, RTT: p.rtt, Known: p.known, Near: p.end,
		Ready: p.ready, Use: p.use, Stay: p.stay, Share: float64(p.share) / shareAll,
	}
}

// Len returns the number of machines of a tier in region i. Those of [TierNone] are not listed.
func (v *View) Len(i int, t Tier) int {
	if t >= tiers {
		return 0
	}
	return len(v.order[i].rows.byTier[t])
}

// Slot returns the slot of machine j of a tier in region i.
func (v *View) Slot(i int, t Tier, j int) Slot {
	return Slot{int32(i), v.order[i].rows.byTier[t][j]}
}

// Usable reports whether a machine can serve the request: the request does not exclude it, and it
// has room. The candidate is filled in either way.
func (v *View) Usable(s Slot, r *Request, c *Candidate) bool {
	m := v.row(s)
	m.fill(c)
	return m.tier < tiers && !c.full && r.admits(m)
}

// Machine returns the row of a slot, as its owner last wrote it; nil for a slot that is not of this
// view.
func (v *View) Machine(s Slot) *Machine {
	if m := v.row(s); m != nil {
		return m.machine()
	}
	return nil
}

// row returns the row of a slot, nil if the array knows a machine that the view does not.
func (v *View) row(s Slot) *row {
	if uint(s.region) >= uint(len(v.order)) {
		return nil
	}
	rows := v.order[s.region].rows.rows
	if uint(s.pos) >= uint(len(rows)) {
		return nil
	}
	return rows[s.pos]
}

// nearPlus and nearPart say which round trips count as equal: those within 2 ms or a tenth.
// Measurements cannot tell closer ones apart.
const nearPlus, nearPart = 2 * time.Millisecond, 10

// nearGroups sets the ends of groups of regions that are equally near, given in order: the round
// trips of a group are within nearPart or nearPlus of its first. Regions of unknown distance are
// one group.
func nearGroups(order []regionView) {
	for i := 0; i < len(order); {
		first := &order[i]
		end := i + 1
		for end < len(order) && equallyNear(first, &order[end]) {
			end++
		}
		for ; i < end; i++ {
			order[i].end = end
		}
	}
}

func equallyNear(a, b *regionView) bool {
	if !a.known || !b.known {
		return a.known == b.known
	}
	return b.rtt <= max(a.rtt+nearPlus, a.rtt+a.rtt/nearPart)
}

func compareViews(a, b regionView) int {
	if a.known != b.known {
		if a.known {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(a.rtt, b.rtt), cmp.Compare(a.rows.name, b.rows.name))
}

func sameViews(a, b regionView) bool {
	return a.rows == b.rows && a.rtt == b.rtt && a.known == b.known && a.end == b.end && a.share == b.share &&
		a.level == b.level && a.least == b.least && a.regionStats == b.regionStats &&
		slices.Equal(a.slice, b.slice)
}

func (v *View) slotOf(m *row) (Slot, bool) {
	for i := range v.order {
		if rows := v.order[i].rows; int(m.pos) < len(rows.rows) && rows.rows[m.pos] == m {
			return Slot{int32(i), m.pos}, true
		}
	}
	return Slot{}, false
}

// lastResort returns the least loaded of the machines that are full only by the estimate of what
// others have there, in the nearest region that has one.
func (v *View) lastResort(r *Request) (s Slot, ok bool) {
	for i := range v.order {
		least := float32(math.MaxFloat32)
		for _, pos := range v.order[i].rows.byTier[TierReady] {
			m := v.order[i].rows.rows[pos]
			own, all, e := m.cell.inFlight()
			if !r.admits(m) || m.cell.gate != nil || e.full(own, float32(own), m.shared.limits.Hard) {
				continue
			}
			if u := use(all, m.shared.limits.Soft); u < least {
				least, s, ok = u, Slot{int32(i), pos}, true
			}
		}
		if ok {
			return s, true
		}
	}
	return s, false
}
