package autostart

import (
	"cmp"
	"math"
	"sync"
	"sync/atomic"

	"github.com/ebbkit/ebb/autostart/internal/waitroom"
)

// occupancy counts the waiting requests of all apps and keeps their bounds.
type occupancy struct {
	apps     *sync.Map // Autostart.apps
	bounds   bounds
	n, bytes atomic.Int64
	occupied atomic.Int32 // apps with waiting requests
}

// evictionsMax is how many requests one arrival may displace: a large one may need the room of
// several.
const evictionsMax = 16

// admit counts a request against the bounds over all apps. When they are reached, it rejects
// another request instead: one of the app that has most if q has less than its equal share, else
// one of another tenant of q that has more. If there is none, it reports false.
func (c *occupancy) admit(q *queue, tenant string, bytes int, arrives bool) bool {
	c.n.Add(1)
	c.bytes.Add(int64(bytes))
	for n := 0; arrives && c.bounds.share(c.n.Load(), c.bytes.Load()) > 1; n++ {
		q.mu.Lock()
		own := c.bounds.share(int64(q.room.N+1), int64(q.room.Bytes+bytes))
		apps := int(c.occupied.Load())
		if q.room.N == 0 {
			apps++
		}
		q.mu.Unlock()
		// A flood is turned away at the cost of this comparison; only other requests search all apps.
		room := n < evictionsMax
		if room && own*float64(apps) > 1 {
			room = q.displace(func() *waitroom.Seat[waiting] { return q.room.Displaces(tenant) })
		} else if room {
			room = c.evict(own)
		}
		if !room {
			c.leave(bytes)
			return false
		}
	}
	return true
}

// evict rejects the youngest request of the tenant that has most, in the app that has most. It
// reports false when no app has more than share.
func (c *occupancy) evict(share float64) bool {
	var most *queue
	c.apps.Range(func(_, v any) bool {
		q := &v.(*appRoom).queue
		if q.parked.Load() == 0 {
			return true
		}
		q.mu.Lock()
		defer q.mu.Unlock()
		if s := c.bounds.share(int64(q.room.N), int64(q.room.Bytes)); s > share {
			most, share = q, s
		}
		return true
	})
	if most == nil {
		return false
	}
	most.displace(most.room.Youngest) // else somebody left meanwhile: look again
	return true
}

func (c *occupancy) leave(bytes int) {
	c.n.Add(-1)
	c.bytes.Add(-int64(bytes))
}

// bounds are how many requests may wait, and how many bytes they may hold; negative: no bound.
//
// A request counts as 1 KiB plus what has been read of its body, see [balance.Request].Held. An
// app's requests may hold 32 KiB each: half of the largest body that backhaul reads ahead, so that
// small bodies wait in any number, and an app whose clients all send large ones takes no more than
// 32 MiB. Over all apps there is room for ten that are full. When that is reached, an app with less
// than its equal share gets in all the same, and the youngest request of the app with most is
// rejected instead: a flood of one app starves no other.
type bounds struct {
	parked        int // of one app, at most
	usual         int // of one app while it is not known how many are served in a second
	bytes         int // that the requests of one app may hold
	all, allBytes int // over all apps
}

// parkedUsual and parkedMax are how many requests of an app may wait by default: while it is not
// known how many are served in a second, and at most.
const parkedUsual, parkedMax = 1000, 10_000

func (c *Config) bounds() bounds {
	times := func(n, one int) int {
		if one < 0 {
			return -1
		}
		return n * min(one, math.MaxInt/n)
	}
	b := bounds{parked: cmp.Or(c.MaxParked, parkedMax), usual: cmp.Or(c.MaxParked, parkedUsual)}
	b.bytes = times(32<<10, b.usual)
	b.all, b.allBytes = times(10, b.usual), times(10, b.bytes)
	return b
}

// share returns the fraction of the bounds over all apps that one app uses: from 0 to 1 and, for a
// moment, a little more.
func (b *bounds) share(n, bytes int64) (s float64) {
	if b.all > 0 {
		s = float64(n) / float64(b.all)
	}
	if b.allBytes > 0 {
		s = max(s, float64(bytes)/float64(b.allBytes))
	}
	return s
}
