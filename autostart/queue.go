package autostart

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// excludedFor is how long the machines that a parked request has tried are left out for it, unless they have been started
// again meanwhile. Longer than a row takes to tell that they are gone, else a request would run against a closed door again
// and again; not for ever, since the machine that said "full" may be the one that gets free.
const excludedFor = tickEvery

// queue is what an Autostart holds of one app.
type queue struct {
	a      *Autostart
	app    balance.AppID
	parked atomic.Int32 // the length of room, for those without the lock
	poked  atomic.Bool
	wake   chan struct{} // to the dispatcher; one pending signal is as good as many
	view   atomic.Pointer[outlook]

	mu          sync.Mutex
	room        room[waiting]
	dispatching bool

	// The planning goroutine's own.
	next  time.Time // not to be planned before
	last  input
	quiet bool // the last decision found nothing to do and nothing under way
	rows  []*balance.Machine

	mind    sync.Mutex // guards planner: answers come from other goroutines
	planner *Planner
}

// outlook is what the last decision says to those who wait, and to those who come.
type outlook struct {
	wait   time.Duration
	coming time.Time // when a start in flight should be ready; zero when none is
	refuse string
	until  time.Time // of refuse
}

// input is what tells one tick's question from the last one's.
type input struct {
	rows     *balance.Snapshot
	inFlight int
	parked   int
	others   int
}

// waiting is a parked request.
type waiting struct {
	req          balance.Request
	tried        []tried
	since, until time.Time
	done         chan struct{} // receives once, when slot or err is set
	slot         balance.Reservation
	err          error
}

type tried struct {
	id    balance.MachineID
	epoch uint64
}

func newQueue(a *Autostart, app balance.AppID) *queue {
	return &queue{a: a, app: app, wake: make(chan struct{}, 1), planner: NewPlanner(a.config.Hedge)}
}

// Acquire finds a machine for r and counts the request in; the caller owes one Release. When nothing can serve r it waits,
// in the order of coming, until ctx ends or patience does; then the error is ctx's cause, or an [*Error]. An app that the
// fleet does not know is a [balance.ErrNoApp].
//
// It sets r.Place: a request that returns because its machine refused it finds its old place by that. Before it waits it
// sets r.Tried to nil: these machines are still left out for a moment, but when nothing else is left it may be one of them.
func (a *Autostart) Acquire(ctx context.Context, r *balance.Request) (balance.Reservation, error) {
	if a.parked.Load() == 0 || a.Parked(r.App) == 0 {
		slot, err := a.balancer.Pick(*r)
		if err != nil {
			return a.park(ctx, r, err)
		}
		if r.Place == 0 {
			r.Place = a.places.Load() // should it return: behind all who wait, before all who will
		}
		if slot.Busy() && a.owner != nil {
			a.poke(a.queue(r.App))
		}
		return slot, nil
	}
	return a.park(ctx, r, nil)
}

// park waits for a slot. why is what the balancer said, nil when it was not asked because others wait already.
func (a *Autostart) park(ctx context.Context, r *balance.Request, why error) (balance.Reservation, error) {
	if ctx.Err() != nil {
		return balance.Reservation{}, fmt.Errorf("autostart: app %q: %w", r.App, context.Cause(ctx))
	}
	if errors.Is(why, balance.ErrNoApp) {
		return balance.Reservation{}, why
	}
	q := a.queue(r.App)
	now := time.Now()
	err := q.hopeless(why)
	if err == nil {
		err = q.refused(now, why)
	}
	if err != nil {
		a.config.Trace.rejected(q.app, err)
		return balance.Reservation{}, err
	}
	s := &seat[waiting]{Value: waiting{since: now, until: now.Add(q.patience()), done: make(chan struct{}, 1)}}
	w := &s.Value
	w.tried = q.tried(r.Tried)
	r.Tried = nil
	n, err := q.join(s, r)
	if err != nil {
		a.config.Trace.rejected(q.app, err)
		return balance.Reservation{}, err
	}
	a.config.Trace.parked(q.app, n)
	q.wakeUp() // a slot may have become free since the pick
	a.poke(q)

	select {
	case <-w.done:
		if ctx.Err() == nil || w.err != nil {
			break
		}
		w.slot.Release(balance.Canceled) // too late: the slot is for the next one
		w.err = a.leave(ctx, q, time.Since(w.since))
	case <-ctx.Done():
		q.mu.Lock()
		waited := q.leave(s)
		q.mu.Unlock()
		if !waited { // handed over at this very moment
			<-w.done
			if w.err == nil {
				w.slot.Release(balance.Canceled)
			}
		}
		w.err = a.leave(ctx, q, time.Since(w.since))
	}
	return w.slot, w.err
}

func (a *Autostart) leave(ctx context.Context, q *queue, waited time.Duration) error {
	a.config.Trace.left(q.app, waited)
	return fmt.Errorf("autostart: app %q: left after waiting for %v: %w", q.app, waited.Round(time.Millisecond), context.Cause(ctx))
}

// join seats a request, or says why it may not wait.
func (q *queue) join(s *seat[waiting], r *balance.Request) (n int, err error) {
	a := q.a
	q.mu.Lock()
	defer q.mu.Unlock()
	// Arrivals are bounded. Who returns is not one: it has had a slot, and there are so many of these.
	if limit := a.config.MaxParked; limit < 0 || q.room.n >= limit && r.Place == 0 {
		return 0, q.crowded(q.room.n)
	}
	if !q.dispatching {
		if !a.spawn(q.dispatch) {
			return 0, &Error{App: q.app, Class: ErrClosed}
		}
		q.dispatching = true
	}
	if r.Place == 0 {
		r.Place = a.places.Add(1)
	}
	s.Value.req = *r
	q.room.join(s, r.Place)
	q.parked.Add(1)
	a.parked.Add(1)
	return q.room.n, nil
}

// leave takes s out; q.mu is held.
func (q *queue) leave(s *seat[waiting]) bool {
	if !q.room.leave(s) {
		return false
	}
	q.parked.Add(-1)
	q.a.parked.Add(-1)
	return true
}

func (q *queue) wakeUp() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// dispatch hands slots over while anybody waits. It lingers for up to a tick, so that a queue which fills and empties does
// not start a goroutine each time.
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
			q.mu.Lock()
			idle := q.room.n == 0
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

// handOver gives free slots to those who wait, oldest first, until the balancer has none. Who may not use what is free,
// because it has tried it, is passed over.
func (q *queue) handOver() {
	q.mu.Lock()
	s := q.room.first
	for s != nil {
		req, limited := q.request(&s.Value)
		q.mu.Unlock()
		slot, err := q.a.balancer.Pick(req)
		q.mu.Lock()
		if s.in == nil { // it left meanwhile
			if err == nil {
				q.mu.Unlock()
				slot.Release(balance.Canceled)
				q.mu.Lock()
			}
			s = q.room.first
			continue
		}
		if err != nil && limited {
			s = s.next
			continue
		}
		if err != nil { // whoever comes behind finds no more than this one
			q.mu.Unlock()
			if err := q.hopeless(err); err != nil {
				q.rejectAll(func(time.Duration) error { return err })
			}
			return
		}
		next := s.next
		q.leave(s)
		q.mu.Unlock()
		machine, waited := slot.Machine().ID, time.Since(s.Value.since)
		s.Value.slot = slot
		s.Value.done <- struct{}{} // never blocks: it has room for the one
		q.a.config.Trace.handedOver(q.app, machine, waited)
		q.mu.Lock()
		if s = next; s != nil && s.in == nil {
			s = q.room.first
		}
	}
	q.mu.Unlock()
}

// request returns what to ask the balancer for, and whether it leaves anything out. q.mu is held.
func (q *queue) request(w *waiting) (req balance.Request, limited bool) {
	req = w.req
	if len(w.tried) == 0 {
		return req, false
	}
	rows, ok := q.a.balancer.Fleet().App(q.app)
	if !ok || time.Since(w.since) >= excludedFor {
		w.tried = nil
		return req, false
	}
	for _, t := range w.tried {
		if m, ok := rows.Machine(t.id); ok && m.Epoch == t.epoch {
			req.Tried = append(req.Tried, t.id)
		}
	}
	return req, len(req.Tried) > 0
}

// tried notes the machines that r came back from and that could be picked again.
func (q *queue) tried(ids []balance.MachineID) (ts []tried) {
	rows, ok := q.a.balancer.Fleet().App(q.app)
	if !ok {
		return nil
	}
	for _, id := range ids {
		if m, ok := rows.Machine(id); ok && m.State == balance.Started {
			ts = append(ts, tried{id, m.Epoch})
		}
	}
	return ts
}

// expire rejects those who have waited long enough. Patience only grows while somebody waits: a boot that ends must not cost
// those who waited for it their slot.
func (q *queue) expire(now time.Time) {
	patience, after := q.patience(), q.after(now)
	q.end(func(w *waiting) error {
		if until := w.since.Add(patience); until.After(w.until) {
			w.until = until
		}
		if now.Before(w.until) {
			return nil
		}
		return &Error{App: q.app, Class: ErrPatience, Waited: now.Sub(w.since), After: after}
	})
}

// rejectAll ends all waits.
func (q *queue) rejectAll(why func(waited time.Duration) error) {
	q.end(func(w *waiting) error { return why(time.Since(w.since)) })
}

// end ends the waits for which why has an error.
func (q *queue) end(why func(*waiting) error) {
	var ended []*waiting
	q.mu.Lock()
	for s := q.room.first; s != nil; {
		next := s.next
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
		q.a.config.Trace.rejected(q.app, err)
	}
}

// patience returns how long to wait at most.
func (q *queue) patience() time.Duration {
	switch c := &q.a.config; {
	case c.MaxWait < 0:
		return 1 << 62 // until the request's own context ends
	case c.MaxWait > 0:
		return c.MaxWait
	}
	if o := q.view.Load(); o != nil {
		return o.wait
	}
	return waitMin
}

// after returns when to come back.
func (q *queue) after(now time.Time) time.Duration {
	if o := q.view.Load(); o != nil && !o.coming.IsZero() {
		return max(o.coming.Sub(now), tickEvery)
	}
	return time.Second
}

func (q *queue) crowded(n int) error {
	return &Error{App: q.app, Class: ErrCrowded, Fault: fmt.Sprintf("%d wait", n), After: q.after(time.Now())}
}

func (q *queue) refusal(fault string, after time.Duration) error {
	return &Error{App: q.app, Class: ErrStart, Fault: fault, After: after}
}

// hopeless returns an error when waiting makes no sense after what the balancer said: nothing runs, and nothing will.
func (q *queue) hopeless(why error) error {
	if why == nil {
		return nil
	}
	none, ok := errors.AsType[*balance.NoMachineError](why)
	if !ok {
		return why
	}
	if none.Full > 0 || none.Starting > 0 || none.Excluded > 0 {
		return nil
	}
	rows, ok := q.a.balancer.Fleet().App(q.app)
	if q.a.owner == nil || none.Stopped == 0 || !ok || !rows.App().Autostart {
		return &Error{App: q.app, Class: ErrAsleep, Err: why}
	}
	return nil
}

// refused returns an error when nothing runs and the last decision was not to try for a while.
func (q *queue) refused(now time.Time, why error) error {
	none, ok := errors.AsType[*balance.NoMachineError](why)
	if !ok || none.Full > 0 || none.Starting > 0 {
		return nil
	}
	if o := q.view.Load(); o != nil && o.refuse != "" && now.Before(o.until) {
		return q.refusal(o.refuse, o.until.Sub(now))
	}
	return nil
}

// wanted reports whether a tick has to look at the app: there is demand or a minimum, and something is not as it was.
func (q *queue) wanted() bool {
	in, app := q.demand()
	if in.rows == nil || in.inFlight+in.parked+in.others == 0 && app.Min == 0 && app.MinPerRegion == 0 {
		return false
	}
	return !q.quiet || in != q.last
}

// demand reads what a decision depends on.
func (q *queue) demand() (in input, app balance.App) {
	rows, ok := q.a.balancer.Fleet().App(q.app)
	if !ok {
		return in, app
	}
	in.rows, in.parked, app = rows, q.a.Parked(q.app), rows.App()
	q.a.balancer.Loads(q.app, func(_ *balance.Machine, c balance.Candidate) bool {
		n := c.Own
		if c.Said && q.a.config.Others == nil {
			n = max(n, c.Limits.Hard)
		}
		in.inFlight += n
		return true
	})
	if q.a.config.Others != nil {
		if order := q.regions(rows); len(order) > 0 {
			in.others = q.a.config.Others(q.app, order[0])
		}
	}
	return in, app
}

// regions returns the order of the regions for this node.
func (q *queue) regions(rows *balance.Snapshot) []string {
	nearest := q.a.balancer.Fleet().Region()
	if v, ok := q.a.balancer.View(q.app); ok && v.Regions() > 0 {
		if name, _, known := v.Region(0); known {
			nearest = name
		}
	}
	return RegionOrder(rows.App(), nearest, rows.Regions())
}

// plan decides for the present state.
func (q *queue) plan(now time.Time) Decision {
	in, app := q.demand()
	if in.rows == nil {
		return Decision{}
	}
	q.rows = q.rows[:0]
	for m := range in.rows.All() {
		q.rows = append(q.rows, m)
	}
	input := Input{App: app, Machines: q.rows, InFlight: in.inFlight, Parked: in.parked, Rand: rand.Uint64()}
	if q.a.owner == nil {
		input.App.Autostart = false // rows teach how long boots take all the same
	} else {
		input.Regions = q.regions(in.rows)
	}
	if others := q.a.config.Others; others != nil {
		for _, r := range input.Regions {
			input.Others = append(input.Others, others(q.app, r))
		}
	}
	q.mind.Lock()
	d := q.planner.Plan(now, input)
	q.mind.Unlock()
	q.last, q.quiet = in, d.settled

	o := &outlook{wait: d.Wait, refuse: d.Refuse, until: now.Add(d.RetryAfter)}
	if !input.App.Autostart {
		o.wait = waitMin
	}
	if d.Remaining > 0 {
		o.coming = now.Add(d.Remaining)
	}
	q.view.Store(o)
	return d
}
