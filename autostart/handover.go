package autostart

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/waitroom"
	"github.com/ebbkit/ebb/balance"
)

// dispatch hands slots over while anybody waits. It lingers for up to a tick, so that a queue which
// fills and empties does not start a goroutine each time.
func (q *queue) dispatch() {
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	for {
		select {
		case <-q.wake:
			q.handOver()
		case now := <-t.C:
			q.handOver()
			q.expire(now)
			q.sweep()
			q.mu.Lock()
			idle := q.room.N == 0
			q.dispatching = !idle
			q.mu.Unlock()
			if idle {
				return
			}
		case <-q.a.closed:
			q.mu.Lock()
			q.dispatching = false // and cannot become true again
			q.mu.Unlock()
			q.rejectAll(func(waited time.Duration) error { return &Error{App: q.app, Class: ErrClosed, Waited: waited} })
			return
		}
	}
}

// handOver gives free slots to those who wait, by turns, until the balancer has none. Who may not
// use what is free, because it has tried it or has to go elsewhere, is passed over.
func (q *queue) handOver() {
	var vain []*balance.Target // what has been asked for in this round and is not there
	step := q.waveStep()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.room.Begin()
	for s := q.room.Turn(); s != nil; s = q.room.Turn() {
		req, limited := q.request(&s.Value, step)
		if len(req.Tried) == 0 && slices.ContainsFunc(vain, func(t *balance.Target) bool { return sameTarget(t, req.Force) }) {
			q.room.Pass(s)
			continue
		}
		q.picking.given.Store(1)
		q.mu.Unlock()
		slot, err := q.a.balancer.Pick(req)
		q.mu.Lock()
		stayed := s.In != nil
		if err == nil && stayed && q.room.Serve(time.Now(), s) {
			q.left(s)
		}
		q.picking.given.Store(0)
		if q.picking.missed.CompareAndSwap(true, false) {
			q.a.poke(q)
		}
		switch {
		case !stayed: // it left meanwhile
			q.unlocked(func() {
				if err == nil {
					slot.Release(balance.OutcomeCanceled)
				}
			})
		case err == nil:
			q.admitted(slot.Machine())
			q.unlocked(func() {
				if slot.Failing() {
					q.a.failing(q.app)
				}
				q.give(&s.Value, slot)
			})
		case limited && q.anyRoom():
			if len(req.Tried) == 0 {
				vain = append(vain, req.Force)
			}
			q.room.Pass(s)
			q.unlocked(func() { q.giveUp(s, err) })
		default: // whoever comes behind finds no more than this one
			q.unlocked(func() {
				if none, ok := errors.AsType[*balance.NoMachineError](err); ok {
					q.again.Store(int64(none.After))
				}
				if limited {
					q.giveUp(s, err)
				} else if err := q.hopeless(err); err != nil {
					q.rejectAll(func(time.Duration) error { return err })
				}
			})
			return
		}
	}
}

func (q *queue) unlocked(f func()) {
	q.mu.Unlock()
	defer q.mu.Lock()
	f()
}

// give hands a slot to a request that has left the queue for it.
func (q *queue) give(w *waiting, slot balance.Reservation) {
	machine, waited := slot.Machine().ID, time.Since(w.since)
	w.slot = slot
	w.done <- struct{}{} // does not block: there is room for the one
	q.a.config.Trace.handedOver(q.app, machine, waited)
}

// giveUp ends the wait of one that waits for particular machines when none of these will come.
func (q *queue) giveUp(s *waitroom.Seat[waiting], err error) {
	if err = q.hopeless(err); err == nil {
		return
	}
	q.mu.Lock()
	in := q.leave(s)
	q.mu.Unlock()
	if in {
		s.Value.err = err
		s.Value.done <- struct{}{}
		q.a.config.Trace.rejected(q.app, err)
	}
}

// anyRoom reports whether anybody could be served.
func (q *queue) anyRoom() bool {
	v, ok := q.a.balancer.View(q.app)
	if !ok {
		return false
	}
	var r balance.Request
	var c balance.Candidate
	for i := range v.Regions() {
		for t := balance.TierReady; t <= balance.TierFailing; t++ {
			for j := range v.Len(i, t) {
				if v.Usable(v.Slot(i, t, j), &r, &c) {
					return true
				}
			}
		}
	}
	return false
}

// request returns what to ask the balancer for, and whether that leaves anything out. q.mu is held.
func (q *queue) request(w *waiting, step time.Duration) (req balance.Request, limited bool) {
	req, limited = w.req, !w.req.Force.Empty()
	req.Tried = q.waves.held(time.Now(), step)
	if len(w.tried) == 0 {
		return req, limited
	}
	rows, ok := q.a.balancer.Fleet().App(q.app)
	if !ok || time.Since(w.since) >= excludedFor {
		w.tried = nil
		return req, limited
	}
	for _, t := range w.tried {
		if m, ok := rows.Machine(t.id); ok && m.Epoch == t.epoch {
			req.Tried = append(req.Tried, t.id)
			limited = true
		}
	}
	return req, limited
}

// tried notes the machines that r came back from and that could be picked again.
func (q *queue) tried(ids []balance.MachineID) (ts []tried) {
	rows, ok := q.a.balancer.Fleet().App(q.app)
	if !ok {
		return nil
	}
	for _, id := range ids {
		if m, ok := rows.Machine(id); ok && m.State == balance.StateStarted {
			ts = append(ts, tried{id, m.Epoch})
		}
	}
	return ts
}

// expire rejects those who have waited long enough. Patience only grows while somebody waits: a
// boot that ends must not cost those who waited for it their slot.
func (q *queue) expire(now time.Time) {
	q.mu.Lock()
	after := q.after(now)
	q.mu.Unlock()
	fault := sync.OnceValue(q.startFault)
	doubt := ""
	if o := q.view.Load(); o != nil && q.a.config.MaxWait >= 0 {
		doubt = o.doubt
	}
	q.end(func(w *waiting) error {
		waited := now.Sub(w.since)
		if doubt != "" && waited >= doubtWait {
			return &Error{App: q.app, Class: ErrStart, Fault: doubt, Waited: waited, After: after}
		}
		if until := q.until(w.since); until.After(w.until) {
			w.until = until
		}
		if now.Before(w.until) {
			return nil
		}
		return &Error{App: q.app, Class: ErrPatience, Fault: fault(), Waited: waited, After: after}
	})
}

// startFault says what a machine lacks that starts; empty when nobody says.
func (q *queue) startFault() string {
	rows, ok := q.a.balancer.Fleet().App(q.app)
	if !ok {
		return ""
	}
	for m := range rows.All() {
		if m.State == balance.StateStarting && m.Fault != "" {
			return fmt.Sprintf("machine %s: %s", m.ID, m.Fault)
		}
	}
	return ""
}

// rejectAll ends all waits.
func (q *queue) rejectAll(why func(waited time.Duration) error) {
	q.end(func(w *waiting) error { return why(time.Since(w.since)) })
}

// end ends the waits for which why has an error.
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
		err := w.err
		w.done <- struct{}{}
		if err != errGone { // that one has left, and says so itself
			q.a.config.Trace.rejected(q.app, err)
		}
	}
}

// waveStep returns for how long a wave lasts; 0 is without waves. No lock is held.
func (q *queue) waveStep() time.Duration {
	if rows, ok := q.a.balancer.Fleet().App(q.app); ok {
		return rows.App().SlowStart / 2
	}
	return 0
}

// boots takes in that a machine starts.
func (q *queue) boots(m *balance.Machine) {
	if q.waveStep() > 0 {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.waves.boots(m)
	}
}

// admitted counts a request admitted to m. q.mu is held; it has already left the queue.
func (q *queue) admitted(m *balance.Machine) {
	l := m.Limits
	if rows, ok := q.a.balancer.Fleet().App(q.app); ok {
		l = rows.App().LimitsOf(*m)
	}
	q.waves.admitted(time.Now(), m, cmp.Or(l.Hard, l.Soft), q.room.N+1)
}
