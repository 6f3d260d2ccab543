package autostart

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/waitroom"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/tcpinfo"
)

// queue holds the requests that wait for an app, in order. It decides which may join and which have
// to leave.
type queue struct {
	r      *appRoom
	parked atomic.Int32 // the length of room, read without mu

	mu     sync.Mutex // also guards the dispatcher's running and waves
	room   waitroom.Room[waiting]
	looked *waitroom.Seat[waiting] // the last one whose connection has been checked
}

// waiting is a parked request.
type waiting struct {
	req          balance.Request
	tried        []tried
	since, until time.Time
	conn         net.Conn      // of the client; nil when it is not known
	done         chan struct{} // receives once, when slot or err is set
	slot         balance.Reservation
	err          error
}

type tried struct {
	id    balance.MachineID
	epoch uint64
}

// join adds a request to the queue and returns how many wait, or an error that says why it may not
// wait.
func (q *queue) join(s *waitroom.Seat[waiting], r *balance.Request) (n int, err error) {
	a := q.r.a
	// Only arrivals are bounded. A request that returns has had a slot, and slots bound how many of
	// these there are.
	arrives := r.Place == 0
	if a.config.MaxParked < 0 {
		return 0, q.full(0, "")
	}
	if !a.occupancy.admit(q, r.Tenant, s.Bytes, arrives) {
		return 0, q.full(int(a.parked.Load()), "in all")
	}
	var displaced []*waiting
	defer func() {
		if err != nil {
			a.occupancy.leave(s.Bytes)
		}
		for _, w := range displaced {
			q.tell(w)
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
		err := q.over(s.Bytes)
		if err == nil {
			break
		}
		var w *waiting
		if len(displaced) < evictionsMax {
			w = q.evict(q.room.Displaces(r.Tenant), err)
		}
		if w == nil {
			return 0, err
		}
		displaced = append(displaced, w)
	}
	if !q.r.dispatcher.begin() {
		return 0, &Error{App: q.r.app, Class: ErrClosed}
	}
	if arrives {
		r.Place = a.places.Add(1)
	}
	s.Value.req = *r
	q.room.Join(s, r.Tenant, r.Place, !arrives)
	if q.room.N == 1 {
		a.occupancy.occupied.Add(1)
	}
	q.parked.Add(1)
	a.parked.Add(1)
	return q.room.N, nil
}

// over returns why the app's bounds do not let another request of so many bytes wait, or nil if
// they do. q.mu is held.
func (q *queue) over(bytes int) error {
	b := &q.r.a.occupancy.bounds
	limits := waitroom.Limits{Most: b.parked, Usual: b.usual, Bytes: b.bytes}
	switch {
	case q.room.Full(time.Now(), q.r.outlook.rateCounts(), limits):
		return q.crowded(q.room.N, "")
	case q.room.Heavy(bytes, limits):
		return q.crowded(q.room.N, fmt.Sprintf("with %d bytes", q.room.Bytes))
	}
	return nil
}

// evict removes a request to make room for another. q.mu is held; the caller must end the wait of
// the removed request with tell afterwards.
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

// displace evicts the request that choose returns, for the bounds over all apps, and reports
// whether there was one.
func (q *queue) displace(choose func() *waitroom.Seat[waiting]) bool {
	q.mu.Lock()
	w := q.evict(choose(), q.crowded(int(q.r.a.parked.Load()), "in all"))
	q.mu.Unlock()
	if w != nil {
		q.tell(w)
	}
	return w != nil
}

// crowded returns the error for a queue without room. q.mu is held.
func (q *queue) crowded(n int, how string) error {
	fault := fmt.Sprintf("%d wait", n)
	if how != "" {
		fault += " " + how
	}
	return &Error{App: q.r.app, Class: ErrCrowded, Fault: fault, After: q.after(time.Now())}
}

// full is crowded for callers that do not hold q.mu.
func (q *queue) full(n int, how string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.crowded(n, how)
}

// after returns in how long a rejected client should come back: the waiting requests should have
// been served by then too. q.mu is held.
func (q *queue) after(now time.Time) time.Duration {
	return q.r.outlook.after(now, q.room.Drain(now))
}

// leave removes s and reports whether it was in the queue; q.mu is held.
func (q *queue) leave(s *waitroom.Seat[waiting]) bool {
	if !q.room.Leave(time.Now(), s) {
		return false
	}
	q.left(s)
	return true
}

// left updates the counts for a request that has left the queue; q.mu is held.
func (q *queue) left(s *waitroom.Seat[waiting]) {
	q.r.a.occupancy.leave(s.Bytes)
	if q.room.N == 0 {
		q.r.a.occupancy.occupied.Add(-1)
	}
	q.parked.Add(-1)
	q.r.a.parked.Add(-1)
}

// take removes s and reports whether it was in the queue: if so, nobody else ends its wait.
func (q *queue) take(s *waitroom.Seat[waiting]) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.leave(s)
}

// reject ends the wait of s with err, if it still waits.
func (q *queue) reject(s *waitroom.Seat[waiting], err error) {
	if q.take(s) {
		s.Value.err = err
		q.tell(&s.Value)
	}
}

// tell ends the wait of a request that has been removed, with w.err. No lock is held.
func (q *queue) tell(w *waiting) {
	err := w.err
	w.done <- struct{}{}
	if err != errGone { // park reports those as left
		q.r.a.config.Trace.rejected(q.r.app, err)
	}
}

// doubtWait is how long a request waits for starts that are not expected to serve it: a person is
// then told what is wrong. A start that succeeds after all has had time to do so.
const doubtWait = 5 * time.Second

// expire rejects the requests whose patience has ended. A request's patience only grows while it
// waits: when a boot ends, the requests that waited for it must not lose their slot.
func (q *queue) expire(now time.Time) {
	q.mu.Lock()
	after := q.after(now)
	q.mu.Unlock()
	fault := sync.OnceValue(q.r.outlook.startFault)
	doubt := ""
	if q.r.a.config.MaxWait >= 0 {
		doubt = q.r.outlook.forecast.Load().Doubt
	}
	q.end(func(w *waiting) error {
		waited := now.Sub(w.since)
		if doubt != "" && waited >= doubtWait {
			return &Error{App: q.r.app, Class: ErrStart, Fault: doubt, Waited: waited, After: after}
		}
		if until := q.r.outlook.until(w.since); until.After(w.until) {
			w.until = until
		}
		if now.Before(w.until) {
			return nil
		}
		return &Error{App: q.r.app, Class: ErrPatience, Fault: fault(), Waited: waited, After: after}
	})
}

// rejectAll ends all waits.
func (q *queue) rejectAll(why func(waited time.Duration) error) {
	q.end(func(w *waiting) error { return why(time.Since(w.since)) })
}

// end ends the waits for which why returns an error.
func (q *queue) end(why func(*waiting) error) {
	var ended []*waiting
	q.mu.Lock()
	for s := q.room.After(nil); s != nil; {
		next := q.room.After(s)
		if err := why(&s.Value); err != nil {
			q.leave(s)
			s.Value.err = err
			ended = append(ended, &s.Value)
		}
		s = next
	}
	q.mu.Unlock()
	for _, w := range ended {
		q.tell(w)
	}
}

// errGone ends the wait of a request whose client has left.
var errGone = errors.New("its client has left")

// looksMax is how many connections are checked in a tick: a check is a system call of about 300 ns.
const looksMax = 1000

// sweep ends the waits of requests whose clients have left.
func (q *queue) sweep() {
	var look []*waitroom.Seat[waiting]
	q.mu.Lock()
	s := q.room.After(nil)
	if q.looked != nil && q.looked.In != nil {
		s = q.room.After(q.looked)
	}
	for ; s != nil && len(look) < looksMax; s = q.room.After(s) {
		if s.Value.conn != nil {
			look = append(look, s)
		}
		q.looked = s
	}
	if s == nil {
		q.looked = nil // from the front again
	}
	q.mu.Unlock()
	for _, s := range look {
		if tcpinfo.PeerClosed(s.Value.conn) {
			q.reject(s, errGone)
		}
	}
}

// forcedKept bounds the forced targets that a decision considers: requests that insist on one are
// few, or insist on few different ones.
const forcedKept = 16

// forced returns the targets that waiting requests insist on, each once. A mere preference makes no
// request wait.
func (q *queue) forced() (ts []*balance.Target) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.room.Insisting == 0 {
		return nil
	}
	for s := q.room.After(nil); s != nil && len(ts) < forcedKept; s = q.room.After(s) {
		if t := s.Value.req.Force; !t.Empty() &&
			!slices.ContainsFunc(ts, func(o *balance.Target) bool { return sameTarget(o, t) }) {
			ts = append(ts, t)
		}
	}
	return ts
}

func sameTarget(a, b *balance.Target) bool {
	if a == b {
		return true
	}
	return a != nil && b != nil && a.Revision == b.Revision &&
		slices.Equal(a.Machines, b.Machines) && slices.Equal(a.Regions, b.Regions)
}
