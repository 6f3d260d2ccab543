package backhaul

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/longconn"
	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/balance"
)

// roundTrip is one request on its way, over all its tries.
type roundTrip struct {
	t    *Transport
	req  *http.Request
	body *pool.Body         // nil: none
	grpc *longconn.GRPCBody // of body; nil: its messages cannot be ended
	want balance.Request

	tries   tries   // those that are over
	try     attempt // the present one
	watch   stallWatch
	trail   recorder
	times   times
	traffic traffic

	outcome  balance.Outcome // when there is no answer
	answered bool
	over     atomic.Bool
}

// tries is what a request has met so far, and what it may still try.
type tries struct {
	hop.Retries
	bounces int
	refused time.Time // when the first owner or machine refused
	// away are the owners that could not be connected to in this round: none of their machines is
	// tried.
	away []balance.NodeID
	// last is how the last failed try ended, and what that says of its machine. A bounce clears it.
	last struct {
		err     error
		outcome balance.Outcome
	}
}

// sinceRefused notes a refusal, and returns how long ago the first one was.
func (t *tries) sinceRefused() time.Duration {
	if t.refused.IsZero() {
		t.refused = time.Now()
	}
	return time.Since(t.refused)
}

type times struct {
	start  time.Time
	waited time.Duration // for machines
	first  time.Duration // to the head of the answer; 0: there is none
}

// traffic counts the bytes that have passed.
type traffic struct {
	received atomic.Int64
	sent     atomic.Int64 // over an upgraded connection
	route    uint64       // what the lanes of HTTP/2 know requests by; 0 means not
}

func newRoundTrip(t *Transport, req *http.Request) *roundTrip {
	q := &roundTrip{t: t, req: req, outcome: balance.OutcomeUnserved}
	q.try.q, q.watch.q, q.trail.q = q, q, q
	q.times.start, q.watch.ctx = time.Now(), req.Context()
	return q
}

// run serves the request. A panic in a hook ends it as well.
func (q *roundTrip) run() (*http.Response, error) {
	defer q.unwind()
	q.t.budget.earn(q.times.start)
	q.openBody()
	q.trail.begin()
	resp, err := q.answer()
	if err != nil {
		q.finish(q.outcome, err)
		return nil, err
	}
	q.answered = true
	return resp, nil
}

// openBody prepares the body. The beginning of an HTTP/2 body of unknown length is kept until the
// request is admitted.
func (q *roundTrip) openBody() {
	if q.req.Body == nil || q.req.Body == http.NoBody {
		return
	}
	q.body = pool.NewBody(q.req, &q.t.kept)
	if q.req.ContentLength <= 0 && q.req.ProtoMajor == 2 {
		q.body.Retain(q.t.c.ReplayLimit)
	}
	if q.t.c.Connections == nil {
		return
	}
	if q.grpc = longconn.NewGRPCBody(q.req); q.grpc != nil {
		q.body.Through(q.grpc)
	}
}

// answer acquires machines and tries them until one has answered.
func (q *roundTrip) answer() (*http.Response, error) {
	want, err := q.t.c.Route(q.req)
	if err != nil {
		return nil, err
	}
	q.want = want
	if q.req.Method == http.MethodConnect {
		return nil, errConnect
	}
	if err := q.ahead(); err != nil {
		return nil, err
	}
	q.outcome = balance.OutcomeUnserved
	q.watch.begin()
	for {
		if err := q.acquire(); err != nil {
			return nil, err
		}
		resp, next, err := q.try.run()
		switch {
		case resp != nil:
			return resp, nil
		case next == hop.NextGiveUp:
			return nil, err
		case next == hop.NextElsewhere:
			q.want.Tried = append(q.want.Tried, q.try.info.machine)
		case next == hop.NextRound:
			if err := q.pause(); err != nil {
				return nil, err
			}
		}
	}
}

// ahead reads a small body before a machine is asked for, so that a client which sends it slowly
// holds no slot.
func (q *roundTrip) ahead() error {
	s, n := q.body, q.req.ContentLength
	if s == nil || n <= 0 || n > int64(q.t.c.ReplayLimit) {
		return nil
	}
	q.outcome = balance.OutcomeCanceled
	read := make(chan error, 1)
	go func() { read <- s.Ahead(int(n)) }() // which nothing but its client can wake
	runtime.Gosched()
	select {
	case err := <-read: // it had come with the head, as most do
		return q.came(err)
	default:
	}
	stalled := make(chan struct{})
	p := &pool.Progress{Bounds: q.t.apps.bounds(q.want.App), Body: s}
	p.Stalled = func(hop.Stall) { close(stalled) }
	q.t.sweeper.Add(p)
	defer q.t.sweeper.Remove(p)
	select {
	case err := <-read:
		return q.came(err)
	case <-stalled:
		return &stallError{q.want.App, hop.StallBody, p.Bounds.Body}
	case <-q.req.Context().Done():
		return context.Cause(q.req.Context())
	}
}

func (q *roundTrip) came(err error) error {
	if err != nil {
		return &pool.BodyError{Err: err}
	}
	if q.body.Whole() {
		q.want.Held = q.body.Held()
	}
	return nil
}

// acquire gets a reservation from the picker.
func (q *roundTrip) acquire() error {
	ctx := q.req.Context()
	for {
		if ctx.Err() != nil {
			return q.gaveUp()
		}
		tried := len(q.want.Tried)
		began := time.Now()
		res, err := q.t.picker.Acquire(ctx, &q.want)
		q.try.tried = time.Now()
		waited := q.try.tried.Sub(began)
		q.times.waited += waited
		if err == nil {
			if tried > 0 && len(q.want.Tried) == 0 {
				q.tries.Renewed(waited)
				q.tries.away = nil
			}
			m := res.Machine()
			if slices.Contains(q.tries.away, m.Owner) && res.Gate() == nil {
				res.Release(balance.OutcomeUnserved)
				q.want.Tried = append(q.want.Tried, m.ID)
				continue
			}
			q.try.res, q.try.held = res, true
			q.try.info = tryInfo{
				n: q.try.info.n + 1, machine: m.ID, owner: m.Owner, local: q.try.res.Gate() != nil,
			}
			q.trail.event(Event{Kind: EventPick, Took: waited})
			return nil
		}
		if ctx.Err() != nil {
			return q.gaveUp()
		}
		// What is left has been tried: all of it may be tried again in a new round.
		if nm, ok := errors.AsType[*balance.NoMachineError](err); ok && nm.Excluded > 0 &&
			q.tries.Exhausted(q.t.limits) == hop.NextRound {
			if err := q.pause(); err != nil {
				return err
			}
			continue
		}
		return q.unavailable(err)
	}
}

// unavailable returns the error for a picker that found nothing. If a try has failed and none has
// bounced since, it returns that failure instead: the client should hear of it.
func (q *roundTrip) unavailable(err error) error {
	if q.tries.last.err != nil && (err == nil || errors.Is(err, balance.ErrNoMachine)) {
		q.outcome = q.tries.last.outcome
		return q.tries.last.err
	}
	q.outcome = balance.OutcomeUnserved
	if q.tries.bounces > 0 {
		q.outcome = balance.OutcomeBounced
	}
	return &UnavailableError{App: q.want.App, Tries: q.try.info.n, Bounces: q.tries.bounces, Err: err}
}

// pause begins a new round.
func (q *roundTrip) pause() error {
	clear(q.want.Tried)
	q.want.Tried, q.tries.away = q.want.Tried[:0], nil
	ctx := q.req.Context()
	q.trail.event(Event{Kind: EventPause, Took: q.tries.Pause()})
	t := time.NewTimer(q.tries.Pause())
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return q.gaveUp()
	}
}

// gaveUp returns the error for a context that ended while no machine had the request: the client
// has left, or its time is up.
func (q *roundTrip) gaveUp() error {
	q.outcome = balance.OutcomeCanceled
	ctx := q.req.Context()
	if errors.Is(ctx.Err(), context.Canceled) {
		return context.Cause(ctx)
	}
	return &UnavailableError{
		App: q.want.App, Tries: q.try.info.n, Bounces: q.tries.bounces, Err: context.Cause(ctx),
	}
}

// answerOutcome returns the outcome of an answer, which may tell of a failure.
func (q *roundTrip) answerOutcome() balance.Outcome {
	if q.try.sick {
		return balance.OutcomeError
	}
	return balance.OutcomeDone
}

// brokenOff tells a client that left from a machine that broke off.
func (q *roundTrip) brokenOff() balance.Outcome {
	if !q.try.sick && (q.req.Context().Err() != nil || q.watch.stall.Load() != nil) {
		return balance.OutcomeCanceled
	}
	return balance.OutcomeError
}

// finish ends the request, once.
func (q *roundTrip) finish(o balance.Outcome, err error) {
	if !q.over.CompareAndSwap(false, true) {
		return
	}
	if q.watch.progress != nil {
		q.t.sweeper.Remove(q.watch.progress)
	}
	q.try.release(o)
	if q.watch.cancel != nil {
		q.watch.cancel(pool.ErrStreamOver)
	}
	sent := int64(0)
	if q.body != nil {
		sent = q.body.Count()
	}
	q.t.routes.Mark(q.traffic.route, q.traffic.received.Load(), sent, q.times.start)
	if q.body != nil {
		q.body.Close()
		q.body.Release()
	}
	if q.t.c.Trace.Done == nil && q.t.c.Trace.Trail == nil {
		return
	}
	d := q.done(o, err)
	if hook := q.t.c.Trace.Done; hook != nil {
		hook(d)
	}
	q.trail.tell(d)
}

func (q *roundTrip) done(o balance.Outcome, err error) Done {
	d := Done{
		App: q.want.App, Machine: q.try.info.machine, Method: cmp.Or(q.req.Method, http.MethodGet),
		Context: q.req.Context(), Outcome: o, Err: err, Tries: q.try.info.n, failures: q.tries.Failures,
		Waited: q.times.waited, First: q.times.first, Total: time.Since(q.times.start),
		Sent: q.traffic.sent.Load(), Received: q.traffic.received.Load(),
	}
	d.Status, d.Cause = q.said(o, err)
	if q.body != nil {
		d.Sent += q.body.Count()
		if at := q.body.Ended(); !at.IsZero() {
			d.Upload = max(0, at.Sub(q.times.start))
		}
	}
	return d
}

// said returns what the client was told: the status and, if the answer was not whole, the cause.
func (q *roundTrip) said(o balance.Outcome, err error) (status int, cause string) {
	switch {
	case err == errPanic:
		return 0, causeInternal
	case q.try.status == 0:
		return classify(q.req, err)
	case o == balance.OutcomeCanceled && errors.Is(q.req.Context().Err(), context.DeadlineExceeded):
		return q.try.status, causeTimeout
	case q.watch.stall.Load() != nil:
		return q.try.status, causeStalled
	case o == balance.OutcomeCanceled:
		return q.try.status, causeClient
	case err != nil:
		return q.try.status, causeMachine
	}
	return q.try.status, ""
}

// unwind ends the request when RoundTrip panics.
func (q *roundTrip) unwind() {
	if !q.answered {
		q.finish(balance.OutcomeCanceled, errPanic)
	}
}

var errPanic = errors.New("backhaul: panic on the way")
