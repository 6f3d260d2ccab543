package backhaul

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Transport is the edge's side of the hop: an [http.RoundTripper] that acquires a machine for each request, sends the
// request to the machine's owner (or to the machine, where this process is the owner), and tries elsewhere by the
// decision table of the package comment. It is safe for concurrent use.
//
// The machine's reservation is held until the answer's body has been read to its end or closed; a caller that does
// neither leaks it, as with any RoundTripper. The body of a 101 answer is an [io.ReadWriteCloser]; it also has CloseWrite.
type Transport struct {
	picker   Picker
	c        Config
	limits   limits
	key      []string
	owners   *pool // by node
	machines *pool // by machine and epoch; only those of this process
	kept     atomic.Int64
}

// NewTransport returns a transport that asks p for machines. It starts nothing.
func NewTransport(p Picker, c Config) (*Transport, error) {
	if p == nil {
		return nil, errors.New("backhaul: NewTransport without a Picker: pass an *autostart.Autostart, or NoWait(balancer)")
	}
	if err := c.resolve(); err != nil {
		return nil, err
	}
	t := &Transport{picker: p, c: c, limits: limits{bounces: c.Bounces, rounds: c.Rounds, failures: c.Failures}}
	if c.Key != "" {
		t.key = []string{c.Key}
	}
	pc := poolConfig{maxIdle: c.MaxIdle, idleTimeout: c.IdleTimeout, dialTimeout: c.DialTimeout, headerTimeout: c.HeaderTimeout, maxHeader: c.MaxHeader}
	t.owners = newPool(pc)
	pc.idleTimeout = c.MachineIdleTimeout
	t.machines = newPool(pc)
	return t, nil
}

// CloseIdleConnections closes the connections that carry no request now.
func (t *Transport) CloseIdleConnections() {
	t.owners.closeIdle()
	t.machines.closeIdle()
}

// Close closes idle connections and lets those in use end with their requests. Requests may still be sent, each over a
// connection of its own.
func (t *Transport) Close() {
	t.owners.close()
	t.machines.close()
}

// RoundTrip sends a request and returns the answer. The request is not modified and its body is closed. The error is a
// [*UnavailableError] or a [*MachineError], or tells of the request: its context has ended, its route is unknown, its body
// broke off. [ErrorHandler] answers for each.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	f := &flight{t: t, req: req, start: time.Now()}
	if req.Body != nil && req.Body != http.NoBody {
		f.body = t.source(req)
	}
	defer f.unwind() // whatever panics below
	resp, err := f.run()
	if err != nil {
		f.finish(f.outcome, err)
		return nil, err
	}
	f.answered = true
	return resp, nil
}

// source prepares the body of a request.
func (t *Transport) source(req *http.Request) *source {
	s := &source{rc: req.Body}
	if n := req.ContentLength; n > 0 && n <= int64(t.c.ReplayLimit) {
		if t.kept.Add(n) <= t.c.ReplayMemory {
			s.keep = int(n)
		} else {
			t.kept.Add(-n)
		}
	}
	return s
}

// flight is one request on its way.
type flight struct {
	t    *Transport
	req  *http.Request
	body *source // nil: none

	want  balance.Request
	spent spent

	// Of the present try.
	held bool
	res  balance.Reservation
	gate *balance.Gate // entered by us
	conn *conn         // to go back to its pool when the answer has been read
	pool *pool
	try  Try

	answered bool
	over     atomic.Bool
	outcome  balance.Outcome // when there is no answer

	start, tried time.Time
	waited       time.Duration
	first        time.Duration
	bounces      int
	failed       error // the last failed try
	status       int
	received     atomic.Int64
}

// run acquires and tries until there is an answer.
func (f *flight) run() (*http.Response, error) {
	want, err := f.t.c.Route(f.req)
	if err != nil {
		return nil, err
	}
	f.want = want
	for {
		if err := f.acquire(); err != nil {
			return nil, err
		}
		resp, next, err := f.attempt()
		switch {
		case resp != nil:
			return resp, nil
		case next == giveUp:
			return nil, err
		case next == elsewhere:
			f.want.Tried = append(f.want.Tried, f.try.Machine)
		case next == newRound:
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
			f.outcome = balance.Canceled
			return context.Cause(ctx)
		}
		tried := len(f.want.Tried)
		began := time.Now()
		res, err := f.t.picker.Acquire(ctx, &f.want)
		f.tried = time.Now()
		waited := f.tried.Sub(began)
		f.waited += waited
		if err == nil {
			f.res, f.held = res, true
			if tried > 0 && len(f.want.Tried) == 0 && f.spent.exhausted(f.t.limits) == giveUp {
				f.release(balance.Bounced)
				return f.unavailable(nil)
			}
			m := f.res.Machine()
			f.try = Try{App: f.want.App, Machine: m.ID, Owner: m.Owner, Region: m.Region, N: f.try.N + 1, Local: f.res.Gate() != nil, Waited: waited}
			return nil
		}
		if ctx.Err() != nil {
			f.outcome = balance.Canceled
			return context.Cause(ctx)
		}
		// What is left has been tried: all of it may be tried again in a new round.
		if nm, ok := errors.AsType[*balance.NoMachineError](err); ok && nm.Excluded > 0 && f.spent.exhausted(f.t.limits) == newRound {
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
	f.outcome = balance.Bounced
	if f.failed != nil && (err == nil || errors.Is(err, balance.ErrNoMachine)) {
		return f.failed
	}
	return &UnavailableError{App: f.want.App, Tries: f.try.N, Bounces: f.bounces, Err: err}
}

// pause begins a new round.
func (f *flight) pause() error {
	clear(f.want.Tried)
	f.want.Tried = f.want.Tried[:0]
	ctx := f.req.Context()
	t := time.NewTimer(f.spent.pause())
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		f.outcome = balance.Canceled
		return context.Cause(ctx)
	}
}

// attempt tries the machine that is reserved. Without an answer the reservation has been released.
func (f *flight) attempt() (*http.Response, verdict, error) {
	t := f.t
	if t.c.Trace.Try != nil {
		t.c.Trace.Try(f.try)
	}
	x := exchange{body: f.body}
	var resp *http.Response
	var fail Failure
	var err error
	bounce, load := balance.Admitted, balance.Load{}
	if g := f.res.Gate(); g != nil {
		resp, bounce, load, fail, err = f.local(g, &x)
	} else {
		resp, bounce, load, fail, err = f.remote(&x)
	}
	f.conn, f.pool = x.conn, x.pool
	if bounce != balance.Admitted {
		next := f.refused(bounce, load)
		if next == giveUp {
			err = f.unavailable(nil)
		}
		return nil, next, err
	}
	if err != nil {
		return nil, f.broke(fail, err, x.state()), err
	}
	f.status = resp.StatusCode
	f.first = time.Since(f.start)
	f.wrap(resp)
	return resp, giveUp, nil
}

// refused notes a bounce.
func (f *flight) refused(b balance.Bounce, l balance.Load) verdict {
	f.bounces++
	f.failed = nil
	if hook := f.t.c.Trace.Bounce; hook != nil {
		hook(Bounced{Try: f.try, Reason: b, Load: l, Took: time.Since(f.tried)})
	}
	f.release(balance.Bounced)
	return f.spent.bounced(f.t.limits)
}

// broke notes a failed try.
func (f *flight) broke(fail Failure, err error, body bodyState) verdict {
	f.outcome = balance.Errored
	if f.req.Context().Err() != nil || fail == FailClient {
		f.outcome = balance.Canceled // says nothing about the machine
		fail = FailClient
	} else {
		f.failed = err
	}
	v := f.spent.failed(f.t.limits, fail, f.t.c.Idempotent(f.req), body)
	if v == giveUp {
		return v // finish releases
	}
	if hook := f.t.c.Trace.Retry; hook != nil {
		hook(Retried{Try: f.try, Failure: fail, Err: err, Took: time.Since(f.tried)})
	}
	f.release(f.outcome)
	return v
}

// release ends the present try.
func (f *flight) release(o balance.Outcome) {
	if !f.held {
		return
	}
	f.held = false
	if f.conn != nil {
		f.pool.put(f.conn)
		f.conn = nil
	}
	if f.gate != nil {
		f.gate.Leave()
		f.gate = nil
	}
	f.res.Release(o)
}

// finish ends the request, once.
func (f *flight) finish(o balance.Outcome, err error) {
	if !f.over.CompareAndSwap(false, true) {
		return
	}
	f.release(o)
	if f.body != nil {
		f.body.close()
		f.t.kept.Add(-int64(f.body.keep))
	}
	if hook := f.t.c.Trace.Done; hook != nil {
		d := Done{
			Try: f.try, Outcome: o, Status: f.status, Err: err,
			Tries: f.try.N, Bounces: f.bounces, Failures: f.spent.failures,
			Waited: f.waited, First: f.first, Total: time.Since(f.start), Received: f.received.Load(),
		}
		if f.body != nil {
			d.Sent = f.body.read.Load()
		}
		hook(d)
	}
}

// unwind ends the request when RoundTrip panics.
func (f *flight) unwind() {
	if !f.answered {
		f.finish(balance.Canceled, errPanic)
	}
}

var errPanic = errors.New("backhaul: panic on the way")

// machineError describes a failed try.
func (f *flight) machineError(fail Failure, err error) error {
	if _, ok := errors.AsType[*bodyError](err); ok || f.req.Context().Err() != nil {
		return err
	}
	return &MachineError{App: f.want.App, Machine: f.try.Machine, Owner: f.try.Owner, Failure: fail, Tries: f.try.N, Err: err}
}

// local enters the gate of a machine of this process and sends the request to the machine.
func (f *flight) local(g *balance.Gate, x *exchange) (*http.Response, balance.Bounce, balance.Load, Failure, error) {
	m := f.res.Machine()
	load, bounce := g.Admit(m.Epoch, m.CordonGen)
	if bounce != balance.Admitted {
		f.res.Observe(load)
		return nil, bounce, load, FailNone, nil
	}
	f.gate = g
	x.pool, x.name, x.epoch = f.t.machines, string(m.ID), load.Epoch
	x.dial = func(ctx context.Context) (net.Conn, error) { return f.t.c.DialMachine(ctx, *m) }
	resp, fail, err := x.do(f.outgoing(f.req.Context()))
	if err != nil {
		return nil, balance.Admitted, load, fail, f.machineError(fail, err)
	}
	strip(resp.Header)
	return resp, balance.Admitted, load, FailNone, nil
}

// strip removes the headers of the hop.
func strip(h http.Header) {
	for k := range h {
		if internal(k) {
			delete(h, k)
		}
	}
}

// remote sends the request to the machine's owner.
func (f *flight) remote(x *exchange) (*http.Response, balance.Bounce, balance.Load, Failure, error) {
	t, m := f.t, f.res.Machine()
	owner := m.Owner
	if t.c.Dial == nil {
		err := fmt.Errorf("backhaul: node %q owns the machine and Config.Dial is nil: set it to reach other nodes", owner)
		return nil, balance.Admitted, balance.Load{}, FailDial, f.machineError(FailDial, err)
	}
	x.pool, x.name = t.owners, string(owner)
	x.dial = func(ctx context.Context) (net.Conn, error) { return t.c.Dial(ctx, owner) }
	x.expect = f.body != nil && f.body.keep == 0
	ctx := f.req.Context()
	if x.expect {
		ctx = withoutContinue(ctx)
	}
	out := f.outgoing(ctx)
	out.Header[headerTo] = []string{string(appendTo(make([]byte, 0, 64), to{app: m.App, id: m.ID, gen: m.CordonGen, node: t.c.Node}))}
	if t.key != nil {
		out.Header[headerKey] = t.key
	}
	if x.expect {
		out.Header["Expect"] = expectContinue
	}
	resp, fail, err := x.do(out)
	if err != nil {
		return nil, balance.Admitted, balance.Load{}, fail, f.machineError(fail, err)
	}
	load, ok := balance.Load{}, false
	if v := resp.Header[headerLoad]; len(v) > 0 {
		if load, ok = parseLoad(v[0]); ok {
			f.res.Observe(load)
		}
	}
	if v := resp.Header[headerBounce]; len(v) > 0 {
		discard(resp)
		return nil, parseBounce(v[0]), load, FailNone, nil
	}
	if v := resp.Header[headerFault]; len(v) > 0 {
		discard(resp)
		fail, words := parseFault(v[0])
		return nil, balance.Admitted, load, fail, f.machineError(fail, &ownerError{owner, words})
	}
	strip(resp.Header)
	return resp, balance.Admitted, load, FailNone, nil
}

var expectContinue = []string{"100-continue"}

// outgoing is the request of one try: each has its own, as the last one's body may still be on its way.
func (f *flight) outgoing(ctx context.Context) *http.Request {
	out := f.req.WithContext(ctx)
	h := make(http.Header, len(f.req.Header)+3)
	for k, v := range f.req.Header {
		if !internal(k) && k != "Expect" {
			h[k] = v
		}
	}
	out.Header = h
	out.GetBody = nil
	out.Close = false
	out.Cancel = nil //nolint:staticcheck // deprecated, and not for the hop
	out.Body = nil
	switch {
	case f.body == nil:
		out.ContentLength = 0
	case out.ContentLength == 0:
		out.ContentLength = -1 // a body of unknown length
	}
	return out
}
