package balance

import (
	"cmp"
	"time"
)

// Slices: when many nodes share few machines, a node's own count at one machine is nearly always 0 and says nothing. Each
// node then keeps to a slice of a region's machines; slices lie evenly on a ring, so that all machines get their part
// (deterministic aperture). When a slice has no room the whole region is looked at.
const (
	// sliceLeast is the least width: with fewer machines a slice may hold no healthy one.
	sliceLeast = 12
	// sliceBelow and sliceAbove are the mean of own requests at a machine below which slices begin and above which they end.
	sliceBelow, sliceAbove = 0.5, 1.0

	// nearPlus and nearPart say which round trips are alike: within 2 ms or a tenth. Closer than that measurements tell
	// nothing apart.
	nearPlus, nearPart = 2 * time.Millisecond, 10
)

// sliceWidth returns how many of n machines a node keeps to, 0 for all of them. own is its mean at a machine, on whether
// it has a slice already.
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

// nearGroups sets the ends of groups of regions that are equally near, given in order: round trips within nearTimes or
// nearPlus of the group's first. Regions of unknown distance are one group.
func nearGroups(order []reach) {
	for i := 0; i < len(order); {
		first := &order[i]
		end := i + 1
		for end < len(order) && alike(first, &order[end]) {
			end++
		}
		for ; i < end; i++ {
			order[i].end = end
		}
	}
}

func alike(a, b *reach) bool {
	if !a.known || !b.known {
		return a.known == b.known
	}
	return b.rtt <= max(a.rtt+nearPlus, a.rtt+a.rtt/nearPart)
}

func compareReach(a, b reach) int {
	if a.known != b.known {
		if a.known {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(a.rtt, b.rtt), cmp.Compare(a.rows.name, b.rows.name))
}
