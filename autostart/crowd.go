package autostart

import (
	"sync/atomic"
	"time"
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

// seat counts a request in for the bounds over all apps. Where they are reached it takes a seat away from the app that has
// most, if q has less than its share; else it reports false.
func (a *Autostart) seat(q *queue, bytes int, arrives bool) bool {
	all := &a.seats
	all.n.Add(1)
	all.bytes.Add(int64(bytes))
	for n := 0; arrives && a.config.share(all.n.Load(), all.bytes.Load()) > 1; n++ {
		q.mu.Lock()
		own := a.config.share(int64(q.room.n+1), int64(q.bytes+bytes))
		apps := int(all.apps.Load())
		if q.room.n == 0 {
			apps++
		}
		q.mu.Unlock()
		// Who floods is turned away at the cost of this comparison; the search is for the others.
		if n == evictionsMax || own*float64(apps) > 1 || !a.evict(own) {
			all.leave(bytes)
			return false
		}
	}
	return true
}

// evict ends the wait of the youngest request of the app that has most, if that is more than a share.
func (a *Autostart) evict(share float64) bool {
	var most *queue
	a.queues.Range(func(_, v any) bool {
		q := v.(*queue)
		if q.parked.Load() == 0 {
			return true
		}
		q.mu.Lock()
		defer q.mu.Unlock()
		if s := a.config.share(int64(q.room.n), int64(q.bytes)); s > share {
			most, share = q, s
		}
		return true
	})
	if most == nil {
		return false
	}
	q := most
	err := q.crowded(int(a.parked.Load()), "in all")
	q.mu.Lock()
	s := q.room.last
	if s == nil || !q.leave(s) {
		q.mu.Unlock()
		return true // somebody left meanwhile: look again
	}
	q.mu.Unlock()
	s.Value.err = err
	if e, ok := err.(*Error); ok {
		e.Waited = time.Since(s.Value.since)
	}
	s.Value.done <- struct{}{}
	a.config.Trace.rejected(q.app, err)
	return true
}
