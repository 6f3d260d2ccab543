package autostart

import (
	"sync/atomic"
)

// crowd counts all who wait, over all apps.
type crowd struct {
	n, bytes atomic.Int64
	apps     atomic.Int32 // for which anybody waits
}

func (c *crowd) leave(bytes int) {
	c.n.Add(-1)
	c.bytes.Add(-int64(bytes))
}

// share returns which part of what all may have one app has, from 0 to 1 and, for a moment, a little more.
func (c *Config) share(n, bytes int64) (s float64) {
	if c.MaxParkedAll > 0 {
		s = float64(n) / float64(c.MaxParkedAll)
	}
	if c.MaxParkedAllBytes > 0 {
		s = max(s, float64(bytes)/float64(c.MaxParkedAllBytes))
	}
	return s
}

// evictionsMax is how many requests one arrival may displace: it may be a large one.
const evictionsMax = 16

// seat counts a request in for the bounds over all apps. Where they are reached it takes a seat
// away from the app that has most, if q has less than its share, or from another tenant of q that
// has more; else it reports false.
func (a *Autostart) seat(q *queue, tenant string, bytes int, arrives bool) bool {
	all := &a.seats
	all.n.Add(1)
	all.bytes.Add(int64(bytes))
	for n := 0; arrives && a.config.share(all.n.Load(), all.bytes.Load()) > 1; n++ {
		q.mu.Lock()
		own := a.config.share(int64(q.room.N+1), int64(q.bytes+bytes))
		apps := int(all.apps.Load())
		if q.room.N == 0 {
			apps++
		}
		q.mu.Unlock()
		// Who floods is turned away at the cost of this comparison; the search is for the others.
		room := n < evictionsMax
		if room && own*float64(apps) > 1 {
			room = a.evictOf(q, tenant)
		} else if room {
			room = a.evict(own)
		}
		if !room {
			all.leave(bytes)
			return false
		}
	}
	return true
}

// evictOf ends the wait of q's tenant with most, if that is not the one of the new request.
func (a *Autostart) evictOf(q *queue, tenant string) bool {
	q.mu.Lock()
	err := q.crowded(int(a.parked.Load()), "in all")
	w := q.displace(tenant, err)
	q.mu.Unlock()
	if w != nil {
		q.turnAway(w)
	}
	return w != nil
}

// evict ends the wait of the youngest request of the app that has most, if that is more than a
// share, and there of the tenant that has most.
func (a *Autostart) evict(share float64) bool {
	var most *queue
	a.queues.Range(func(_, v any) bool {
		q := v.(*queue)
		if q.parked.Load() == 0 {
			return true
		}
		q.mu.Lock()
		defer q.mu.Unlock()
		if s := a.config.share(int64(q.room.N), int64(q.bytes)); s > share {
			most, share = q, s
		}
		return true
	})
	if most == nil {
		return false
	}
	q := most
	q.mu.Lock()
	err := q.crowded(int(a.parked.Load()), "in all")
	w := q.evict(q.room.Longest(), err)
	q.mu.Unlock()
	if w != nil { // else somebody left meanwhile: look again
		q.turnAway(w)
	}
	return true
}
