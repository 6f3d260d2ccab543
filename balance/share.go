package balance

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
	"time"
)

// The spill controller moves the share of its requests that a region takes while it has room. It is
// slow on purpose: the loads that it sees are late, and a fast controller would oscillate. The pick
// deals with single full machines.

const (
	// shareAll is a share of one.
	shareAll = 1 << 16
	// shareLeast keeps a region in use, so that its costs stay measured.
	shareLeast = 0.02
	// spillAt is the mean use at which a region begins to give requests away, in soft limits.
	spillAt = 0.95
	// spillGain is how far a tick moves the share per unit by which the use is off. It is stable
	// with updates up to 3 s late.
	spillGain = 0.03
	// spillStep bounds the move of one tick, so that one wild estimate moves little.
	spillStep = 0.02
	// spillGap is the gap between two updates, in ticks, up to which the controller keeps its pace;
	// beyond it the controller slows down in proportion.
	spillGap = 10
	// dearer is by what factor the cost in a region may exceed the cost elsewhere before that
	// counts. Anything below it is noise.
	dearer = 1.05
)

// spilling is what the controller sees of one region at one tick.
type spilling struct {
	use    float32 // mean, in soft limits
	target float32
	cost   float32 // of a request: round trip and time at the worker; 0 when unknown
	other  float32 // of a request in the cheapest farther region with room; 0 when there is none
	limits bool    // the machines have soft limits
	gap    float32 // between two updates about one machine, in ticks
}

// next returns the next share after dt ticks. Without a farther region that has room it goes back
// to one.
func (s spilling) next(share, dt float32) float32 {
	off := float32(1)
	if s.other > 0 {
		if s.limits {
			off = s.target - s.use
		}
		if s.cost > dearer*s.other {
			off = min(off, dearer-s.cost/s.other)
		}
	}
	step := min(max(spillGain*off, -spillStep), spillStep) * min(dt, 10) / max(1, s.gap/spillGap)
	return min(max(share+step, shareLeast), 1)
}

// fixed turns a share into the form that a view holds; shares near one become one, so that quiet
// regions cost no random bits.
func fixed(share float32) uint32 {
	if share >= 0.995 {
		return shareAll
	}
	return uint32(math.Round(float64(share) * shareAll))
}

// Water-filling: the requests that come until the next update are spread over machines whose loads
// are late. Machine i with load b is drawn with a weight of level - b, where the level is what the
// mean will have risen to by then. Fresh updates make the level low, and only the least loaded
// machines are drawn; old updates make it high, and all are drawn alike. The arrivals are
// over-estimated: two or four times too high costs next to nothing, half of the true number ruins
// the balance.
const arrivalsTimes = 1.5

// accept reports whether a draw is kept, given 32 random bits: this applies the weight. A level at
// or below the least load means that nothing is known.
func accept(use, level, least float32, bits uint32) bool {
	if level <= least || use <= least {
		return true
	}
	if use >= level {
		return false
	}
	return float32(bits>>8)*(level-least) < (level-use)*(1<<24)
}

// waterLevel returns the level for machines with this mean use, mean stay and age of updates; both
// times are in ticks. A stay of 0 is unknown.
func waterLevel(use, stay, age float32) float32 {
	if stay <= 0 || use <= 0 {
		return 0
	}
	return use + arrivalsTimes*use*age/stay
}

// Slices: when many nodes share few machines, a node's own count at one machine is nearly always 0
// and says nothing. Each node then keeps to a slice of a region's machines; slices are spread
// evenly on a ring, so that all machines get their part (deterministic aperture). If a slice has no
// room the whole region is used.
const (
	// sliceLeast is the least width: with fewer machines a slice may hold no healthy one.
	sliceLeast = 12
	// sliceBelow and sliceAbove bound the mean of own requests at a machine: slices begin below
	// sliceBelow and end above sliceAbove.
	sliceBelow, sliceAbove = 0.5, 1.0
)

// sliceWidth returns how many of n machines a node keeps to, 0 for all of them. own is the mean of
// its own requests at a machine; on says whether it has a slice already.
func sliceWidth(n, nodes int, own float32, on bool) int {
	limit := float32(sliceBelow)
	if on {
		limit = sliceAbove
	}
	w := max(sliceLeast, int(2*own*float32(n)))
	// Together the slices must reach every machine.
	w = max(w, (n+nodes-1)/max(nodes, 1))
	if nodes < 2 || own >= limit || w >= n || w > lookAll {
		return 0
	}
	return w
}

// sliceOf returns the places of node i's slice among nodes on the ring of ranked machines.
func sliceOf(ring []int32, i, nodes, width int) []int32 {
	s := make([]int32, width)
	at := i * len(ring) / nodes
	for j := range s {
		s[j] = ring[(at+j)%len(ring)]
	}
	return s
}

// regionState is what a balancer keeps of a region from view to view.
type regionState struct {
	share float32
	rows  *regionRows // of which slice was made
	width int
	peers int
	slice []int32
}

// regionStates are an app's regions.
type regionStates map[*liveRegion]*regionState

// next fills in what this node decides about each region after dt ticks: its share, its slice of
// what all peers share, and the level of water-filling. spill is Closest.SpillAt.
func (all regionStates) next(
	order []regionView, spill float64, dt float32, peers []NodeID, self NodeID,
) {
	target := float32(spillAt)
	if spill > 0 {
		target = float32(spill)
	}
	for i := range order {
		p := &order[i]
		a := p.rows.live
		l := all[a]
		if l == nil {
			l = &regionState{share: 1}
			all[a] = l
		}
		if dt > 0 {
			sp := spilling{use: a.use, target: target, cost: a.stay, limits: a.limits, gap: a.gap}
			if spill >= 0 {
				sp.other = cheapest(order, i, target)
			}
			l.share = sp.next(l.share, dt)
		}
		p.share = fixed(l.share)
		p.regionStats = regionStats{
			ready: len(p.rows.byTier[TierReady]), use: float64(int(a.use*100)) / 100,
			stay: a.stayed().Round(tickEvery / 100),
		}
		p.level, p.least = waterLevel(a.use, a.stay, a.gap+1), a.least
		l.follow(p, peers, self)
	}
	if len(all) > len(order) { // regions have been removed
		for a := range all {
			if !slices.ContainsFunc(order, func(p regionView) bool { return p.rows.live == a }) {
				delete(all, a)
			}
		}
	}
}

// follow updates the region's slice.
func (l *regionState) follow(p *regionView, peers []NodeID, self NodeID) {
	ready := p.rows.byTier[TierReady]
	width := sliceWidth(len(ready), len(peers), p.rows.live.own, l.width > 0)
	i, ok := slices.BinarySearch(peers, self)
	if width == 0 || !ok {
		*l = regionState{share: l.share}
		return
	}
	// A width that follows the load step by step would move the slice all the time.
	if l.rows != p.rows || l.peers != len(peers) || width > l.width || width < l.width/2 {
		ring := slices.DeleteFunc(
			slices.Clone(p.rows.byRank), func(pos int32) bool { return p.rows.rows[pos].tier != TierReady },
		)
		*l = regionState{
			share: l.share, rows: p.rows, width: width, peers: len(peers),
			slice: sliceOf(ring, i, len(peers), width),
		}
	}
	p.slice = l.slice
}

// cheapest returns the least cost of a request in a farther region that has room, in ticks; 0 when
// there is none. If no request was sent to a region, its cost is that of region i, except for the
// round trip.
func cheapest(order []regionView, i int, target float32) (least float32) {
	from := order[i].rows.live
	for j := order[i].end; j < len(order); j++ {
		a := order[j].rows.live
		if a.ready == 0 || a.use >= target {
			continue
		}
		cost := a.stay
		if cost <= 0 && order[j].known && from.stay > 0 {
			cost = from.stay + float32(order[j].rtt-order[i].rtt)/float32(tickEvery)
		}
		if cost <= 0 {
			cost = 1e9 // unknown is not cheap, but it has room
		}
		if least == 0 || cost < least {
			least = cost
		}
	}
	return least
}

// ownerPart is an owner of an app's machines that grants their slots, as a node sees it.
type ownerPart struct {
	node  NodeID
	slots int           // of its machines that run or start
	near  int           // grows with the distance; equal for those at equal distance
	share float64       // of the requests that its region takes while it has room
	rtt   time.Duration // to its region; 0 when unknown
	stay  time.Duration // of a request there; 0 when unknown
	// of the parked requests, the number to tell it; negative: it need not even keep a slot ready
	part int
}

// split divides the parked requests among owners, which are sorted by distance: the parts that are
// not negative add up to parked. The nearest get as many as are worth waiting there, or fewer if
// their region gives some away, and the farther ones get the rest: a request waits for a near slot
// only while the expected wait is shorter than the extra round trip.
func split(parked int, owners []ownerPart, turn uint64) {
	last, total := len(owners)-1, 0
	for i := range owners {
		total += owners[i].slots
	}
	near := true // nothing before this group has slots and gives any away
	for first := 0; first <= last; {
		end, room, share := first, 0, 0.0
		for ; end <= last && owners[end].near == owners[first].near; end++ {
			room += owners[end].slots
			share = max(share, owners[end].share)
		}
		n := parked
		if end <= last && total > 0 {
			n = min(parked, room, worth(room, owners[end].rtt-owners[first].rtt, owners[first].stay))
			n = min(n, int(share*float64(n)+fraction(turn^uint64(first)<<32)))
		}
		apportion(n, owners[first:end], turn)
		if !near && n == 0 {
			for i := range owners[first:end] {
				owners[first+i].part = -1
			}
		}
		near = near && (room == 0 || share < 1)
		parked -= n
		first = end
	}
}

// worth returns how many requests may wait for so many slots until one that comes then is served
// sooner farther away: a slot becomes free every stay/slots. It is at least one, since some slots
// are free most of the time.
func worth(slots int, farther, stay time.Duration) int {
	if farther <= 0 || stay <= 0 {
		return slots
	}
	return 1 + int(float64(slots)*float64(farther)/float64(stay))
}

// fraction returns a number from 0 to below 1, evenly spread over turns.
func fraction(turn uint64) float64 { return float64(turn*golden>>11) / (1 << 53) }

// golden spreads turns evenly over any range: the fractional part of the golden ratio, in 2^-64.
const golden = 0x9e3779b97f4a7c15

// apportion splits n in proportion to the owners' slots. The remainder goes to another owner each
// turn.
func apportion(n int, owners []ownerPart, turn uint64) {
	total := 0
	for i := range owners {
		total += owners[i].slots
	}
	if total == 0 {
		total = len(owners)
		for i := range owners {
			owners[i].slots = 1
		}
	}
	at, _ := bits.Mul64(turn*golden, uint64(total))
	before, sum := uint64(0), 0
	for i := range owners {
		sum += owners[i].slots
		hi, lo := bits.Mul64(uint64(n), uint64(sum))
		lo, carry := bits.Add64(lo, at, 0)
		upTo, _ := bits.Div64(hi+carry, lo, uint64(total))
		owners[i].part = int(upTo - before)
		before = upTo
	}
}

// grantingOwners returns the owners of machines that take a few requests at a time: the nearest
// first, then by name. A region's owners are as near as the region is.
func grantingOwners(v *View) (owners []ownerPart) {
	for i := range v.order {
		near, share := v.order[i].end, float64(v.order[i].share)/shareAll
		for _, p := range v.order[i].rows.byID {
			m := v.order[i].rows.rows[p]
			l := m.shared.limits
			if !l.Granted() {
				continue
			}
			at := slices.IndexFunc(owners, func(o ownerPart) bool { return o.node == m.shared.owner })
			if at < 0 {
				at = len(owners)
				owners = append(
					owners,
					ownerPart{
						node: m.shared.owner, near: near, share: share, rtt: v.order[i].rtt,
						stay: v.order[i].stay,
					},
				)
			}
			if m.state == StateStarted || m.state == StateStarting {
				owners[at].slots += l.Hard
			}
		}
	}
	slices.SortFunc(
		owners,
		func(x, y ownerPart) int { return cmp.Or(cmp.Compare(x.near, y.near), cmp.Compare(x.node, y.node)) },
	)
	return owners
}
