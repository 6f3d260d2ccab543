package backhaul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/longconn"
	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/oslimit"
)

// roundTrip is one request on its way, over all its tries.
type roundTrip struct {
	t    *Transport
	req  *http.Request
	body *pool.Body         // nil: none
	grpc *longconn.GRPCBody // of body; nil: its messages cannot be ended
	want balance.Request

	retries  hop.Retries
	refusals refusals
	last     failedTry
	try      attempt // the present one
	watch    stallWatch
	trail    recorder
	times    times
	traffic  traffic

	outcome  balance.Outcome // when there is no answer
	answered bool
	over     atomic.Bool
}

// refusals are the bounces of all tries.
type refusals struct {
	n     int
	since time.Time // the first one
}

// failedTry is what the last failed try ended with, and what that says of its machine. A bounce
// since then has it forgotten.
type failedTry struct {
	err     error
	outcome balance.Outcome
}

type times struct {
	start  time.Time
	waited time.Duration // for machines
	first  time.Duration // to the head of the answer; 0: there is none
}

// traffic is what has passed.
type traffic struct {
	received atomic.Int64
	sent     atomic.Int64 // over an upgraded connection
	route    uint64       // what the lanes of HTTP/2 know requests by; 0 means not
}

func newRoundTrip(t *Transport, req *http.Request) *roundTrip {
	q := &roundTrip{t: t, req: req}
	q.try.q, q.watch.q, q.trail.q = q, q, q
	q.times.start, q.watch.ctx = time.Now(), req.Context()
	return q
}

// attempt is one try of a request. What a request is answered with is of its last one.
type attempt struct {
	q    *roundTrip
	info Try

	held  bool // res is
	res   balance.Reservation
	gate  *balance.Gate // entered by us
	epoch uint64        // of its run
	used  pool.Used
	long  longconn.Watched // nil: it is a request
	tried time.Time        // when the machine was acquired

	status int
	sick   bool // the answer says that the machine failed
	sized  bool // the length of the answer was known with its head
	// the client may see the end in the last byte of the answer, or in its head, and we do not
	early bool
	freed atomic.Bool // the slot, before that end
}

// recorder keeps the steps of a request where somebody wants a trail.
type recorder struct {
	q     *roundTrip
	steps []Step
	trace string // the traceparent
	made  bool   // by us
}

// run acquires and tries until there is an answer.
func (q *roundTrip) run() (*http.Response, error) {
	q.outcome = balance.OutcomeUnserved
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
			q.want.Tried = append(q.want.Tried, q.try.info.Machine)
		case next == hop.NextRound:
			if err := q.pause(); err != nil {
				return nil, err
			}
		}
	}
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
			q.try.res, q.try.held = res, true
			if tried > 0 && len(q.want.Tried) == 0 {
				q.retries.Renewed(waited)
			}
			m := q.try.res.Machine()
			q.try.info = Try{App: q.want.App, Machine: m.ID, Owner: m.Owner, Region: m.Region, N: q.try.info.N + 1, Local: q.try.res.Gate() != nil, Waited: waited}
			q.trail.step(Step{Kind: StepPick, Took: waited, Try: q.try.info})
			return nil
		}
		if ctx.Err() != nil {
			return q.gaveUp()
		}
		// What is left has been tried: all of it may be tried again in a new round.
		if nm, ok := errors.AsType[*balance.NoMachineError](err); ok && nm.Excluded > 0 && q.retries.Exhausted(q.t.limits) == hop.NextRound {
			if err := q.pause(); err != nil {
				return err
			}
			continue
		}
		return q.unavailable(err)
	}
}

// unavailable is the error when the picker finds nothing. After a failed try with no bounce since, that failure is what
// the client should hear of.
func (q *roundTrip) unavailable(err error) error {
	if q.last.err != nil && (err == nil || errors.Is(err, balance.ErrNoMachine)) {
		q.outcome = q.last.outcome
		return q.last.err
	}
	q.outcome = balance.OutcomeUnserved
	if q.refusals.n > 0 {
		q.outcome = balance.OutcomeBounced
	}
	return &UnavailableError{App: q.want.App, Tries: q.try.info.N, Bounces: q.refusals.n, Err: err}
}

// pause begins a new round.
func (q *roundTrip) pause() error {
	clear(q.want.Tried)
	q.want.Tried = q.want.Tried[:0]
	ctx := q.req.Context()
	q.trail.step(Step{Kind: StepPark, Took: q.retries.Pause(), Try: q.try.info})
	t := time.NewTimer(q.retries.Pause())
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return q.gaveUp()
	}
}

// gaveUp is the error when the request's context ends while no machine has it: the client has left, or its time is up.
func (q *roundTrip) gaveUp() error {
	q.outcome = balance.OutcomeCanceled
	ctx := q.req.Context()
	if errors.Is(ctx.Err(), context.Canceled) {
		return context.Cause(ctx)
	}
	return &UnavailableError{App: q.want.App, Tries: q.try.info.N, Bounces: q.refusals.n, Err: context.Cause(ctx)}
}

// attempt tries the machine that is reserved. Without an answer the reservation has been released.
func (a *attempt) run() (*http.Response, hop.Next, error) {
	t := a.q.t
	if t.c.Trace.Try != nil {
		t.c.Trace.Try(a.info)
	}
	x := pool.Exchange{Body: a.q.body}
	var resp *http.Response
	var fail Failure
	var err error
	bounce, load := balance.BounceNone, balance.Load{}
	defer a.q.watch.upgrade()()
	if g := a.res.Gate(); g != nil {
		resp, bounce, load, fail, err = a.local(g, &x)
	} else {
		resp, bounce, load, fail, err = a.remote(&x)
	}
	a.used = x.Used
	if bounce != balance.BounceNone {
		x.Done()
		next := a.refused(bounce, load)
		if next == hop.NextGiveUp {
			err = a.q.unavailable(nil)
		}
		return nil, next, err
	}
	if err != nil {
		err = a.q.watch.reason(err)
		return nil, a.broke(fail, err, x.State()), err
	}
	a.status, a.sized = resp.StatusCode, resp.ContentLength >= 0
	a.early = a.long == nil && x.H2 && a.sized && len(resp.Trailer) == 0 &&
		(resp.ContentLength == 0 || a.gate != nil && a.q.req.ProtoMajor == 1)
	a.sick = a.q.t.c.Failed(resp.StatusCode, resp.Header)
	a.q.times.first = time.Since(a.q.times.start)
	a.q.trail.step(Step{Kind: StepHead, Took: time.Since(a.tried), Try: a.info})
	wrapAnswer(a.q, resp)
	return resp, hop.NextGiveUp, nil
}

// refused notes a bounce.
func (a *attempt) refused(b balance.Bounce, l balance.Load) hop.Next {
	a.q.refusals.n++
	if a.q.refusals.since.IsZero() {
		a.q.refusals.since = time.Now()
	}
	a.q.last.err = nil
	if hook := a.q.t.c.Trace.Bounce; hook != nil {
		hook(Bounced{Try: a.info, Reason: b, Load: l, Took: time.Since(a.tried)})
	}
	a.q.trail.step(Step{Kind: StepBounce, Took: time.Since(a.tried), Try: a.info, Reason: b, Load: l})
	a.release(balance.OutcomeBounced)
	return a.q.retries.Bounced(a.q.t.limits, time.Since(a.q.refusals.since))
}

// broke notes a failed try.
func (a *attempt) broke(fail Failure, err error, body hop.BodyState) hop.Next {
	over := a.q.req.Context().Err() != nil
	switch {
	case fail == hop.FailureClient, fail == hop.FailureDeadline, over:
		a.q.outcome = balance.OutcomeCanceled // says nothing about the machine
	case fail == hop.FailureLimit, oslimit.Reached(err):
		a.q.outcome = balance.OutcomeUnserved // nor does this
	case fail == hop.FailureRefused:
		a.q.outcome = balance.OutcomeBounced
	default:
		a.q.outcome = balance.OutcomeError
	}
	if !over {
		a.q.last.err, a.q.last.outcome = err, a.q.outcome
	}
	if fail.Certainty() == hop.CertaintyNotSent {
		a.res.NotSent()
	}
	v := hop.NextGiveUp
	switch {
	case over:
	case fail == hop.FailureRefused:
		if a.q.refusals.since.IsZero() {
			a.q.refusals.since = time.Now()
		}
		v = a.q.retries.Refused(a.q.t.limits, body, time.Since(a.q.refusals.since))
	default:
		v = a.q.retries.Failed(a.q.t.limits, fail, a.q.t.c.Idempotent(a.q.req), body)
		if v == hop.NextElsewhere && fail == hop.FailureReset && a.atMachine(err) {
			v = a.q.retries.Died()
		}
	}
	a.q.trail.step(Step{Kind: StepFail, Took: time.Since(a.tried), Try: a.info, Failure: fail, Err: err})
	if v != hop.NextGiveUp && fail != hop.FailureRefused && !a.q.t.afford(time.Now()) {
		a.q.retries.Failures--
		v = hop.NextGiveUp
	}
	if v == hop.NextGiveUp {
		return v // finish releases
	}
	if hook := a.q.t.c.Trace.Retry; hook != nil {
		hook(Retried{Try: a.info, Failure: fail, Err: err, Took: time.Since(a.tried)})
	}
	a.release(a.q.outcome)
	return v
}

// atMachine reports whether it was the machine that a try failed at, and not the way to its owner.
func (a *attempt) atMachine(err error) bool {
	_, told := errors.AsType[*ownerError](err)
	return told || a.info.Local
}

// release ends the present try.
func (a *attempt) release(o balance.Outcome) {
	if !a.held {
		return
	}
	a.held = false
	freed := !a.freed.CompareAndSwap(false, a.early) // by then nobody frees it any more
	long := a.long != nil
	if long {
		a.long.Leave() // before the gate, and before the connection is used again
		a.long = nil
	}
	left := a.used.Release()
	gate := a.gate
	if !freed {
		a.gate = nil
	}
	switch {
	case gate != nil && left:
		a.linger(gate, o, freed)
	case freed:
	case gate != nil:
		if o == balance.OutcomeDone && !long {
			a.learn()
		}
		gate.Leave()
		fallthrough
	default:
		a.res.Release(o)
	}
	a.used = pool.Used{}
}

// free frees the slot where an answer over HTTP/2 has all its bytes and its end is still to come.
func (a *attempt) free() {
	if !a.freed.CompareAndSwap(false, true) {
		return
	}
	o := a.q.answerOutcome()
	if a.gate != nil {
		if o == balance.OutcomeDone {
			a.learn()
		}
		a.gate.Leave()
	}
	a.res.Release(o)
}

// linger has the slot held until the machine is done, if it has not been freed: then nothing but
// the stream lingers.
func (a *attempt) linger(gate *balance.Gate, o balance.Outcome, freed bool) {
	var res balance.Reservation
	if !freed {
		res = a.res // its only copy from here on
		a.res = balance.Reservation{}
	}
	l := &pool.Lingering{
		Gate: gate, Epoch: a.epoch, App: a.q.t.app(a.q.want.App), Sent: a.used.Sent(), Began: a.tried, Times: &a.q.t.services,
		Free: func() {
			if !freed {
				gate.Leave()
				res.Release(o)
			}
		},
	}
	if hook := a.q.t.c.Trace.Abandoned; hook != nil && !freed {
		machine, epoch := a.info.Machine, a.epoch
		l.Hook = func(freed Freed, held time.Duration) {
			hook(Abandoned{l.App.ID, machine, a.q.t.c.Node, epoch, freed, held})
		}
	}
	l.Start(a.used)
}

// learn takes in how long a machine of this process has worked on a request that it has answered.
func (a *attempt) learn() {
	switch {
	case a.status == http.StatusSwitchingProtocols:
	case a.sized: // the work is done when the length is known; what follows takes as long as the client
		a.q.t.services.Observe(a.q.want.App, a.q.times.first-a.tried.Sub(a.q.times.start))
	default:
		a.q.t.services.Observe(a.q.want.App, time.Since(a.tried))
	}
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
		q.t.kept.Add(-q.body.Unreserve())
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
		App: q.want.App, Method: cmp.Or(q.req.Method, http.MethodGet), Host: q.req.Host, Context: q.req.Context(),
		Try: q.try.info, Outcome: o, Err: err,
		Tries: q.try.info.N, Bounces: q.refusals.n, Failures: q.retries.Failures,
		Waited: q.times.waited, First: q.times.first, Total: time.Since(q.times.start), Sent: q.traffic.sent.Load(), Received: q.traffic.received.Load(),
	}
	if d.Host == "" && q.req.URL != nil {
		d.Host = q.req.URL.Host
	}
	d.Status, d.Cause = q.said(o, err)
	if d.First > 0 {
		d.Download = d.Total - d.First
	}
	if q.body != nil {
		d.Sent += q.body.Count()
		if at := q.body.Ended(); !at.IsZero() {
			d.Upload = max(0, at.Sub(q.times.start))
		}
	}
	return d
}

// said returns what the client was told: the status and, where it was no whole answer, the cause.
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
		return q.try.status, CauseClient
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

const headerTrace = "Traceparent"

// traced finds the request's trace, or makes one.
func (r *recorder) begin() {
	if v := r.q.req.Header[headerTrace]; len(v) > 0 {
		r.trace = v[0]
		return
	}
	if r.q.t.c.MakeTrace {
		// Neither half may be zero.
		r.trace = fmt.Sprintf("00-%016x%016x-%016x-00", rand.Uint64(), rand.Uint64()|1, rand.Uint64()|1)
		r.made = true
	}
}

// step notes what happens, where somebody may want to hear of it.
func (r *recorder) step(s Step) {
	if r.q.t.c.Trace.Trail == nil || len(r.steps) >= maxSteps {
		return
	}
	s.At = time.Since(r.q.times.start)
	r.steps = append(r.steps, s)
}

// tell tells the way of a request that is over.
func (r *recorder) tell(d Done) {
	hook := r.q.t.c.Trace.Trail
	if hook == nil {
		return
	}
	want, sampled := wanted(d, r.q.t.c.slow, r.q.t.c.sample, rand.Uint64())
	if !want {
		return
	}
	t := Trail{Done: d, Method: r.q.req.Method, Trace: r.trace, Begun: r.q.times.start, Sampled: sampled}
	if r.q.req.URL != nil {
		t.Path = r.q.req.URL.Path
	}
	t.Steps = append(r.steps, Step{Kind: StepEnd, At: d.Total, Took: d.Download, Try: d.Try, Err: d.Err})
	hook(t)
}
