package backhaul

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/longconn"
	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/oslimit"
)

// attempt is the present try of a request; the last one answers it.
type attempt struct {
	q    *roundTrip
	info tryInfo

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
	// early: the client may see the end of the answer, in its last byte or its head, before we do
	early bool
	freed atomic.Bool // the slot, before that end

	ready []balance.Machine // what its refusal named
}

// tryInfo is what is known of a try after its reservation has been released.
type tryInfo struct {
	n       int // counts the tries of the request, from 1
	machine balance.MachineID
	owner   balance.NodeID
	local   bool // the machine is of this process
}

// run tries the machine that is reserved. Without an answer the reservation has been released.
func (a *attempt) run() (*http.Response, hop.Next, error) {
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
	a.q.trail.event(Event{Kind: EventAnswer})
	wrapAnswer(a.q, resp)
	return resp, hop.NextGiveUp, nil
}

// refused notes a bounce.
func (a *attempt) refused(b balance.Bounce, l balance.Load) hop.Next {
	a.q.tries.bounces++
	a.q.tries.last.err = nil
	since := a.q.tries.sinceRefused()
	a.q.trail.event(Event{Kind: EventBounce, Bounce: b, Load: l, Ready: a.ready})
	a.release(balance.OutcomeBounced)
	return a.q.tries.Bounced(a.q.t.limits, since)
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
		a.q.tries.last.err, a.q.tries.last.outcome = err, a.q.outcome
	}
	if fail.Certainty() == hop.CertaintyNotSent {
		a.res.NotSent()
	}
	away := fail == hop.FailureDial && !a.atMachine(err)
	if away {
		a.q.tries.away = append(a.q.tries.away, a.info.owner)
	}
	v := hop.NextGiveUp
	switch {
	case over:
	case fail == hop.FailureRefused:
		v = a.q.tries.Refused(a.q.t.limits, body, a.q.tries.sinceRefused())
	default:
		v = a.q.tries.Failed(a.q.t.limits, fail, idempotent(a.q.req), body)
		if v == hop.NextElsewhere && fail == hop.FailureReset && a.atMachine(err) {
			v = a.q.tries.Died()
		}
	}
	// What reached nobody is no load on anybody: the budget of all requests is for what did.
	free := away || fail == hop.FailureRefused
	if v != hop.NextGiveUp && !free && !a.q.t.budget.afford(time.Now()) {
		a.q.tries.Failures--
		v = hop.NextGiveUp
	}
	if v == hop.NextGiveUp {
		a.q.trail.event(Event{Kind: EventFail, Failure: fail, Err: err})
		return v // finish releases
	}
	a.q.trail.event(Event{Kind: EventRetry, Failure: fail, Err: err})
	a.release(a.q.outcome)
	return v
}

// atMachine reports whether the machine failed, rather than the way to its owner.
func (a *attempt) atMachine(err error) bool {
	_, told := errors.AsType[*ownerError](err)
	return told || a.info.local
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

// linger holds the slot until the machine is done. Where the slot is free already, only the stream
// lingers.
func (a *attempt) linger(gate *balance.Gate, o balance.Outcome, freed bool) {
	var res balance.Reservation
	if !freed {
		res = a.res // its only copy from here on
		a.res = balance.Reservation{}
	}
	l := &pool.Lingering{
		Gate: gate, Epoch: a.epoch, App: a.q.t.apps.row(a.q.want.App), Sent: a.used.Sent(),
		Began: a.tried, Times: &a.q.t.services,
		Free: func() {
			if !freed {
				gate.Leave()
				res.Release(o)
			}
		},
	}
	if hook := a.q.t.c.Trace.Event; hook != nil && !freed {
		e := Event{
			Kind: EventFree, App: l.App.ID, Machine: a.info.machine, Node: a.info.owner,
		}
		start := a.q.times.start
		l.Hook = func(freed Freed, held time.Duration) {
			e.Freed, e.Took, e.At = freed, held, time.Since(start)
			hook(e)
		}
	}
	l.Start(a.used)
}

// learn notes how long a machine of this process has worked on a request that it has answered.
func (a *attempt) learn() {
	switch {
	case a.status == http.StatusSwitchingProtocols:
	// the work is done when the length is known; what follows takes as long as the client
	case a.sized:
		a.q.t.services.Observe(a.q.want.App, a.q.times.first-a.tried.Sub(a.q.times.start))
	default:
		a.q.t.services.Observe(a.q.want.App, time.Since(a.tried))
	}
}

// lane chooses between the connections for bulk and the others.
func (a *attempt) lane() hop.Lane {
	if a.q.traffic.route == 0 {
		a.q.traffic.route = pool.RouteOf(a.q.want.App, a.q.req.Method, a.q.req.URL.Path)
	}
	return hop.LaneOf(a.q.req.ContentLength, a.q.t.routes.Last(a.q.traffic.route), a.q.times.start)
}

// machineError describes a failed try.
func (a *attempt) machineError(fail Failure, err error) error {
	if _, ok := errors.AsType[*pool.BodyError](err); ok || fail == hop.FailureClient {
		return err
	}
	return &MachineError{
		App: a.q.want.App, Machine: a.info.machine, Owner: a.info.owner, Failure: fail, Tries: a.info.n,
		Err: err,
	}
}

// local enters the gate of a machine of this process and sends the request to the machine.
func (a *attempt) local(
	g *balance.Gate, x *pool.Exchange,
) (*http.Response, balance.Bounce, balance.Load, Failure, error) {
	m := a.res.Machine()
	slot, _ := a.res.GrantToken()
	load, bounce := g.Enter(slot, m.Epoch, m.CordonGen)
	if bounce != balance.BounceNone {
		a.res.Observe(load)
		return nil, bounce, load, hop.FailureNone, nil
	}
	a.gate, a.epoch = g, load.Epoch
	x.Pool, x.Name, x.Epoch = a.q.t.machines, pool.MachineName(m), load.Epoch
	x.Dial = func(ctx context.Context) (net.Conn, error) { return a.q.t.c.DialMachine(ctx, *m) }
	out := a.outgoing(passing1xx(a.q.watch.ctx, false))
	x.H2 = a.q.t.c.H2 != nil && a.q.t.c.H2(*m) && out.Header["Upgrade"] == nil
	keepTarget(out, x.H2)
	x.Finish = x.H2 && a.q.t.apps.row(m.App).FinishAbandoned
	hop.SetEpoch(out.Header, a.q.t.c.EpochHeader, load.Epoch)
	if x.H2 && a.q.body != nil {
		a.q.body.Retain(reopenable(a.q.req.ContentLength, true))
		x.Once = !a.q.body.Covers(a.q.req.ContentLength) &&
			(a.q.req.ContentLength > 0 || a.q.req.ProtoMajor == 1)
	}
	resp, fail, err := x.Do(out)
	if err != nil {
		suspect(g, load.Epoch, fail, err)
		return nil, balance.BounceNone, load, fail, a.machineError(fail, err)
	}
	hop.StripInternal(resp.Header)
	a.long = a.q.t.c.Connections.watch(m.App, m.ID, a.q.req, resp, x, a.q.grpc)
	return resp, balance.BounceNone, load, hop.FailureNone, nil
}

// remote sends the request to the machine's owner.
func (a *attempt) remote(
	x *pool.Exchange,
) (*http.Response, balance.Bounce, balance.Load, Failure, error) {
	t, m := a.q.t, a.res.Machine()
	owner := m.Owner
	if t.c.Dial == nil {
		err := fmt.Errorf(
			"backhaul: node %q owns the machine and Config.Dial is nil: set it to reach other nodes", owner,
		)
		err = a.machineError(hop.FailureDial, err)
		return nil, balance.BounceNone, balance.Load{}, hop.FailureDial, err
	}
	x.Pool, x.Name, x.Epoch = t.owners, pool.OwnerName(owner), a.res.Incarnation()
	x.Dial = func(ctx context.Context) (net.Conn, error) { return t.c.Dial(ctx, owner) }
	x.Patience = t.c.admitTimeout
	if x.H2 = a.q.req.ProtoMajor == 2; x.H2 {
		x.Lane = a.lane()
		x.Ask = a.q.body != nil && a.q.req.ContentLength <= 0
	}
	if t.c.RTT != nil {
		x.RTT, x.RTTKnown = t.c.RTT(owner)
	}
	x.Expect = a.q.body != nil && !x.Ask && !a.q.body.Covers(a.q.req.ContentLength)
	ctx := a.q.watch.ctx
	if x.Expect || x.Ask {
		ctx = passing1xx(ctx, true) // it answers the Expect of the hop and not one of the client's
	}
	out := a.outgoing(ctx)
	keepTarget(out, x.H2)
	slot, _ := a.res.GrantToken()
	out.Header[hop.HeaderTo] = []string{
		string(
			hop.AppendTo(
				make([]byte, 0, 64),
				hop.To{App: m.App, Machine: m.ID, CordonGen: m.CordonGen, Node: t.node, Token: slot},
			),
		),
	}
	if x.Expect {
		out.Header["Expect"] = expectContinue
		if x.H2 {
			out.Header[hop.HeaderAsk] = askBody // an HTTP/2 server hides the Expect from its handler
		}
	}
	if x.Ask {
		out.Header[hop.HeaderAsk] = askWord
		x.Admitted = a.admitted
	}
	resp, fail, err := x.Do(out)
	if err != nil {
		return nil, balance.BounceNone, balance.Load{}, fail, a.machineError(fail, err)
	}
	load, ok := balance.Load{}, false
	if v := resp.Header[hop.HeaderLoad]; len(v) > 0 {
		if load, ok = hop.ParseLoad(v[0]); ok {
			a.res.Observe(load)
		}
	}
	if v := resp.Header[hop.HeaderBounce]; len(v) > 0 {
		if ms := resp.Header[hop.HeaderElse]; len(ms) == 1 {
			a.ready = hop.ParseElse(ms[0], m.App)
		}
		discard(resp)
		return nil, hop.ParseBounce(v[0]), load, hop.FailureNone, nil
	}
	if v := resp.Header[hop.HeaderFault]; len(v) > 0 {
		discard(resp)
		fail, words := hop.ParseFault(v[0])
		if fail == hop.FailureClient {
			return nil, balance.BounceNone, load, fail, a.q.watch.there(resp.StatusCode)
		}
		return nil, balance.BounceNone, load, fail, a.machineError(fail, &ownerError{owner, words})
	}
	hop.StripInternal(resp.Header)
	return resp, balance.BounceNone, load, hop.FailureNone, nil
}

// admitted is called when an owner has admitted a body of unknown length. If the request may not be
// executed twice, what was kept of the body is of no more use. It must not block: it runs on the
// goroutine that reads a connection.
func (a *attempt) admitted() {
	if !idempotent(a.q.req) {
		a.q.body.ForgetRest()
		a.q.body.Release()
	}
}

// outgoing returns the request of one try. Each try has its own, since the body of the last one may
// still be on its way.
func (a *attempt) outgoing(ctx context.Context) *http.Request {
	out := a.q.req.WithContext(ctx)
	h := make(http.Header, len(a.q.req.Header)+3)
	for k, v := range a.q.req.Header {
		if !hop.IsInternal(k) && k != "Expect" {
			h[k] = v
		}
	}
	hop.KeepHTTP(h)
	out.Header = h
	out.GetBody = nil
	out.Close = false
	//lint:ignore SA1019 it is cleared because it is deprecated: the context rules on the hop
	out.Cancel = nil
	out.Body, out.Trailer = nil, nil
	switch {
	case a.q.body == nil:
		out.ContentLength = 0
	case out.ContentLength == 0:
		out.ContentLength = -1 // a body of unknown length
	}
	return out
}

// passing1xx returns a context whose trace gets the 1xx answers of machines, without the headers of
// the hop and without a "100 Continue" that is the hop's own.
func passing1xx(ctx context.Context, hide100 bool) context.Context {
	outer := httptrace.ContextClientTrace(ctx)
	if outer == nil || outer.Got1xxResponse == nil {
		return ctx
	}
	inner := *outer
	inner.Got1xxResponse = func(code int, h textproto.MIMEHeader) error {
		if hide100 && code == http.StatusContinue {
			return nil
		}
		hop.StripInternal(http.Header(h))
		return outer.Got1xxResponse(code, h)
	}
	if hide100 {
		inner.Got100Continue = nil
	}
	return httptrace.WithClientTrace(untraced{ctx}, &inner)
}

// untraced hides the trace of a context, which would be called beside the one that replaces it.
type untraced struct{ context.Context }

func (u untraced) Value(key any) any {
	v := u.Context.Value(key)
	if _, ok := v.(*httptrace.ClientTrace); ok {
		return nil
	}
	return v
}

// suspect tells the gate that nothing listens at the machine's address. Package autostart/machine
// then checks it, and restarts it if it has to.
func suspect(g *balance.Gate, epoch uint64, f Failure, err error) {
	if f == hop.FailureDial && errors.Is(err, syscall.ECONNREFUSED) {
		g.Suspect(epoch)
	}
}

// keepTarget makes net/http send a request's target and Host as they came. The URL of out is
// replaced, not changed: others may have it.
//
// If a path has bytes that a URL may not have ("|", raw UTF-8), net/http writes it anew from its
// decoded form, and so turns %2F into a slash. It leaves a URL's Opaque alone.
//
// net/http replaces an empty Host by the URL's, which is our own name for the app. Over HTTP/1.1 it
// writes an empty one if the URL's cannot be a Host. Over HTTP/2 that is impossible, and the app
// gets a name that nobody has.
func keepTarget(out *http.Request, h2 bool) {
	opaque, raw := hop.ExactPath(out.URL)
	if opaque == "" && raw == out.URL.RawPath && out.Host != "" {
		return
	}
	u := *out.URL
	u.Opaque, u.RawPath = opaque, raw
	switch {
	case out.Host != "":
	case h2:
		u.Host = "invalid" // RFC 6761, 6.4
	default:
		u.Host = "/"
	}
	out.URL = &u
}

var (
	expectContinue = []string{"100-continue"}
	askBody        = []string{"body"}
	askWord        = []string{"word"}
)
