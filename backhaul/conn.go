package backhaul

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// conn is one connection to a peer, for one request at a time. It wraps [http.ClientConn], which sends a request once and
// never again: the loops of [http.Transport], which execute some requests twice, are not in the way.
type conn struct {
	cc     *http.ClientConn
	wire   *wire
	peer   *peer
	epoch  uint64
	reused bool
	idleAt time.Time
}

// wire counts the bytes of a connection, which is how we know what was not sent. It has no ReadFrom: bodies come from
// readers that cannot be spliced, and every byte is to be counted as it goes.
type wire struct {
	net.Conn
	wrote, got atomic.Int64
}

func (w *wire) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	w.wrote.Add(int64(n))
	return n, err
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	w.got.Add(int64(n))
	return n, err
}

func (w *wire) CloseWrite() error {
	if c, ok := w.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

// roundTrip sends a request and returns the answer with its body, or says how that failed. body is the request's body if
// it has one; expect says that it waits for the peer's word.
func (c *conn) roundTrip(req *http.Request, body *reader, expect bool) (*http.Response, Failure, error) {
	wrote, got := c.wire.wrote.Load(), c.wire.got.Load()
	resp, err := c.cc.RoundTrip(req)
	if err == nil {
		return resp, FailNone, nil
	}
	c.close()
	ctx := req.Context()
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return nil, FailClient, context.Cause(ctx)
	case ctx.Err() != nil:
		return nil, FailTimeout, context.Cause(ctx)
	case body != nil && body.s.broken() != nil:
		return nil, FailClient, &bodyError{body.s.broken()}
	case c.wire.wrote.Load() == wrote && c.reused:
		return nil, FailStale, err
	case c.wire.wrote.Load() == wrote:
		return nil, FailUnsent, err
	case expect && body != nil && !body.asked.Load():
		return nil, FailUnread, err
	case timedOut(err):
		return nil, FailTimeout, err
	case c.wire.got.Load() > got && !brokeOff(err):
		return nil, FailMalformed, err
	}
	return nil, FailReset, err
}

func timedOut(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

func brokeOff(err error) bool {
	var op *net.OpError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe) ||
		errors.Is(err, net.ErrClosed) || errors.As(err, &op)
}

// free reports whether the connection can take another request: the answer was read to its end, and so was the request.
func (c *conn) free() bool { return c.cc.Err() == nil && c.cc.Available() == 1 }

func (c *conn) close() { c.cc.Close() }
