package pool

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/auth"
	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/internal/oslimit"
)

// Exchange is one try on the wire: a request to one peer and its answer.
type Exchange struct {
	Used
	Peer
	Body *Body // nil: the request has none

	H2   bool // over HTTP/2
	Lane hop.Lane

	// Expect: the peer asks for the body with "100 Continue" before we read a byte of it.
	Expect bool
	// Patience bounds the wait for "100 Continue"; 0 means none.
	Patience time.Duration
	// Peek: nothing is sent to the peer before the client's first byte has arrived. An owner's client
	// is an edge: it sends that byte when the owner has asked for it, and until then may send the
	// request elsewhere.
	Peek bool
	// Once: more of the body may be sent than is kept. Such a request gets its own connection at once
	// if peers have been seen to refuse streams.
	Once bool
	// Ask: the peer gets as much of the body as is kept, and sends "100 Continue" when it is ready for
	// the rest. Over HTTP/2 this is for bodies of unknown length, which may be half of a conversation
	// in which the peer speaks first.
	Ask bool
	// Admitted is called when "100 Continue" arrives.
	Admitted func()
	// Ready is called when there is a connection, before anything is sent.
	Ready func()
	// Finish: over HTTP/2, the answer is read to its end even if the caller leaves.
	Finish bool

	reused bool // others have used the connection before
}

// Peer names the recipient of a request, and says how to reach it.
type Peer struct {
	Name     PeerName
	Epoch    uint64 // of a machine; for an owner, its incarnation
	Dial     Dialer
	RTT      time.Duration // of the path
	RTTKnown bool
}

// Used holds what a try used and has to give back.
type Used struct {
	Pool   *Pool
	Conn   *Conn       // that carries the answer
	wire   *Wire       // the last one, over HTTP/1.1
	Stream *Stream     // over HTTP/2
	full   *fullAnswer // an answer that is read to its end
	last   *reader     // the body in the last attempt
}

// Release gives a connection back. It reports whether the machine may still be working on the
// request; what is left is then passed to a [Lingering].
func (u *Used) Release() (left bool) {
	switch {
	case u.wire != nil:
		if left = u.wire.settle(); left && u.Conn != nil {
			u.Conn.Close() // closes net/http's side
			u.Conn = nil
		}
	case u.Stream != nil:
		left = u.Pool.Near && u.Stream.Works()
	}
	if u.full != nil {
		u.full.Close()
		if left && u.Sent() {
			return true // the machine still works on it
		}
	}
	u.over()
	return left
}

// over gives back a connection that is no longer needed.
func (u *Used) over() {
	if u.Stream != nil {
		u.Stream.Cancel(ErrStreamOver)
	}
	if u.full != nil {
		u.Conn = u.full.c
	}
	if u.Conn != nil {
		u.Pool.Put(u.Conn)
		u.Conn = nil
	}
}

// Sent reports whether the peer has received the whole request.
func (u *Used) Sent() bool { return u.last == nil || u.last.s.delivered(u.last) }

// MaxStale is how many dead pooled connections and refused streams a request meets before it gets a
// new connection of its own. Even a peer that closes connections after a few requests serves the
// first request on each.
const MaxStale = 2

var errSwitched = errors.New(
	"backhaul: the machine switched to a protocol that the request did not ask for",
)

// MaxOwn is how many connections of its own a request gets. A peer that refuses even the first
// stream of those will not take it.
const MaxOwn = 3

// Do sends out and returns the answer's head. It skips dead pooled connections: nothing was written
// to them, so nothing has happened. The same holds for a refused stream, which is how a peer that
// is about to close a connection answers a late request. out belongs to Do until it returns.
func (x *Exchange) Do(out *http.Request) (*http.Response, hop.Failure, error) {
	for n := 0; ; n++ {
		c, reused, err := x.Pool.get(out.Context(), x, n >= MaxStale)
		if err != nil {
			return nil, dialFailure(out.Context(), err), err
		}
		x.reused = reused
		if x.Ready != nil {
			x.Ready()
			x.Ready = nil
		}
		if x.Body != nil {
			if x.last != nil {
				x.last.end()
			}
			x.last = newReader(x.Body, x.Ask)
			out.Body = x.last
			x.last.trailer = x.Body.trailers.next(x.H2)
			if out.Trailer = x.last.trailer; len(out.Trailer) > 0 && !x.H2 {
				out.ContentLength = -1 // HTTP/1.1 has trailers only after chunks
			}
			if x.Peek && n == 0 {
				if err := x.Body.peek(x.last); err != nil {
					x.giveBack(c)
					return nil, hop.FailureClient, &BodyError{err}
				}
			}
		}
		resp, fail, err := x.send(c, out)
		if err == nil && hop.Switched(out.Header, resp.StatusCode, resp.Header) {
			c.Close()
			return nil, hop.FailureMalformed, errSwitched
		}
		if err == nil {
			x.Conn = c
			if resp.StatusCode == http.StatusSwitchingProtocols {
				c.Upgraded = true
			}
			return resp, hop.FailureNone, nil
		}
		if fail == hop.FailureUnsent && oslimit.Reached(err) {
			fail = hop.FailureLimit
		}
		if x.H2 && !x.full.goesOn() {
			x.full = nil
			if fail == hop.FailureRefused {
				c.mux.retire(c) // our idea of its stream limit is wrong: stop using it
			}
			x.Pool.Put(c)
		}
		again := (fail == hop.FailureStale || fail == hop.FailureRefused) && n+1 < MaxStale+MaxOwn
		if !again || x.State() == hop.BodySpent {
			return nil, fail, err
		}
	}
}

// send makes one attempt over one connection. It cuts off a peer that does not ask for the body in
// time.
func (x *Exchange) send(c *Conn, out *http.Request) (*http.Response, hop.Failure, error) {
	body := x.last
	if !x.H2 {
		if x.Expect && x.Patience > 0 {
			t := time.AfterFunc(x.Patience, func() {
				if !body.asked.Load() {
					c.Close()
				}
			})
			defer t.Stop()
		}
		x.wire = c.Wire
		if body != nil {
			body.wire = c.Wire
		}
		resp, fail, err := c.roundTrip(out, body, x)
		if body != nil && err == nil {
			body.answered.Store(true)
		}
		return resp, fail, err
	}
	if x.Finish {
		return x.sendAndReadAll(c, out, body)
	}
	var s *Stream
	req, s := open(out, func() {
		if body != nil && body.admit() && x.Admitted != nil {
			x.Admitted()
		}
	})
	x.Stream = s
	if (x.Expect || x.Ask) && x.Patience > 0 {
		t := time.AfterFunc(x.Patience, func() {
			if x.Ask && !body.admitted() || x.Expect && !body.asked.Load() {
				s.Cancel(errNotAdmitted)
			}
		})
		defer t.Stop()
	}
	return c.roundTrip2(out.Context(), req, s, body, x)
}

// giveBack returns a connection on which nothing was sent.
func (x *Exchange) giveBack(c *Conn) {
	if x.H2 {
		c.HTTP.Release()
	}
	x.Pool.Put(c)
}

// State returns what another try could send as the body.
func (x *Exchange) State() hop.BodyState {
	if x.last == nil {
		return hop.BodyWhole
	}
	return x.Body.state(x.last)
}

// Done releases the last try's claim on the body once an answer has arrived.
func (x *Exchange) Done() {
	if x.last != nil {
		x.last.end()
	}
}

// dialFailure says why there is no connection. ctx is the request's context.
func dialFailure(ctx context.Context, err error) hop.Failure {
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return hop.FailureClient
	case ctx.Err() != nil, oslimit.Reached(err):
		return hop.FailureLimit
	}
	if auth.Denied(err) {
		return hop.FailureDenied
	}
	return hop.FailureDial
}

// ended says what failed when the request's context ended after a connection had been made.
func ended(ctx context.Context, sent bool) (hop.Failure, error) {
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return hop.FailureClient, context.Cause(ctx)
	case sent:
		return hop.FailureDeadline, context.Cause(ctx)
	}
	return hop.FailureLimit, context.Cause(ctx)
}

// sendAndReadAll is a round trip whose answer is read to its end.
func (x *Exchange) sendAndReadAll(c *Conn, out *http.Request,
	body *reader) (*http.Response, hop.Failure, error) {
	ctx := context.WithoutCancel(out.Context())
	req, s := open(out.WithContext(ctx), nil)
	r := &fullAnswer{
		c: c, s: s, ended: make(chan struct{}), ctx: out.Context(),
		next: make(chan []byte), got: make(chan piece), left: make(chan struct{}),
	}
	x.Stream, x.full = s, r
	came := make(chan roundTripped, 1)
	go func() {
		resp, fail, err := c.roundTrip2(ctx, req, s, body, x)
		switch {
		case err != nil:
			close(r.ended)
		case resp.Body == http.NoBody:
			r.whole = true
			close(r.ended)
		default:
			go r.read(resp.Body)
			resp.Body = r
		}
		came <- roundTripped{resp, fail, err}
	}()
	select {
	case t := <-came:
		return t.resp, t.fail, t.err
	case <-out.Context().Done():
	}
	r.Close()
	fail, err := ended(out.Context(), true)
	return nil, fail, err
}
