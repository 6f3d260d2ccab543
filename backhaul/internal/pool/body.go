package pool

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
)

var (
	errBodyOver   = errors.New("backhaul: the try that this body belonged to is over")
	errBodyClosed = errors.New("backhaul: the request's body was closed")
	errBodyLonger = errors.New("backhaul: the request's body is longer than announced")
	errBodySpent  = errors.New("backhaul: the request's body cannot be sent again")
)

// Body is a request's body over all tries. No try closes it. What has been read is kept while it
// may be needed again, so that a later try begins at the first byte.
//
// One try reads the body at a time. A read that is blocked on a slow client when its try ends stays
// blocked; the next try gets what was kept, then waits for that read, whose bytes are kept as well.
type Body struct {
	mu   sync.Mutex
	Body io.ReadCloser
	replay
	trailers  trailers
	whole     bool  // all of it was read before the first try
	err       error // what Body ended with
	closed    bool
	closing   bool
	busy      bool   // a try is reading
	turn      signal // raised when the try stops reading
	awaited   turn   // odd while a read waits for the client
	BytesRead atomic.Int64
	endedAt   atomic.Int64 // when it ended, in Unix nanoseconds
}

// NewBody returns the body of a request; what is kept of it counts in m.
func NewBody(r *http.Request, m *Memory) *Body {
	return &Body{
		Body: r.Body, replay: replay{memory: m},
		trailers: trailers{from: r, names: hop.Announced(r.Trailer)},
	}
}

// Through makes the body be read through r, which reads it in turn.
func (s *Body) Through(r io.ReadCloser) { s.Body = r }

// Whole reports whether all of it was read before the first try; then [Body.Held] is its length.
// Both are valid after [Body.Ahead].
func (s *Body) Whole() bool { return s.whole }

// Count returns how much has been read from the client.
func (s *Body) Count() int64 { return s.BytesRead.Load() }

// Ended returns when its end was read, or zero if it has not been.
func (s *Body) Ended() time.Time {
	if at := s.endedAt.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return time.Time{}
}

// reader is the body of one try.
type reader struct {
	s     *Body
	pos   int64       // how much of the body this try has seen
	over  atomic.Bool // the try has ended
	asked atomic.Bool // it has tried to read

	// Until the peer has admitted the request, the reader reads no more than can be kept.
	waits      bool
	admission  chan struct{}
	isAdmitted atomic.Bool
	ended      chan struct{}
	once       sync.Once

	// trailer of this try's request, filled in at the end of the body; nil: none
	trailer http.Header

	closed func() // called when net/http closes it; nil: none

	wire     *Wire       // of HTTP/1.1; set before the try
	answered atomic.Bool // the try has an answer
}

func newReader(s *Body, waits bool) *reader {
	r := &reader{s: s, waits: waits}
	if waits {
		r.admission, r.ended = make(chan struct{}), make(chan struct{})
	}
	return r
}

// admit allows the rest of the body to be read. It reports whether the request was not admitted
// before. It does not block.
func (r *reader) admit() bool {
	if !r.waits || !r.isAdmitted.CompareAndSwap(false, true) {
		return false
	}
	close(r.admission)
	return true
}

func (r *reader) admitted() bool { return !r.waits || r.isAdmitted.Load() }

// end ends the try.
func (r *reader) end() {
	r.over.Store(true)
	if r.waits {
		r.once.Do(func() { close(r.ended) })
	}
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.read(p)
	if err == io.EOF && r.trailer != nil {
		r.s.mu.Lock()
		r.s.trailers.fill(r.trailer)
		r.s.mu.Unlock()
	}
	return n, err
}

func (r *reader) read(p []byte) (int, error) {
	r.asked.Store(true)
	s := r.s
	s.mu.Lock()
	for {
		done, n, err := r.ready(p)
		if done {
			s.mu.Unlock()
			return n, err
		}
		if !s.busy {
			if room := s.keep - len(s.kept); r.admitted() {
				break
			} else if room > 0 && !s.spent {
				p = p[:min(len(p), room)]
				break
			}
		}
		turn := s.turn.next()
		s.mu.Unlock()
		select {
		case <-turn: // nil channels of a reader that does not wait block for ever
		case <-r.admission:
		case <-r.ended:
		}
		s.mu.Lock()
		if r.admitted() && s.busy { // admission alone does not make it our turn
			turn = s.turn.next()
			s.mu.Unlock()
			select {
			case <-turn:
			case <-r.ended:
			}
			s.mu.Lock()
		}
	}
	s.busy = true
	s.mu.Unlock()
	s.awaited.Pass()
	n, err := s.Body.Read(p)
	s.awaited.Pass()
	s.mu.Lock()
	s.busy = false
	over := r.over.Load()
	s.take(r, over, p[:n], err)
	s.unlock()
	s.turn.wake()
	if over {
		return 0, errBodyOver // another try has it
	}
	if err != nil && err != io.EOF {
		r.hold()
	}
	return n, err
}

// hold withholds the end of the body while an answer arrives, because net/http would cut that
// answer off: a server that has begun to answer may close the request's body, and a client that
// gets an answer may stop sending. It does not wait for a peer that ends its answer only after the
// whole body.
func (r *reader) hold() {
	if r.wire != nil && r.answered.Load() {
		r.wire.wait(time.Second)
	}
}

// ready answers a read from the bytes at hand; s.mu is held.
func (r *reader) ready(p []byte) (done bool, n int, err error) {
	s := r.s
	switch {
	case r.over.Load():
		return true, 0, errBodyOver
	case r.pos < int64(len(s.kept)):
		n := copy(p, s.kept[r.pos:])
		r.pos += int64(n)
		return true, n, nil
	case s.busy:
		return false, 0, nil
	case r.pos != s.BytesRead.Load():
		return true, 0, errBodySpent // the next bytes that this try needs have gone out with another try
	case s.err != nil:
		return true, 0, s.err
	case s.closed:
		return true, 0, errBodyClosed
	}
	return false, 0, nil
}

// take records the result of a read; s.mu is held. Bytes read by a try that has ended meanwhile are
// always kept, for the next one.
func (s *Body) take(r *reader, over bool, b []byte, err error) {
	s.BytesRead.Add(int64(len(b)))
	if !over {
		r.pos += int64(len(b))
	}
	s.add(b, over)
	s.err = err
	if err == io.EOF {
		s.end()
	}
}

// end records that the body has been read to its end; s.mu is held.
func (s *Body) end() {
	s.trailers.take()
	s.endedAt.Store(time.Now().UnixNano())
}

// Close is what net/http calls when it is done with a try's body. The body itself stays open.
func (r *reader) Close() error {
	if r.closed != nil {
		r.closed()
		r.end()
	}
	return nil
}

// state returns what a further try could send. r is the last try, which has ended.
func (s *Body) state(r *reader) hop.BodyState {
	r.end()
	if !r.asked.Load() {
		return hop.BodyWhole // readers use s only if they have tried to read
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spent {
		return hop.BodySpent
	}
	return hop.BodyWhole // what a blocked read returns will be kept
}

// delivered reports whether a try has got the whole body.
func (s *Body) delivered(r *reader) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err == io.EOF && r.pos == s.BytesRead.Load()
}

// broken returns the error that reading from the client ended with, other than its end.
func (s *Body) broken() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == io.EOF {
		return nil
	}
	return s.err
}

// Close closes the client's body, or leaves that to the read under way: closing must not wait for a
// slow client.
func (s *Body) Close() {
	s.mu.Lock()
	s.closing = true
	s.unlock()
}

// unlock releases s.mu, and then closes the client's body if that is due. The body belongs to the
// caller, so it is closed with no lock held.
func (s *Body) unlock() {
	due := s.closing && !s.busy && !s.closed
	s.closed = s.closed || due
	s.mu.Unlock()
	if due {
		s.Body.Close()
	}
}

// Ahead reads a body of n bytes into memory before anything is sent. Memory is reserved as bytes
// arrive, so a client that announces a large body and sends nothing reserves nothing. When memory
// runs out, what has arrived is kept and the rest stays unread. Ahead is called before the first
// try, and its caller may give up on it.
func (s *Body) Ahead(n int) error {
	s.mu.Lock()
	s.busy = true
	s.mu.Unlock()
	var kept []byte
	var err error
	for size := 0; err == nil && len(kept) <= n; {
		if len(kept) == size {
			if size = max(2*size, FirstAhead); size >= n {
				size = n + 1 // one more, to see the end
			}
			if !s.room(size, n) {
				break
			}
			kept = append(make([]byte, 0, size), kept...)
		}
		s.awaited.Pass()
		var m int
		m, err = s.Body.Read(kept[len(kept):size])
		s.awaited.Pass()
		kept = kept[:len(kept)+m]
		s.BytesRead.Add(int64(m))
	}
	s.mu.Lock()
	defer s.unlock()
	defer s.turn.wake()
	s.busy = false
	s.kept, s.keep, s.err = kept, len(kept), err
	switch {
	case len(kept) > n:
		s.err = errBodyLonger
	case err == io.EOF && len(kept) < n:
		s.err = io.ErrUnexpectedEOF
	case err == io.EOF:
		s.whole = true
		s.end()
	}
	if s.whole {
		return nil
	}
	return s.err
}

// FirstAhead is large enough for most forms and API calls.
const FirstAhead = 4 << 10

// room reserves memory up to size, for a body of n bytes, unless the body is no longer wanted.
func (s *Body) room(size, n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.closing && s.grow(size, n)
}

// peek reads the first bytes into kept, so that they can be sent again with another connection.
func (s *Body) peek(r *reader) error {
	s.keep = max(s.keep, peekSize)
	var first [peekSize]byte
	_, err := r.Read(first[:])
	r.pos = 0
	if err == io.EOF {
		err = nil
	}
	return err
}

const peekSize = 512

// BodyError says that a request's body could not be read from the client.
type BodyError struct{ Err error }

func (e *BodyError) Error() string { return "backhaul: reading the request's body: " + e.Err.Error() }

func (e *BodyError) Unwrap() error { return e.Err }

func (e *BodyError) Cause() string { return "bad-request" }
