package backhaul

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/longconn"
	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/backhaul/internal/tcp"
)

// answerWith writes a machine's answer; its headers have been copied. If the answer breaks off,
// what came of it is written, head included, before the error is returned: the edge must see that
// the machine has answered.
func answerWith(w http.ResponseWriter, resp *http.Response, x *pool.Exchange, s *ownerWatch,
	p *slot) error {
	hd := w.Header()
	if _, ok := hd["Content-Type"]; !ok {
		hd["Content-Type"] = nil // else the server guesses one
	}
	announced := len(resp.Trailer)
	if announced > 0 {
		delete(hd, "Content-Length") // HTTP/1.1 has trailers only after chunks
	}
	for k := range resp.Trailer {
		if !hop.IsInternal(k) {
			hd.Add("Trailer", k)
		}
	}
	if resp.ContentLength == 0 && len(resp.Trailer) == 0 {
		p.free() // the head may go out before its end over HTTP/2 has been looked at
	}
	w.WriteHeader(resp.StatusCode)
	if resp.Body != http.NoBody {
		live := resp.ContentLength == -1 || strings.HasPrefix(hd.Get("Content-Type"), "text/event-stream")
		if err := copyBody(w, resp, live, x, s, p); err != nil {
			http.NewResponseController(w).Flush() //nolint:errcheck // there is nobody left to tell
			resp.Body.Close()
			return err
		}
		resp.Body.Close() // fills in the trailers
	}
	if len(resp.Trailer) > 0 {
		p.free() // over HTTP/2 the answer to a HEAD ends there
		// chunks even an empty body, so that trailers can follow
		http.NewResponseController(w).Flush() //nolint:errcheck
	}
	for k, v := range resp.Trailer {
		if hop.IsInternal(k) {
			continue
		}
		if len(resp.Trailer) != announced {
			k = http.TrailerPrefix + k
		}
		hd[k] = v
	}
	return nil
}

// copyBody copies a body. If it is live, each piece is sent at once. A body of known length is sent
// as it comes too, but pieces that come together go out together: the head with a small body, a
// large body in whole buffers. Only what a machine has flushed goes out alone.
//
// The slot is freed before the last piece of a known length is written: with it the edge has all,
// and its next request may arrive before this one has ended here. Any other end is written by the
// server when the handler has returned.
func copyBody(
	w http.ResponseWriter, resp *http.Response, live bool, x *pool.Exchange, s *ownerWatch, p *slot,
) error {
	out := http.NewResponseController(w)
	flush := func() error {
		s.turn()
		defer s.turn()
		return out.Flush()
	}
	left := resp.ContentLength // negative: unknown
	var late *lateFlush
	defer func() { late.stop() }()
	if !live && x.H2 {
		late = newLateFlush(out)
	} else if live || !x.Conn.More(false) { // the head, before the first piece
		if err := flush(); err != nil {
			return err
		}
	}
	buf := tcp.GetBuffer()
	defer tcp.PutBuffer(buf)
	for {
		n, err := resp.Body.Read(buf[:])
		late.stop()
		if n > 0 {
			if int64(n) == left && (err == io.EOF || err == nil && p.ends && len(resp.Trailer) == 0) {
				p.free()
			}
			s.turn()
			_, werr := w.Write(buf[:n])
			s.turn()
			left -= int64(n)
			drained := n < len(buf) && left > 0 && err == nil
			if werr == nil && (live || drained && (x.H2 || !x.Conn.More(true))) {
				werr = flush()
			}
			if werr != nil {
				return werr
			}
			if left == 0 && x.H2 && !live && err == nil {
				late = newLateFlush(out)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// lateFlush sends what was written of an answer if the next part is late: the body after the head,
// the end after the body. Over HTTP/2 only reading tells whether that part is there.
type lateFlush struct {
	mu    sync.Mutex
	over  bool
	timer *time.Timer
}

// lateAfter is how long it waits for the next part.
const lateAfter = time.Millisecond

func newLateFlush(out *http.ResponseController) *lateFlush {
	l := new(lateFlush)
	l.timer = time.AfterFunc(lateAfter, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if !l.over {
			out.Flush() //nolint:errcheck // the first piece tells
		}
	})
	return l
}

// stop waits until nobody else writes.
func (l *lateFlush) stop() {
	if l == nil || l.timer == nil {
		return
	}
	l.timer.Stop()
	l.timer = nil
	l.mu.Lock()
	l.over = true
	l.mu.Unlock()
}

// upgrade joins both connections until both sides have ended. If one breaks, the other is reset, so
// that nobody takes it for a clean end. The direction that finds the break resets both; the other
// then finds them closed and leaves them alone.
func upgrade(w http.ResponseWriter, resp *http.Response, machine *pool.Conn) {
	back, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		fault(w, http.StatusBadGateway, hop.FailureMalformed, "101 without a connection")
		return
	}
	defer back.Close()
	edge, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		machine.Wire.Abort()
		fault(
			w, http.StatusBadGateway, hop.FailureMalformed,
			"this connection cannot be upgraded: "+err.Error(),
		)
		return
	}
	defer edge.Close()
	rw.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	w.Header().Write(rw)
	rw.WriteString("\r\n")
	if rw.Flush() != nil {
		machine.Wire.Abort()
		return
	}
	in := rw.Reader         // rw has another buffer, which is not needed any more
	var closing atomic.Bool // by us, and not because something broke
	broke := func(err error) bool {
		switch {
		case err == nil:
			return false
		case tcp.IsClosedHere(err) && closing.Load():
		// we ended it. The edge would take a close for one of half, and wait for a client that is deaf
		case err == longconn.ErrNotified:
			closing.Store(true)
			tcp.Reset(edge)
		default:
			tcp.Reset(edge)
			machine.Wire.Abort()
		}
		edge.Close()
		back.Close()
		return true
	}
	endHalf := func(h tcp.Halver, whole io.Closer) {
		if err := h.CloseWrite(); errors.Is(err,
			errors.ErrUnsupported) { // only the whole connection can end
			closing.Store(true)
			whole.Close()
		}
	}
	rest := make(chan struct{})
	var ended atomic.Bool // what the edge gets
	go func() {           // edge to machine; what was buffered comes first
		defer close(rest)
		_, err := tcp.Relay(back, in)
		if err == nil {
			err = tcp.EndOf(edge, ended.Load())
		}
		if !broke(err) {
			endHalf(longconn.HalfOf(resp.Body, machine), back)
		}
	}()
	_, err = tcp.Relay(edge, back) // on this goroutine: there may be many that are idle
	if !broke(err) {
		ended.Store(true)
		endHalf(tcp.CloseWriter{C: edge}, edge)
	}
	<-rest // the other half may go on
}
