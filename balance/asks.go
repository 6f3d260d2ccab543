package balance

import (
	"math/bits"
	"time"
)

// asked is an owner of an app's machines that grants their slots, as a node sees it.
type asked struct {
	node  NodeID
	slots int           // of its machines that run or start
	near  int           // grows with the distance, equal for those that are as near as each other
	share float64       // of the requests that its region takes while it has room
	rtt   time.Duration // to its region; 0 when unknown
	stay  time.Duration // of a request there; 0 when unknown
	part  int           // of the parked requests, to tell it; negative: it need not keep a slot at hand either
}

// split shares so many parked requests out among owners, which are sorted by distance: the parts that are not negative add
// up to parked. The nearest are told of as many as it pays to wait there for, or of less where their region gives some away, and
// the farther ones of the rest: who waits for a near slot should not be served far away, nor wait for longer than the way.
func split(parked int, owners []asked, turn uint64) {
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

// worth is how many may wait for so many slots until one that comes then is served sooner farther away: a slot becomes free
// every stay/slots. One at least, since some slots are free most of the time.
func worth(slots int, farther, stay time.Duration) int {
	if farther <= 0 || stay <= 0 {
		return slots
	}
	return 1 + int(float64(slots)*float64(farther)/float64(stay))
}

// fraction is a number from 0 to below 1, evenly spread over turns.
func fraction(turn uint64) float64 { return float64(turn*golden>>11) / (1 << 53) }

// golden spreads turns evenly over any range: the fractional part of the golden ratio, in 2^-64.
const golden = 0x9e3779b97f4a7c15

// apportion splits n by the owners' slots. What does not come out even goes to another owner each turn.
func apportion(n int, owners []asked, turn uint64) {
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
