package autostart

import (
	"cmp"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/waitroom"
	"github.com/ebbkit/ebb/balance"
)

// occupancy counts all who wait, over all apps.
type occupancy struct {
	n, bytes atomic.Int64
	apps     atomic.Int32 // for which anybody waits
}

func (c *occupancy) leave(bytes int) {
	c.n.Add(-1)
	c.bytes.Add(-int64(bytes))
}

// bounds are how many requests may wait, and how many bytes they may hold; negative: no bound.
//
// What a request holds is taken for 1 KiB, and what has been read of its body, see
// [balance.Request].Held. An app's requests may hold 32 KiB each: half of the largest body that
// backhaul reads ahead, so that small bodies wait in any number, and an app whose clients all send
// large ones takes no more than 32 MiB. Over all apps there is room for ten that are full. When
// that is reached, an app with less than its equal share gets in all the same, and the youngest
// request of the app with most is rejected instead: a flood of one starves no other.
type bounds struct {
	parked        int // of one app, at most
	usual         int // of one app while it is not known how many are served in a second
	bytes         int // that those of one app hold
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

// share returns which part of what all may have one app has, from 0 to 1 and, for a moment, a
// little more.
func (b *bounds) share(n, bytes int64) (s float64) {
	if b.all > 0 {
		s = float64(n) / float64(b.all)
	}
	if b.allBytes > 0 {
		s = max(s, float64(bytes)/float64(b.allBytes))
	}
	return s
}

// evictionsMax is how many requests one arrival may displace: it may be a large one.
const evictionsMax = 16

// admit counts a request in for the bounds over all apps. Where they are reached it takes a seat
// away from the app that has most, if q has less than its share, or from another tenant of q that
// has more; else it reports false.
func (a *Autostart) admit(q *queue, tenant string, bytes int, arrives bool) bool {
	all := &a.occupancy
	all.n.Add(1)
	all.bytes.Add(int64(bytes))
	for n := 0; arrives && a.bounds.share(all.n.Load(), all.bytes.Load()) > 1; n++ {
		q.mu.Lock()
		own := a.bounds.share(int64(q.room.N+1), int64(q.room.Bytes+bytes))
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
	w := q.evict(q.room.Displaces(tenant), err)
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
		if s := a.bounds.share(int64(q.room.N), int64(q.room.Bytes)); s > share {
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
	w := q.evict(q.room.Youngest(), err)
	q.mu.Unlock()
	if w != nil { // else somebody left meanwhile: look again
		q.turnAway(w)
	}
	return true
}

// join seats a request, or says why it may not wait.
func (q *queue) join(s *waitroom.Seat[waiting], r *balance.Request) (n int, err error) {
	a := q.a
	// Arrivals are bounded. Who returns is not one: it has had a slot, and there are so many of these.
	arrives := r.Place == 0
	if a.config.MaxParked < 0 {
		return 0, q.turnedAway(0, "")
	}
	if !a.admit(q, r.Tenant, s.Bytes, arrives) {
		return 0, q.turnedAway(int(a.parked.Load()), "in all")
	}
	var displaced []*waiting
	defer func() {
		if err != nil {
			a.occupancy.leave(s.Bytes)
		}
		for _, w := range displaced {
			q.turnAway(w)
		}
	}()
	q.mu.Lock()
	defer q.mu.Unlock()
	if limit := a.config.MaxParkedTenant; arrives && limit > 0 {
		if own := q.room.Waiting(r.Tenant); own >= limit {
			return 0, q.crowded(own, "for this tenant")
		}
	}
	for arrives {
		if err := q.over(s.Bytes); err == nil {
			break
		} else if w := q.evict(q.room.Displaces(r.Tenant), err); w != nil && len(displaced) < evictionsMax {
			displaced = append(displaced, w)
		} else {
			return 0, err
		}
	}
	if !q.dispatching {
		if !a.spawn(q.dispatch) {
			return 0, &Error{App: q.app, Class: ErrClosed}
		}
		q.dispatching = true
	}
	if arrives {
		r.Place = a.places.Add(1)
	}
	s.Value.req = *r
	q.room.Join(s, r.Tenant, r.Place, !arrives)
	if q.room.N == 1 {
		a.occupancy.apps.Add(1)
	}
	q.parked.Add(1)
	a.parked.Add(1)
	return q.room.N, nil
}

// over returns why the app's bounds let no further request with so many bytes wait; nil when they
// do. q.mu is held.
func (q *queue) over(bytes int) error {
	b := &q.a.bounds
	limits := waitroom.Limits{Most: b.parked, Usual: b.usual, Bytes: b.bytes}
	wait := q.patience()
	if o := q.view.Load(); q.a.config.MaxWait < 0 || o != nil && !o.coming.IsZero() {
		wait = -1 // a start is in flight: what was served so far says little
	}
	switch {
	case q.room.Full(time.Now(), wait, limits):
		return q.crowded(q.room.N, "")
	case q.room.Heavy(bytes, limits):
		return q.crowded(q.room.N, fmt.Sprintf("with %d bytes", q.room.Bytes))
	}
	return nil
}

// evict takes out a request, to make room for another. q.mu is held; whoever is taken out is owed
// an end, see turnAway.
func (q *queue) evict(s *waitroom.Seat[waiting], err error) *waiting {
	if s == nil {
		return nil
	}
	q.leave(s)
	w := &s.Value
	w.err = err
	if e, ok := err.(*Error); ok {
		e.Waited = time.Since(w.since)
	}
	return w
}

// turnAway ends the wait of one that has been taken out.
func (q *queue) turnAway(w *waiting) {
	err := w.err
	w.done <- struct{}{}
	q.a.config.Trace.rejected(q.app, err)
}

// turnedAway is crowded without the lock.
func (q *queue) turnedAway(n int, how string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.crowded(n, how)
}

// crowded says that there is no room. q.mu is held.
func (q *queue) crowded(n int, how string) error {
	fault := fmt.Sprintf("%d wait", n)
	if how != "" {
		fault += " " + how
	}
	return &Error{App: q.app, Class: ErrCrowded, Fault: fault, After: q.after(time.Now())}
}
