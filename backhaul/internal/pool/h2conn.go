package pool

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/tcp"
)

// Stream is one request on an HTTP/2 connection. When it fails, what matters is what became of the
// stream, not which bytes the connection has carried.
type Stream struct {
	Cancel context.CancelCauseFunc
	Wrote  atomic.Bool // its head was handed to the connection
	back   atomic.Bool // RoundTrip has returned
	over   atomic.Bool // the peer has ended it
}

// Works reports whether the peer may still be working on the request.
func (s *Stream) Works() bool { return s.Wrote.Load() && !s.over.Load() }

// aborted is called when net/http closes the request's body: because it has given the stream up, or
// because the answer is an error. net/http then waits until a read of the body returns, which a
// slow client may delay; cancelling the stream ends that wait. If the answer closed the body,
// RoundTrip returns at once and nothing is cancelled.
func (s *Stream) aborted() {
	if s.back.Load() {
		return
	}
	time.AfterFunc(abortWait, func() {
		if !s.back.Load() {
			s.Cancel(ErrStreamOver)
		}
	})
}

const abortWait = 100 * time.Millisecond

var (
	ErrStreamOver  = errors.New("backhaul: the request is over")
	errNotAdmitted = tcp.TimeoutError("backhaul: the owner did not ask for the body in time")
)

// open prepares a request for its own stream. word is called when the peer sends "100 Continue".
func open(req *http.Request, word func()) (*http.Request, *Stream) {
	s := new(Stream)
	ctx, cancel := context.WithCancelCause(req.Context())
	s.Cancel = cancel
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteHeaders:   func() { s.Wrote.Store(true) },
		Got100Continue: word,
	})
	return req.WithContext(ctx), s
}

// roundTrip2 is roundTrip over a stream. ctx is the request's own context.
func (c *Conn) roundTrip2(
	ctx context.Context, req *http.Request, s *Stream, body *reader, x *Exchange,
) (*http.Response, hop.Failure, error) {
	if body != nil {
		body.closed = s.aborted
	}
	before := c.Wire.wrote.Load()
	resp, err := c.HTTP.RoundTrip(req)
	s.back.Store(true)
	if err == nil {
		if req.Method == http.MethodHead { // net/http uses a different empty body for HEAD
			resp.Body = http.NoBody
		}
		if resp.Body != http.NoBody {
			resp.Body = &StreamBody{resp.Body, s, req.Context()}
		} else {
			s.over.Store(true)
		}
		return resp, hop.FailureNone, nil
	}
	cause := context.Cause(req.Context())
	if cause == nil && !tcp.IsTimeout(err) && (body == nil || body.s.broken() == nil) {
		s.over.Store(true)
	}
	s.Cancel(ErrStreamOver)
	// the head was handed over, and something of it, or of others, left
	sent := s.Wrote.Load() && c.Wire.wrote.Load() != before
	unasked := x.Expect && body != nil && !body.asked.Load()
	switch {
	case ctx.Err() != nil:
		fail, err := ended(ctx, sent)
		return nil, fail, err
	case body != nil && body.s.broken() != nil:
		return nil, hop.FailureClient, &BodyError{body.s.broken()}
	case notStarted(err):
		return nil, hop.FailureRefused, err
	case !sent && (x.reused || !c.alone): // it may have ended under other requests since
		return nil, hop.FailureStale, err
	case !sent:
		return nil, hop.FailureUnsent, err
	case unasked:
		return nil, hop.FailureUnread, err
	case cause == errNotAdmitted:
		return nil, hop.FailureTimeout, errNotAdmitted
	case tcp.IsTimeout(err):
		return nil, hop.FailureTimeout, err
	case misunderstood(err):
		return nil, hop.FailureMalformed, err
	}
	return nil, hop.FailureReset, err
}

// StreamBody is the body of an answer over HTTP/2. Closing it ends the stream: net/http alone would
// wait for a read of the request's body to return, which a slow client may delay.
type StreamBody struct {
	io.ReadCloser
	S   *Stream
	Ctx context.Context // of the stream
}

func (b *StreamBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	// A stream that we cancelled ourselves may have ended before.
	if err == io.EOF || err != nil && b.Ctx.Err() == nil {
		b.S.over.Store(true)
	}
	return n, err
}

func (b *StreamBody) Close() error {
	b.S.Cancel(ErrStreamOver)
	b.ReadCloser.Close()
	return nil
}

// h2Error has the shape of net/http's stream error. That type is not exported, but errors.As fills
// in a type with the same fields.
type h2Error struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (e h2Error) Error() string { return "stream error" }

const (
	codeProtocol = 0x1
	CodeRefused  = 0x7
)

// notStarted reports whether the peer has said that it did not process a stream: it refused the
// stream, or named an earlier one as its last. net/http does not export the errors for the latter;
// a test pins their text.
func notStarted(err error) bool {
	var e h2Error
	if errors.As(err, &e) {
		return e.Code == CodeRefused
	}
	s := err.Error()
	return strings.Contains(s, "Transport received Server's graceful shutdown GOAWAY") ||
		strings.Contains(s, "Transport received GOAWAY from server")
}

// misunderstood reports whether we rejected what the peer sent.
func misunderstood(err error) bool {
	var e h2Error
	if errors.As(err, &e) {
		return e.Code == codeProtocol && (e.Cause == nil || e.Cause.Error() != "received from peer")
	}
	return strings.Contains(err.Error(), "response header list larger")
}
