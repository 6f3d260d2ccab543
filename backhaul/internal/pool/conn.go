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
// wraps [http.ClientConn], which sends a request once, and so avoids the loops of [http.Transport],
// which execute some requests twice.
type Conn struct {
	HTTP   *http.ClientConn
	Wire   *Wire
	Peer   *peer // over HTTP/1.1
	epoch  uint64
	idleAt time.Time

	Upgraded bool // no longer HTTP: its holder ends it

	// Used over HTTP/2; the rest is guarded by the lock of mux.
	mux     *mux
	Class   int
	most    int // streams at once
	Streams int // in use
	used    bool
	alone   bool // used by one request; not among the mux's connections
	retired bool // opens no further streams
}

// roundTrip sends a request over HTTP/1.1 and returns the answer with its body, or how the try
// failed. body is nil if the request has none.
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

// send sends a request. net/http returns only after its read of the request's body has returned,
// and that read may wait for a client. So if part of the body is still to come, send abandons the
// call when the context or the connection ends.
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

// abandonWait is the time that net/http gets to notice that a context has ended. brokenLooks times
// that is what it gets to hand over an answer that arrived before the connection's end.
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

// More reports whether more of an answer over HTTP/1.1 can be read, as far as is known. drained
// says that no read-ahead bytes remain; before the body is read, that is true if the head's last
// byte was the last to arrive.
func (c *Conn) More(drained bool) bool {
	return !drained && !c.Wire.blank.Load() || c.Wire.kernel.Holds(c.Wire.got.Load())
}

// Free reports whether the connection can take another request: both the request and the answer
// have been read to their ends.
func (c *Conn) Free() bool { return c.HTTP.Err() == nil && c.HTTP.Available() == 1 }

func (c *Conn) Close() { c.HTTP.Close() }
