package autostart

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/waitroom"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/tcpinfo"
)

// appRoom is one app's waiting room and planner.
type appRoom struct {
	a        *Autostart
	app      balance.AppID
	poked    atomic.Bool // a decision has been requested
	unserved atomic.Bool // a request has gone to a failing machine since the last decision

	outlook    outlook
	queue      queue
	dispatcher dispatcher

	planning planning
	policy   heldPolicy
	commands commands
}

func newAppRoom(a *Autostart, app balance.AppID) *appRoom {
	r := &appRoom{a: a, app: app, commands: commands{app: app}}
	r.outlook.a, r.outlook.app = a, app
	r.outlook.forecast.Store(&undecided)
	r.queue.r = r
	r.dispatcher.r, r.dispatcher.wake = r, make(chan struct{}, 1)
	r.planning.r, r.policy.q = r, r
	return r
}

// poke requests a decision without waiting for it.
func (r *appRoom) poke() {
	if r.poked.Load() || !r.poked.CompareAndSwap(false, true) {
		return
	}
	r.a.pokes.add(r)
}

// pressed requests a decision: a request has gone to a machine that is likely to fail it, or that
// is at its soft limit.
func (r *appRoom) pressed(failing bool) {
	if !r.a.decides() || r.outlook.forecast.Load().Off {
		return
	}
	if failing {
		r.unserved.Store(true) // it may have ended by the time of the decision
	}
	r.poke()
}

// park waits for a slot. why is the balancer's error, or nil if it was not asked.
func (r *appRoom) park(
	ctx context.Context, req *balance.Request, why error,
) (balance.Reservation, error) {
	now := time.Now()
	err := r.outlook.hopeless(why)
	if err == nil {
		err = r.outlook.refused(now, why)
	}
	if err != nil {
		r.a.config.Trace.rejected(r.app, err)
		return balance.Reservation{}, err
	}
	s := &waitroom.Seat[waiting]{
		Value: waiting{since: now, until: r.outlook.until(now), done: make(chan struct{}, 1)},
	}
	s.Bytes, s.Insists = requestBytes+max(req.Held, 0), !req.Force.Empty()
	w := &s.Value
	w.conn, _ = ctx.Value(connKey{}).(net.Conn)
	w.tried = r.dispatcher.tried(req.Tried)
	req.Tried = nil
	n, err := r.queue.join(s, req)
	if err != nil {
		r.a.config.Trace.rejected(r.app, err)
		return balance.Reservation{}, err
	}
	r.a.config.Trace.parked(r.app, n)
	r.dispatcher.wakeUp() // a slot may have become free since the pick
	r.poke()

	select {
	case <-w.done:
		switch {
		case w.err == errGone:
			w.err = r.left(w.since, context.Canceled)
		case w.err != nil:
		case ctx.Err() != nil:
			w.slot.Release(balance.OutcomeCanceled) // too late: the slot is for the next one
			w.err = r.left(w.since, context.Cause(ctx))
		case w.conn != nil && tcpinfo.PeerClosed(w.conn):
			w.slot.Release(balance.OutcomeCanceled)
			w.err = r.left(w.since, context.Canceled)
		}
	case <-ctx.Done():
		if !r.queue.take(s) { // handed over at this very moment
			<-w.done
			if w.err == nil {
				w.slot.Release(balance.OutcomeCanceled)
			}
		}
		w.err = r.left(w.since, context.Cause(ctx))
	}
	return w.slot, w.err
}

// left records that a client has left.
func (r *appRoom) left(since time.Time, why error) error {
	waited := time.Since(since)
	r.a.config.Trace.left(r.app, waited)
	return fmt.Errorf(
		"autostart: app %q: left after waiting for %v: %w", r.app, waited.Round(time.Millisecond), why,
	)
}
