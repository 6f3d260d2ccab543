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

// flight is one request on its way.
type flight struct {
	t      *Transport
	req    *http.Request
	body   *pool.Body         // nil: none
	spigot *longconn.GRPCBody // of body; nil: its messages cannot be ended

	want  balance.Request
	route uint64 // what the lanes of HTTP/2 know requests by; 0 means not
	spent hop.Retries

	// Of the present try.
	held  bool
	res   balance.Reservation
	gate  *balance.Gate // entered by us
	epoch uint64        // of its run
	used  pool.Used
	long  longconn.Watched // nil: it is a request
	try   Try

	answered bool
	over     atomic.Bool
	// the client may see the end in the last byte of the answer, or in its head, and we do not
	early   bool
	freed   atomic.Bool     // the slot, before that end
	outcome balance.Outcome // when there is no answer

	start, tried time.Time
	waited       time.Duration
	first        time.Duration
	bounces      int
	bounced      time.Time       // when the first bounce came
	failed       error           // the last failed try,
	blame        balance.Outcome // and what it says of its machine
	status       int
	sick         bool // the answer says that the machine failed
	sized        bool // the length of the answer was known with its head
	received     atomic.Int64
	sent         atomic.Int64 // over an upgraded connection

	ctx      context.Context // of the tries
	cancel   context.CancelCauseFunc
	progress *pool.Progress             // nil: nothing can stall
	stall    atomic.Pointer[StallError] // why it was ended
	handed   atomic.Bool                // the answer has been handed out

	steps []Step // where somebody wants a trail
	trace string // the traceparent
	made  bool   // by us
}

// run acquires and tries until there is an answer.
func (f *flight) run() (*http.Response, error) {
	f.outcome = balance.OutcomeUnserved
	want, err := f.t.c.Route(f.req)
	if err != nil {
		return nil, err
	}
	f.want = want
	if f.req.Method == http.MethodConnect {
		return nil, errConnect
	}
	if err := f.ahead(); err != nil {
		return nil, err
	}
	f.outcome = balance.OutcomeUnserved
	f.watch()
	for {
		if err := f.acquire(); err != nil {
			return nil, err
		}
		resp, next, err := f.attempt()
		switch {
		case resp != nil:
			return resp, nil
		case next == hop.NextGiveUp:
			return nil, err
		case next == hop.NextElsewhere:
			f.want.Tried = append(f.want.Tried, f.try.Machine)
		case next == hop.NextRound:
			if err := f.pause(); err != nil {
				return nil, err
			}
		}
	}
}

// acquire gets a reservation from the picker.
func (f *flight) acquire() error {
	ctx := f.req.Context()
	for {
		if ctx.Err() != nil {
			return f.gaveUp()
		}
		tried := len(f.want.Tried)
		began := time.Now()
		res, err := f.t.picker.Acquire(ctx, &f.want)
		f.tried = time.Now()
		waited := f.tried.Sub(began)
		f.waited += waited
		if err == nil {
			f.res, f.held = res, true
			if tried > 0 && len(f.want.Tried) == 0 {
				f.spent.Renewed(waited)
			}
			m := f.res.Machine()
			f.try = Try{App: f.want.App, Machine: m.ID, Owner: m.Owner, Region: m.Region, N: f.try.N + 1, Local: f.res.Gate() != nil, Waited: waited}
			f.step(Step{Kind: StepPick, Took: waited, Try: f.try})
			return nil
		}
		if ctx.Err() != nil {
			return f.gaveUp()
		}
		// What is left has been tried: all of it may be tried again in a new round.
		if nm, ok := errors.AsType[*balance.NoMachineError](err); ok && nm.Excluded > 0 && f.spent.Exhausted(f.t.limits) == hop.NextRound {
			if err := f.pause(); err != nil {
				return err
			}
			continue
		}
		return f.unavailable(err)
	}
}

// unavailable is the error when the picker finds nothing. After a failed try with no bounce since, that failure is what
// the client should hear of.
func (f *flight) unavailable(err error) error {
	if f.failed != nil && (err == nil || errors.Is(err, balance.ErrNoMachine)) {
		f.outcome = f.blame
		return f.failed
	}
	f.outcome = balance.OutcomeUnserved
	if f.bounces > 0 {
		f.outcome = balance.OutcomeBounced
	}
	return &UnavailableError{App: f.want.App, Tries: f.try.N, Bounces: f.bounces, Err: err}
}

// pause begins a new round.
func (f *flight) pause() error {
	clear(f.want.Tried)
	f.want.Tried = f.want.Tried[:0]
	ctx := f.req.Context()
	f.step(Step{Kind: StepPark, Took: f.spent.Pause(), Try: f.try})
	t := time.NewTimer(f.spent.Pause())
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return f.gaveUp()
	}
}

// gaveUp is the error when the request's context ends while no machine has it: the client has left, or its time is up.
func (f *flight) gaveUp() error {
	f.outcome = balance.OutcomeCanceled
	ctx := f.req.Context()
	if errors.Is(ctx.Err(), context.Canceled) {
		return context.Cause(ctx)
	}
	return &UnavailableError{App: f.want.App, Tries: f.try.N, Bounces: f.bounces, Err: context.Cause(ctx)}
}

// attempt tries the machine that is reserved. Without an answer the reservation has been released.
func (f *flight) attempt() (*http.Response, hop.Next, error) {
	t := f.t
	if t.c.Trace.Try != nil {
		t.c.Trace.Try(f.try)
	}
	x := pool.Exchange{Body: f.body}
	var resp *http.Response
	var fail Failure
	var err error
	bounce, load := balance.BounceNone, balance.Load{}
	defer f.watchUpgrade()()
	if g := f.res.Gate(); g != nil {
		resp, bounce, load, fail, err = f.local(g, &x)
	} else {
		resp, bounce, load, fail, err = f.remote(&x)
	}
	f.used = x.Used
	if bounce != balance.BounceNone {
		x.Done()
		next := f.refused(bounce, load)
		if next == hop.NextGiveUp {
			err = f.unavailable(nil)
		}
		return nil, next, err
	}
	if err != nil {
		err = f.stallOf(err)
		return nil, f.broke(fail, err, x.State()), err
	}
	f.status, f.sized = resp.StatusCode, resp.ContentLength >= 0
	f.early = f.long == nil && x.H2 && f.sized && len(resp.Trailer) == 0 &&
		(resp.ContentLength == 0 || f.gate != nil && f.req.ProtoMajor == 1)
	f.sick = f.t.c.Failed(resp.StatusCode, resp.Header)
	f.first = time.Since(f.start)
	f.step(Step{Kind: StepHead, Took: time.Since(f.tried), Try: f.try})
	f.wrap(resp)
	return resp, hop.NextGiveUp, nil
}

// refused notes a bounce.
func (f *flight) refused(b balance.Bounce, l balance.Load) hop.Next {
	f.bounces++
	if f.bounced.IsZero() {
		f.bounced = time.Now()
	}
	f.failed = nil
	if hook := f.t.c.Trace.Bounce; hook != nil {
		hook(Bounced{Try: f.try, Reason: b, Load: l, Took: time.Since(f.tried)})
	}
	f.step(Step{Kind: StepBounce, Took: time.Since(f.tried), Try: f.try, Reason: b, Load: l})
	f.release(balance.OutcomeBounced)
	return f.spent.Bounced(f.t.limits, time.Since(f.bounced))
}

// broke notes a failed try.
func (f *flight) broke(fail Failure, err error, body hop.BodyState) hop.Next {
	over := f.req.Context().Err() != nil
	switch {
	case fail == hop.FailureClient, fail == hop.FailureDeadline, over:
		f.outcome = balance.OutcomeCanceled // says nothing about the machine
	case fail == hop.FailureLimit, oslimit.Reached(err):
		f.outcome = balance.OutcomeUnserved // nor does this
	case fail == hop.FailureRefused:
		f.outcome = balance.OutcomeBounced
	default:
		f.outcome = balance.OutcomeError
	}
	if !over {
		f.failed, f.blame = err, f.outcome
	}
	if fail.Certainty() == hop.CertaintyNotSent {
		f.res.NotSent()
	}
	v := hop.NextGiveUp
	switch {
	case over:
	case fail == hop.FailureRefused:
		if f.bounced.IsZero() {
			f.bounced = time.Now()
		}
		v = f.spent.Refused(f.t.limits, body, time.Since(f.bounced))
	default:
		v = f.spent.Failed(f.t.limits, fail, f.t.c.Idempotent(f.req), body)
		if v == hop.NextElsewhere && fail == hop.FailureReset && f.atMachine(err) {
			v = f.spent.Died()
		}
	}
	f.step(Step{Kind: StepFail, Took: time.Since(f.tried), Try: f.try, Failure: fail, Err: err})
	if v != hop.NextGiveUp && fail != hop.FailureRefused && !f.t.afford(time.Now()) {
		f.spent.Failures--
		v = hop.NextGiveUp
	}
	if v == hop.NextGiveUp {
		return v // finish releases
	}
	if hook := f.t.c.Trace.Retry; hook != nil {
		hook(Retried{Try: f.try, Failure: fail, Err: err, Took: time.Since(f.tried)})
	}
	f.release(f.outcome)
	return v
}

// atMachine reports whether it was the machine that a try failed at, and not the way to its owner.
func (f *flight) atMachine(err error) bool {
	_, told := errors.AsType[*ownerError](err)
	return told || f.try.Local
}

// release ends the present try.
func (f *flight) release(o balance.Outcome) {
	if !f.held {
		return
	}
	f.held = false
	freed := !f.freed.CompareAndSwap(false, f.early) // by then nobody frees it any more
	long := f.long != nil
	if long {
		f.long.Leave() // before the gate, and before the connection is used again
		f.long = nil
	}
	left := f.used.Release()
	gate := f.gate
	if !freed {
		f.gate = nil
	}
	switch {
	case gate != nil && left:
		f.linger(gate, o, freed)
	case freed:
	case gate != nil:
		if o == balance.OutcomeDone && !long {
			f.learn()
		}
		gate.Leave()
		fallthrough
	default:
		f.res.Release(o)
	}
	f.used = pool.Used{}
}

// free frees the slot where an answer over HTTP/2 has all its bytes and its end is still to come.
func (f *flight) free() {
	if !f.freed.CompareAndSwap(false, true) {
		return
	}
	o := f.answerOutcome()
	if f.gate != nil {
		if o == balance.OutcomeDone {
			f.learn()
		}
		f.gate.Leave()
	}
	f.res.Release(o)
}

// linger has the slot held until the machine is done, if it has not been freed: then nothing but
// the stream lingers.
func (f *flight) linger(gate *balance.Gate, o balance.Outcome, freed bool) {
	var res balance.Reservation
	if !freed {
		res = f.res // its only copy from here on
		f.res = balance.Reservation{}
	}
	l := &pool.Lingering{
		Gate: gate, Epoch: f.epoch, App: f.t.app(f.want.App), Sent: f.used.Sent(), Began: f.tried, Times: &f.t.services,
		Free: func() {
			if !freed {
				gate.Leave()
				res.Release(o)
			}
		},
	}
	if hook := f.t.c.Trace.Abandoned; hook != nil && !freed {
		machine, epoch := f.try.Machine, f.epoch
		l.Hook = func(freed Freed, held time.Duration) {
			hook(Abandoned{l.App.ID, machine, f.t.c.Node, epoch, freed, held})
		}
	}
	l.Start(f.used)
}

// learn takes in how long a machine of this process has worked on a request that it has answered.
func (f *flight) learn() {
	switch {
	case f.status == http.StatusSwitchingProtocols:
	case f.sized: // the work is done when the length is known; what follows takes as long as the client
		f.t.services.Observe(f.want.App, f.first-f.tried.Sub(f.start))
	default:
		f.t.services.Observe(f.want.App, time.Since(f.tried))
	}
}

// finish ends the request, once.
func (f *flight) finish(o balance.Outcome, err error) {
	if !f.over.CompareAndSwap(false, true) {
		return
	}
	if f.progress != nil {
		f.t.sweeper.Remove(f.progress)
	}
	f.release(o)
	if f.cancel != nil {
		f.cancel(pool.ErrStreamOver)
	}
	sent := int64(0)
	if f.body != nil {
		sent = f.body.Count()
	}
	f.t.routes.Mark(f.route, f.received.Load(), sent, f.start)
	if f.body != nil {
		f.body.Close()
		f.t.kept.Add(-f.body.Unreserve())
	}
	if f.t.c.Trace.Done == nil && f.t.c.Trace.Trail == nil {
		return
	}
	d := f.done(o, err)
	if hook := f.t.c.Trace.Done; hook != nil {
		hook(d)
	}
	f.tell(d)
}

func (f *flight) done(o balance.Outcome, err error) Done {
	d := Done{
		App: f.want.App, Method: cmp.Or(f.req.Method, http.MethodGet), Host: f.req.Host, Context: f.req.Context(),
		Try: f.try, Outcome: o, Err: err,
		Tries: f.try.N, Bounces: f.bounces, Failures: f.spent.Failures,
		Waited: f.waited, First: f.first, Total: time.Since(f.start), Sent: f.sent.Load(), Received: f.received.Load(),
	}
	if d.Host == "" && f.req.URL != nil {
		d.Host = f.req.URL.Host
	}
	d.Status, d.Cause = f.said(o, err)
	if d.First > 0 {
		d.Download = d.Total - d.First
	}
	if f.body != nil {
		d.Sent += f.body.Count()
		if at := f.body.Ended(); !at.IsZero() {
			d.Upload = max(0, at.Sub(f.start))
		}
	}
	return d
}

// said returns what the client was told: the status and, where it was no whole answer, the cause.
func (f *flight) said(o balance.Outcome, err error) (status int, cause string) {
	switch {
	case err == errPanic:
		return 0, causeInternal
	case f.status == 0:
		return classify(f.req, err)
	case o == balance.OutcomeCanceled && errors.Is(f.req.Context().Err(), context.DeadlineExceeded):
		return f.status, causeTimeout
	case f.stall.Load() != nil:
		return f.status, causeStalled
	case o == balance.OutcomeCanceled:
		return f.status, CauseClient
	case err != nil:
		return f.status, causeMachine
	}
	return f.status, ""
}

// unwind ends the request when RoundTrip panics.
func (f *flight) unwind() {
	if !f.answered {
		f.finish(balance.OutcomeCanceled, errPanic)
	}
}

var errPanic = errors.New("backhaul: panic on the way")

const headerTrace = "Traceparent"

// traced finds the request's trace, or makes one.
func (f *flight) traced() {
	if v := f.req.Header[headerTrace]; len(v) > 0 {
		f.trace = v[0]
		return
	}
	if f.t.c.MakeTrace {
		// Neither half may be zero.
		f.trace = fmt.Sprintf("00-%016x%016x-%016x-00", rand.Uint64(), rand.Uint64()|1, rand.Uint64()|1)
		f.made = true
	}
}

// step notes what happens, where somebody may want to hear of it.
func (f *flight) step(s Step) {
	if f.t.c.Trace.Trail == nil || len(f.steps) >= maxSteps {
		return
	}
	s.At = time.Since(f.start)
	f.steps = append(f.steps, s)
}

// tell tells the way of a request that is over.
func (f *flight) tell(d Done) {
	hook := f.t.c.Trace.Trail
	if hook == nil {
		return
	}
	want, sampled := wanted(d, f.t.c.slow, f.t.c.sample, rand.Uint64())
	if !want {
		return
	}
	t := Trail{Done: d, Method: f.req.Method, Trace: f.trace, Begun: f.start, Sampled: sampled}
	if f.req.URL != nil {
		t.Path = f.req.URL.Path
	}
	t.Steps = append(f.steps, Step{Kind: StepEnd, At: d.Total, Took: d.Download, Try: d.Try, Err: d.Err})
	hook(t)
}
