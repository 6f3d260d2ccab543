package pool

import (
	"context"
	"io"
	"net/http"
	"sync"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/tcp"
)

// fullAnswer is an answer over HTTP/2 that is read to its end even if its caller leaves: on its own
// goroutines, and on a stream whose context does not end with the caller's.
type fullAnswer struct {
	c *Conn
	s *Stream

	ended chan struct{} // closed when nothing more comes
	whole bool          // the answer was complete; valid once ended is closed

	ctx  context.Context // the caller's
	buf  []byte          // not the caller's: a read may outlive the call
	next chan []byte     // to be filled
	got  chan piece
	left chan struct{} // closed when the caller has left
	once sync.Once
}

type piece struct {
	n   int
	err error
}

type roundTripped struct {
	resp *http.Response
	fail hop.Failure
	err  error
}

// read reads the answer into the caller's buffers, and discards the rest once the caller has left.
func (r *fullAnswer) read(body io.ReadCloser) {
	defer close(r.ended)
	defer body.Close()
	for {
		var p []byte
		select {
		case p = <-r.next:
		case <-r.left:
			_, err := io.Copy(io.Discard, body)
			r.whole = err == nil
			return
		}
		n, err := body.Read(p)
		r.whole = err == io.EOF
		select {
		case r.got <- piece{n, err}:
		case <-r.ctx.Done(): // the caller may have left
		}
		if err != nil {
			return
		}
	}
}

// Read reads for the caller.
func (r *fullAnswer) Read(p []byte) (int, error) {
	if r.buf == nil {
		r.buf = make([]byte, tcp.BufferSize)
	}
	buf := r.buf[:min(len(p), tcp.BufferSize)]
	select {
	case r.next <- buf:
	case <-r.ended:
		return 0, io.EOF
	case <-r.left:
		return 0, errLeft
	case <-r.ctx.Done():
		return 0, context.Cause(r.ctx)
	}
	select {
	case g := <-r.got:
		return copy(p, buf[:g.n]), g.err
	case <-r.ctx.Done():
		return 0, context.Cause(r.ctx)
	}
}

// Close says that the caller reads no more. The rest of the answer is read regardless.
func (r *fullAnswer) Close() error {
	r.once.Do(func() { close(r.left) })
	return nil
}

// goesOn reports whether more of the answer is to come.
func (r *fullAnswer) goesOn() bool {
	if r == nil {
		return false
	}
	select {
	case <-r.ended:
		return false
	default:
		return true
	}
}
