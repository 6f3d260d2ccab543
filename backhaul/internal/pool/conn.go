package pool

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/auth"
	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/tcp"
)

// Conn is one connection to a peer: HTTP/1.1 for one request at a time, or HTTP/2 for many. It
// wraps [http.ClientConn], which sends a request once and never again: the loops of
// [http.Transport], which execute some requests twice, are not in the way.
type Conn struct {
	HTTP   *http.ClientConn
	Wire   *Wire
	Peer   *peer // of HTTP/1.1
	epoch  uint64
	idleAt time.Time

	Upgraded bool // it is no HTTP any more: whoever has it ends it, in one way or the other

	// Of HTTP/2; the lock of mux guards the rest.
	mux     *mux
	Class   int
	most    int // streams at once
	Streams int // in use
	used    bool
	alone   bool // of one request; not among the mux's connections
	retired bool // no further streams
}

// roundTrip sends a request over HTTP/1.1 and returns the answer with its body, or says how that
// failed. body is the request's body if it has one.
func (c *Conn) roundTrip(
	req *http.Request, body *reader, x *Exchange,
) (*http.Response, hop.Failure, error) {
	wrote, got := c.Wire.wrote.Load(), c.Wire.got.Load()
	c.Wire.follow.bodiless.Store(req.Method == http.MethodHead)
	resp, err := c.send(req, body)
	if err == nil {
		return resp, hop.FailureNone, nil
	}
	c.Close()
	ctx := req.Context()
	switch {
	case ctx.Err() != nil:
		fail, err := ended(ctx, c.Wire.wrote.Load() != wrote)
		return nil, fail, err
	case body != nil && body.s.broken() != nil:
		return nil, hop.FailureClient, &BodyError{body.s.broken()}
	case auth.RefusedBy(c.Wire.Conn) != nil:
		return nil, hop.FailureDenied, auth.RefusedBy(c.Wire.Conn)
	case c.Wire.wrote.Load() == wrote && x.reused:
		return nil, hop.FailureStale, err
	case c.Wire.wrote.Load() == wrote:
		return nil, hop.FailureUnsent, err
	case x.Expect && body != nil && !body.asked.Load():
		return nil, hop.FailureUnread, err
	case tcp.IsTimeout(err):
		return nil, hop.FailureTimeout, err
	case c.Wire.got.Load() > got && !brokeOff(err):
		return nil, hop.FailureMalformed, err
	}
	return nil, hop.FailureReset, err
}

// send sends a request. net/http does not return, whatever happens, before a read of the request's
// body does, and that may wait for a client: where the body is not all here, it is left behind once
// the context or the connection has ended.
func (c *Conn) send(req *http.Request, body *reader) (*http.Response, error) {
	if body == nil || body.s.whole {
		return c.HTTP.RoundTrip(req)
	}
	type result struct {
		resp *http.Response
		err  error
	}
	came := make(chan result, 1)
	go func() {
		resp, err := c.HTTP.RoundTrip(req)
		came <- result{resp, err}
	}()
	looks := 1
	select {
	case r := <-came:
		return r.resp, r.err
	case <-req.Context().Done():
	case <-c.Wire.over:
		looks = brokenLooks
	}
	look := time.NewTicker(abandonWait)
	defer look.Stop()
	for {
		select {
		case r := <-came:
			return r.resp, r.err
		case <-look.C:
			if looks--; looks > 0 && req.Context().Err() == nil || !body.s.awaited.waits() {
				continue
			}
			select {
			case r := <-came:
				return r.resp, r.err
			default:
			}
			go func() {
				if r := <-came; r.err == nil {
					r.resp.Body.Close()
				}
			}()
			return nil, cmp.Or(context.Cause(req.Context()), error(io.ErrUnexpectedEOF))
		}
	}
}

// abandonWait is what net/http may take to notice that a context has ended, and brokenLooks of
// these what it may take to hand over an answer that came before the connection's end.
const (
	abandonWait = 5 * time.Millisecond
	brokenLooks = 40
)

func brokeOff(err error) bool {
	var op *net.OpError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, io.ErrClosedPipe) ||
		errors.Is(err, net.ErrClosed) || errors.As(err, &op)
}

// More reports whether more of an answer over HTTP/1.1 is there to be read, as far as can be told.
// drained says that nothing of it is left of what was read ahead; before the body is read that is
// so where its head came last.
func (c *Conn) More(drained bool) bool {
	return !drained && !c.Wire.blank.Load() || c.Wire.kernel.Holds(c.Wire.got.Load())
}

// Free reports whether the connection can take another request: the answer was read to its end, and
// so was the request.
func (c *Conn) Free() bool { return c.HTTP.Err() == nil && c.HTTP.Available() == 1 }

func (c *Conn) Close() { c.HTTP.Close() }
