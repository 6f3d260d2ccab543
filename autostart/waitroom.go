package autostart

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/boots"
	"github.com/ebbkit/ebb/autostart/internal/waitroom"
	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/tcpinfo"
)

// excludedFor is how long the machines that a parked request has tried are left out for it, unless
// they have been started again meanwhile. Longer than a row takes to tell that they are gone, else
// a request would run against a closed door again and again; not for ever, since the machine that
// said "full" may be the one that gets free.
const excludedFor = tickEvery

// queue is what an Autostart holds of one app.
type queue struct {
	a        *Autostart
	app      balance.AppID
	parked   atomic.Int32 // the length of room, for those without the lock
	picking  picking
	poked    atomic.Bool
	unserved atomic.Bool   // a request has gone to a failing machine since the last decision
	wake     chan struct{} // to the dispatcher; one pending signal is as good as many
	view     atomic.Pointer[forecast]

	mu          sync.Mutex
	room        waitroom.Room[waiting]
	dispatching bool
	looked      *waitroom.Seat[waiting] // whose connection has been looked at last
	waves       waves

	again atomic.Int64 // when the balancer expects a slot, as a duration

	planning planning
	policy   heldPolicy
	commands commands
}

// picking says that the dispatcher picks a machine for one of those who wait.
type picking struct {
	given  atomic.Int32 // 1 while it does: that one may be in flight already
	missed atomic.Bool  // the last look at the demand left that one out
}

// forecast is what the last decision says to those who wait, and to those who come.
type forecast struct {
	off    bool // autostart is off: load is no reason for a decision
	wait   time.Duration
	await  time.Time // until when a start in flight is worth waiting for
	coming time.Time // when a start in flight should be ready; zero when none is
	refuse string
	until  time.Time // of refuse
	doubt  string
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

func newQueue(a *Autostart, app balance.AppID) *queue {
	q := &queue{a: a, app: app, wake: make(chan struct{}, 1), commands: commands{app: app}}
	q.planning.q = q
	q.policy.q = q
	if a.config.Policy == nil {
		q.policy.set(&policy.Planner{})
	}
	return q
}

// Acquire finds a machine for r and counts the request in; the caller owes one Release. When
// nothing can serve r it waits until ctx ends or patience does; then the error is ctx's cause, or
// an [*Error]. Those who wait for an app are served by turns, one of each tenant, and those of one
// tenant in the order of coming. An app that the fleet does not know is a [balance.ErrNoApp].
//
// It sets r.Place: a request that returns because its machine refused it finds its old place by
// that. Before it waits it sets r.Tried to nil: these machines are still left out for a moment, but
// when nothing else is left it may be one of them.
func (a *Autostart) Acquire(
	ctx context.Context, r *balance.Request,
) (slot balance.Reservation, err error) {
	if a.parked.Load() != 0 && a.Parked(r.App) != 0 {
		return a.park(ctx, r, nil)
	}
	if slot, err = a.balancer.Pick(*r); err != nil {
		return a.park(ctx, r, err)
	}
	if r.Place == 0 {
		r.Place = a.places.Load() // should it return: behind all who wait, before all who will
	}
	switch {
	case slot.Failing():
		a.failing(r.App)
	case slot.Busy():
		a.busy(r.App)
	}
	return slot, nil
}

// failing asks for a decision: a request has gone to a machine that may well fail it.
func (a *Autostart) failing(app balance.AppID) {
	if !a.decides() {
		return
	}
	if q := a.queue(app); !q.off() {
		q.unserved.Store(true) // it may have ended by the time of the decision
		a.poke(q)
	}
}

// busy asks for a decision: a request has gone to a machine that has enough of them.
func (a *Autostart) busy(app balance.AppID) {
	if !a.decides() {
		return
	}
	if q := a.queue(app); !q.off() {
		a.poke(q)
	}
}

// park waits for a slot. why is what the balancer said, nil when it was not asked because others
// wait already.
func (a *Autostart) park(
	ctx context.Context, r *balance.Request, why error,
) (balance.Reservation, error) {
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
	s := &waitroom.Seat[waiting]{
		Value: waiting{since: now, until: q.until(now), done: make(chan struct{}, 1)},
	}
	s.Bytes, s.Insists = requestBytes+max(r.Held, 0), !r.Force.Empty()
	w := &s.Value
	w.conn, _ = ctx.Value(connKey{}).(net.Conn)
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
		switch {
		case w.err == errGone:
			w.err = a.left(q, w.since, context.Canceled)
		case w.err != nil:
		case ctx.Err() != nil:
			w.slot.Release(balance.OutcomeCanceled) // too late: the slot is for the next one
			w.err = a.left(q, w.since, context.Cause(ctx))
		case w.conn != nil && tcpinfo.PeerClosed(w.conn):
			w.slot.Release(balance.OutcomeCanceled)
			w.err = a.left(q, w.since, context.Canceled)
		}
	case <-ctx.Done():
		q.mu.Lock()
		waited := q.leave(s)
		q.mu.Unlock()
		if !waited { // handed over at this very moment
			<-w.done
			if w.err == nil {
				w.slot.Release(balance.OutcomeCanceled)
			}
		}
		w.err = a.left(q, w.since, context.Cause(ctx))
	}
	return w.slot, w.err
}

// left notes that a client has left.
func (a *Autostart) left(q *queue, since time.Time, why error) error {
	waited := time.Since(since)
	a.config.Trace.left(q.app, waited)
	return fmt.Errorf(
		"autostart: app %q: left after waiting for %v: %w", q.app, waited.Round(time.Millisecond), why,
	)
}

// leave takes s out; q.mu is held.
func (q *queue) leave(s *waitroom.Seat[waiting]) bool {
	if !q.room.Leave(time.Now(), s) {
		return false
	}
	q.left(s)
	return true
}

// left counts out a request that has left the queue; q.mu is held.
func (q *queue) left(s *waitroom.Seat[waiting]) {
	q.a.occupancy.leave(s.Bytes)
	if q.room.N == 0 {
		q.a.occupancy.apps.Add(-1)
	}
	q.parked.Add(-1)
	q.a.parked.Add(-1)
}

func (q *queue) wakeUp() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) off() bool {
	o := q.view.Load()
	return o != nil && o.off
}

// patience returns how long to wait at most, where no start in flight is worth waiting for longer.
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
	return boots.WaitMin
}

// doubtWait is how long a request waits for starts that are not expected to serve it: a person is
// then told what is wrong, and a start that is well after all has had time for it.
const doubtWait = 5 * time.Second

// awaitMax bounds a wait in all, however many starts are made one after the other: a driver that
// asks again and again to be called later would hold requests for ever.
const awaitMax = 5 * time.Minute

// until returns when the patience of one ends who has waited since then.
func (q *queue) until(since time.Time) time.Time {
	wait := q.patience()
	end := since.Add(wait)
	if o := q.view.Load(); o != nil && q.a.config.MaxWait == 0 && o.await.After(end) {
		end = o.await
		if limit := since.Add(max(2*wait, awaitMax)); end.After(limit) {
			end = limit
		}
	}
	return end
}

// after returns when to come back: when the next start should be ready, and those who wait have
// been served. q.mu is held.
func (q *queue) after(now time.Time) time.Duration {
	d := q.room.Drain(now)
	if o := q.view.Load(); o != nil && !o.coming.IsZero() {
		return max(o.coming.Sub(now)+d, tickEvery)
	}
	return max(time.Duration(q.again.Load()), d, time.Second)
}

func (q *queue) refusal(fault string, after time.Duration) error {
	return &Error{App: q.app, Class: ErrStart, Fault: fault, After: after}
}

// hopeless returns an error when waiting makes no sense after what the balancer said: nothing runs,
// and nothing will.
func (q *queue) hopeless(why error) error {
	if why == nil {
		return nil
	}
	none, ok := errors.AsType[*balance.NoMachineError](why)
	if !ok {
		return why
	}
	if errors.Is(why, balance.ErrFull) || none.Starting > 0 || none.Excluded > 0 {
		return nil
	}
	rows, ok := q.a.balancer.Fleet().App(q.app)
	if !ok { // it has been removed since the balancer looked
		return fmt.Errorf("%w: %q", balance.ErrNoApp, q.app)
	}
	if !q.a.decides() || none.Stopped == 0 || !rows.App().Autostart {
		return &Error{App: q.app, Class: ErrAsleep, Err: why}
	}
	return nil
}

// refused returns an error when nothing runs and the last decision was not to try for a while.
func (q *queue) refused(now time.Time, why error) error {
	none, ok := errors.AsType[*balance.NoMachineError](why)
	if !ok || errors.Is(why, balance.ErrFull) || none.Starting > 0 {
		return nil
	}
	if o := q.view.Load(); o != nil && o.refuse != "" && now.Before(o.until) {
		return q.refusal(o.refuse, o.until.Sub(now))
	}
	return nil
}

// waits returns how many wait, without the one that may be in flight already.
func (q *queue) waits() int {
	given := q.picking.given.Load() // before parked, see demand
	return max(0, int(q.parked.Load()-given))
}

// forcedKept bounds the particular machines that are started for: requests that insist are few, or
// of few kinds.
const forcedKept = 16

// forced returns the machines that those who wait have to go to, each once. A preference is no
// reason to wait.
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
