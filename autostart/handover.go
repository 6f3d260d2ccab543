package autostart

import (
	"cmp"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/waitroom"
	"github.com/ebbkit/ebb/balance"
)

// excludedFor is how long the machines that a parked request has tried are excluded for it, unless
// they have been started again meanwhile. It is longer than a row takes to report that they are
// gone, so that a request does not hit a closed gate again and again; it ends, because the machine
// that said "full" may be the first to have a free slot.
const excludedFor = tickEvery

// dispatcher gives free slots to an app's waiting requests.
type dispatcher struct {
	r       *appRoom
	wake    chan struct{} // one pending signal is as good as many
	picking picking

	running bool // guarded by queue.mu, as waves
	waves   waitroom.Waves
}

// picking says that the dispatcher is picking a machine for a waiting request.
type picking struct {
	given  atomic.Int32 // 1 while it does: that request may be in flight already
	missed atomic.Bool  // the last look at the demand did not count that request
}

// begin starts the dispatcher unless it runs. It reports false once the Autostart is closed.
// queue.mu is held.
func (d *dispatcher) begin() bool {
	if !d.running {
		d.running = d.r.a.spawn(d.run)
	}
	return d.running
}

func (d *dispatcher) wakeUp() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// run gives out slots while anybody waits. It lingers for up to a tick, so that a queue that fills
// and empties does not start a goroutine each time.
func (d *dispatcher) run() {
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	q := &d.r.queue
	for {
		select {
		case <-d.wake:
			d.handOver()
		case now := <-t.C:
			d.handOver()
			q.expire(now)
			q.sweep()
			q.mu.Lock()
			idle := q.room.N == 0
			d.running = !idle
			q.mu.Unlock()
			if idle {
				return
			}
		case <-d.r.a.closed:
			q.mu.Lock()
			d.running = false // and cannot become true again
			q.mu.Unlock()
			q.rejectAll(func(waited time.Duration) error {
				return &Error{App: d.r.app, Class: ErrClosed, Waited: waited}
			})
			return
		}
	}
}

// handOver gives free slots to waiting requests, by turns, until the balancer has none. It skips
// requests that may not use the free slots, because they tried those machines or must go elsewhere.
func (d *dispatcher) handOver() {
	var vain []*balance.Target // targets tried in this round without a free slot
	step := d.waveStep()
	q := &d.r.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	q.room.Begin()
	for s := q.room.Turn(); s != nil; s = q.room.Turn() {
		req, limited := d.request(&s.Value, step)
		same := func(t *balance.Target) bool { return sameTarget(t, req.Force) }
		if len(req.Tried) == 0 && slices.ContainsFunc(vain, same) {
			q.room.Pass(s)
			continue
		}
		d.picking.given.Store(1)
		q.mu.Unlock()
		slot, err := d.r.a.balancer.Pick(req)
		q.mu.Lock()
		stayed := s.In != nil
		if err == nil && stayed && q.room.Serve(time.Now(), s) {
			q.left(s)
		}
		d.picking.given.Store(0)
		if d.picking.missed.CompareAndSwap(true, false) {
			d.r.poke()
		}
		switch {
		case !stayed: // it left meanwhile
			d.unlocked(func() {
				if err == nil {
					slot.Release(balance.OutcomeCanceled)
				}
			})
		case err == nil:
			d.admitted(slot.Machine())
			d.unlocked(func() {
				if slot.Failing() {
					d.r.pressed(true)
				}
				d.give(&s.Value, slot)
			})
		case limited && d.anyRoom():
			if len(req.Tried) == 0 {
				vain = append(vain, req.Force)
			}
			q.room.Pass(s)
			d.unlocked(func() { d.giveUp(s, err) })
		default: // the requests behind it would find no slot either
			d.unlocked(func() {
				if none, ok := errors.AsType[*balance.NoMachineError](err); ok {
					d.r.outlook.free.Store(int64(none.After))
				}
				if limited {
					d.giveUp(s, err)
				} else if err := d.r.outlook.hopeless(err); err != nil {
					q.rejectAll(func(time.Duration) error { return err })
				}
			})
			return
		}
	}
}

func (d *dispatcher) unlocked(f func()) {
	d.r.queue.mu.Unlock()
	defer d.r.queue.mu.Lock()
	f()
}

// give hands a slot to a request that has left the queue for it.
func (d *dispatcher) give(w *waiting, slot balance.Reservation) {
	machine, waited := slot.Machine().ID, time.Since(w.since)
	w.slot = slot
	w.done <- struct{}{} // does not block: there is room for the one
	d.r.a.config.Trace.handedOver(d.r.app, machine, waited)
}

// giveUp ends the wait of a request for particular machines when none of these will come.
func (d *dispatcher) giveUp(s *waitroom.Seat[waiting], err error) {
	if err = d.r.outlook.hopeless(err); err != nil {
		d.r.queue.reject(s, err)
	}
}

// anyRoom reports whether any request could be served.
func (d *dispatcher) anyRoom() bool {
	v, ok := d.r.a.balancer.View(d.r.app)
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

// request returns the request to pick for, and whether it excludes any machine. queue.mu is held.
func (d *dispatcher) request(w *waiting, step time.Duration) (req balance.Request, limited bool) {
	req, limited = w.req, !w.req.Force.Empty()
	req.Tried = d.waves.Held(time.Now(), step)
	if len(w.tried) == 0 {
		return req, limited
	}
	rows, ok := d.r.a.balancer.Fleet().App(d.r.app)
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

// waits returns how many requests wait, less one that may be in flight already.
func (d *dispatcher) waits() int {
	given := d.picking.given.Load() // before parked, see planning.demand
	return max(0, int(d.r.queue.parked.Load()-given))
}

// tried records the machines that r returned from and that could be picked again.
func (d *dispatcher) tried(ids []balance.MachineID) (ts []tried) {
	rows, ok := d.r.a.balancer.Fleet().App(d.r.app)
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

// waveStep returns the length of a wave; 0 means no waves. No lock is held.
func (d *dispatcher) waveStep() time.Duration {
	if rows, ok := d.r.a.balancer.Fleet().App(d.r.app); ok {
		return rows.App().SlowStart / 2
	}
	return 0
}

// boots records that m starts.
func (d *dispatcher) boots(m *balance.Machine) {
	if d.waveStep() > 0 {
		d.r.queue.mu.Lock()
		defer d.r.queue.mu.Unlock()
		d.waves.Boots(m)
	}
}

// admitted counts a request admitted to m. queue.mu is held; the request has already left the
// queue.
func (d *dispatcher) admitted(m *balance.Machine) {
	l := m.Limits
	if rows, ok := d.r.a.balancer.Fleet().App(d.r.app); ok {
		l = rows.App().LimitsOf(*m)
	}
	d.waves.Admitted(time.Now(), m, cmp.Or(l.Hard, l.Soft), d.r.queue.room.N+1)
}
