package backhaul

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/auth"
	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/internal/oslimit"
)

// exchange is one try on the wire: a request to one peer and its answer.
type exchange struct {
	used
	name  peerName
	epoch uint64
	dial  dialer
	body  *source // nil: the request has none

	h2       bool // over HTTP/2
	lane     hop.Lane
	rtt      time.Duration // of the path to the peer
	rttKnown bool

	// expect: the peer asks for the body with "100 Continue" before we read a byte of it.
	expect bool
	// patience bounds the wait for that word; 0 means none.
	patience time.Duration
	// peek: the client's first byte comes before the peer gets anything. The client of an owner is an edge: it sends the
	// first byte when the owner has asked for it, and until then may take the request elsewhere.
	peek bool
	// once: more of the body may go out than is kept. Such a request gets a connection of its own at once, where peers have been
	// seen to refuse streams.
	once bool
	// ask: the peer gets as much of the body as is kept, and says "100 Continue" when it may have the rest. Over HTTP/2 this
	// is for bodies of unknown length, which may be one half of a conversation: the peer's side may have to speak first.
	ask bool
	// admitted is called when that word comes.
	admitted func()
	// ready is called when there is a connection, before anything is sent.
	ready func()

	// finish: over HTTP/2, the answer is read to its end, whoever wants it.
	finish bool

	reused bool // others have used the connection before
}

// used is what a try used, and gives back.
type used struct {
	pool   *pool
	conn   *conn   // of the answer
	wire   *wire   // of HTTP/1.1: the last one
	stream *stream // of HTTP/2
	rest   *rest   // of an answer that is read to its end
	last   *reader // the body of the last attempt
}

// release gives a connection back. It reports whether the machine works on the request for all that
// is known: then what is left of it is for a [lingering].
func (u *used) release() (left bool) {
	switch {
	case u.wire != nil:
		if left = u.wire.settle(); left && u.conn != nil {
			u.conn.close() // net/http's part of it
			u.conn = nil
		}
	case u.stream != nil:
		left = u.pool.near && u.stream.works()
	}
	if u.rest != nil {
		u.rest.Close()
		if left && u.sent() {
			return true // it goes on
		}
	}
	u.over()
	return left
}

// over gives back a connection that is not needed any more.
func (u *used) over() {
	if u.stream != nil {
		u.stream.cancel(errStreamOver)
	}
	if u.rest != nil {
		u.conn = u.rest.c
	}
	if u.conn != nil {
		u.pool.put(u.conn)
		u.conn = nil
	}
}

// sent reports whether the peer has got the whole request.
func (u *used) sent() bool { return u.last == nil || u.last.s.delivered(u.last) }

// maxStale is how many dead pooled connections and refused streams are met before the request gets a new connection of its
// own: a peer that ends its connections after some requests serves the first one on each.
const maxStale = 2

var errSwitched = errors.New("backhaul: the machine switched to a protocol that the request did not ask for")

// maxOwn is how many connections of its own a request gets. A peer that refuses even the first stream will not take it.
const maxOwn = 3

// do sends out and returns the answer's head. Dead pooled connections are passed over: as nothing was written, nothing has
// happened. Nor has it where the peer refuses a stream, as each does that is about to end a connection and gets one more
// request on it. out belongs to do until then.
func (x *exchange) do(out *http.Request) (*http.Response, hop.Failure, error) {
	for n := 0; ; n++ {
		c, reused, err := x.pool.get(out.Context(), x, n >= maxStale)
		if err != nil {
			return nil, dialFailure(out.Context(), err), err
		}
		x.reused = reused
		if x.ready != nil {
			x.ready()
			x.ready = nil
		}
		if x.body != nil {
			if x.last != nil {
				x.last.end()
			}
			x.last = newReader(x.body, x.ask)
			out.Body = x.last
			x.last.trailer = x.body.newTrailer(x.h2)
			if out.Trailer = x.last.trailer; len(out.Trailer) > 0 && !x.h2 {
				out.ContentLength = -1 // HTTP/1.1 has trailers only after chunks
			}
			if x.peek && n == 0 {
				if err := x.body.peek(x.last); err != nil {
					x.giveBack(c)
					return nil, hop.FailureClient, &bodyError{err}
				}
			}
		}
		resp, fail, err := x.send(c, out)
		if err == nil && hop.Switched(out.Header, resp.StatusCode, resp.Header) {
			c.close()
			return nil, hop.FailureMalformed, errSwitched
		}
		if err == nil {
			x.conn = c
			if resp.StatusCode == http.StatusSwitchingProtocols {
				c.upgraded = true
			}
			return resp, hop.FailureNone, nil
		}
		if fail == hop.FailureUnsent && oslimit.Reached(err) {
			fail = hop.FailureLimit
		}
		if x.h2 && !x.rest.goesOn() {
			x.rest = nil
			if fail == hop.FailureRefused {
				c.mux.retire(c) // it and we disagree on what it can take
			}
			x.pool.put(c)
		}
		again := (fail == hop.FailureStale || fail == hop.FailureRefused) && n+1 < maxStale+maxOwn
		if !again || x.state() == hop.BodySpent {
			return nil, fail, err
		}
	}
}

// send is one attempt over one connection. A peer that does not ask for the body in time is cut off.
func (x *exchange) send(c *conn, out *http.Request) (*http.Response, hop.Failure, error) {
	body := x.last
	if !x.h2 {
		if x.expect && x.patience > 0 {
			t := time.AfterFunc(x.patience, func() {
				if !body.asked.Load() {
					c.close()
				}
			})
			defer t.Stop()
		}
		x.wire = c.wire
		if body != nil {
			body.wire = c.wire
		}
		resp, fail, err := c.roundTrip(out, body, x)
		if body != nil && err == nil {
			body.answered.Store(true)
		}
		return resp, fail, err
	}
	if x.finish {
		return x.finishing(c, out, body)
	}
	var s *stream
	req, s := open(out, func() {
		if body != nil && body.hear() && x.admitted != nil {
			x.admitted()
		}
	})
	x.stream = s
	if (x.expect || x.ask) && x.patience > 0 {
		t := time.AfterFunc(x.patience, func() {
			if x.ask && !body.heard() || x.expect && !body.asked.Load() {
				s.cancel(errNoWord)
			}
		})
		defer t.Stop()
	}
	return c.roundTrip2(out.Context(), req, s, body, x)
}

// giveBack returns a connection on which nothing was sent.
func (x *exchange) giveBack(c *conn) {
	if x.h2 {
		c.cc.Release()
	}
	x.pool.put(c)
}

// state returns what a further try could send as the body.
func (x *exchange) state() hop.BodyState {
	if x.last == nil {
		return hop.BodyWhole
	}
	return x.body.state(x.last)
}

// done ends the last try's claim on the body, where there is an answer already.
func (x *exchange) done() {
	if x.last != nil {
		x.last.end()
	}
}

// dialFailure says why there is no connection. ctx is the request's.
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

// ended says what failed when a request's context has ended, once a connection had been made.
func ended(ctx context.Context, sent bool) (hop.Failure, error) {
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return hop.FailureClient, context.Cause(ctx)
	case sent:
		return hop.FailureDeadline, context.Cause(ctx)
	}
	return hop.FailureLimit, context.Cause(ctx)
}
