package backhaul

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// exchange is one try on the wire: a request to one peer and its answer.
type exchange struct {
	pool  *pool
	name  string
	epoch uint64
	dial  dialer
	body  *source // nil: the request has none

	// expect: the peer asks for the body with "100 Continue" before we read a byte of it.
	expect bool
	// patience bounds the wait for that word; 0 means none.
	patience time.Duration
	// peek: the client's first byte comes before the peer gets anything. The client of an owner is an edge: it sends the
	// first byte when the owner has asked for it, and until then may take the request elsewhere.
	peek bool

	conn *conn   // the connection of the answer
	last *reader // the body of the last attempt
}

// maxStale is how many dead pooled connections are drawn before a new one is made.
const maxStale = 2

// do sends out and returns the answer's head. Dead pooled connections are passed over: as nothing was written, nothing has
// happened. out belongs to do until then.
func (x *exchange) do(out *http.Request) (*http.Response, Failure, error) {
	for n := 0; ; n++ {
		c, err := x.pool.get(out.Context(), x.name, x.epoch, n >= maxStale, x.dial)
		if err != nil {
			return nil, dialFailure(out.Context(), err), err
		}
		if x.body != nil {
			x.last = &reader{s: x.body}
			out.Body = x.last
			if x.peek && n == 0 {
				if err := x.body.peek(x.last); err != nil {
					x.pool.put(c)
					return nil, FailClient, &bodyError{err}
				}
			}
		}
		resp, fail, err := x.send(c, out)
		if err == nil {
			x.conn = c
			return resp, FailNone, nil
		}
		if fail != FailStale || x.state() == bodySpent {
			return nil, fail, err
		}
	}
}

// send is one attempt over one connection. A peer that does not ask for the body in time is cut off.
func (x *exchange) send(c *conn, out *http.Request) (*http.Response, Failure, error) {
	if x.expect && x.patience > 0 {
		body := x.last
		t := time.AfterFunc(x.patience, func() {
			if !body.asked.Load() {
				c.close()
			}
		})
		defer t.Stop()
	}
	return c.roundTrip(out, x.last, x.expect)
}

// state returns what a further try could send as the body.
func (x *exchange) state() bodyState {
	if x.last == nil {
		return bodyWhole
	}
	return x.body.state(x.last)
}

func dialFailure(ctx context.Context, err error) Failure {
	if errors.Is(ctx.Err(), context.Canceled) {
		return FailClient
	}
	return FailDial
}
