package backhaul

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
)

var (
	errBodyOver   = errors.New("backhaul: the try that this body belonged to is over")
	errBodyClosed = errors.New("backhaul: the request's body was closed")
	errBodySpent  = errors.New("backhaul: the request's body cannot be sent again")
)

// source is a request's body over all tries. No try closes it. What has been read is kept while it may be needed again,
// so that a further try begins where the first did.
//
// The body is read by one try at a time. A read that is blocked on a slow client when its try ends stays blocked: it
// holds the lock, the next try waits for it, and finds what it read in kept.
type source struct {
	mu      sync.Mutex
	rc      io.ReadCloser
	keep    int         // how many bytes may be kept
	forget  atomic.Bool // no other try follows: nothing more is kept
	kept    []byte      // all that was read, while the body is whole
	spent   bool        // something was read that was not kept
	err     error       // what rc ended with
	closed  bool
	closing atomic.Bool
	read    atomic.Int64

	reserved atomic.Int64 // of Config.ReplayMemory
}

// reader is the body of one try.
type reader struct {
	s     *source
	pos   int64       // how much of the body this try has seen
	over  atomic.Bool // the try has ended
	asked atomic.Bool // it wanted to read

	// A reader that waits reads no more than can be kept, until it hears that the peer has admitted the request.
	waits bool
	word  chan struct{}
	told  atomic.Bool
	ended chan struct{}
	once  sync.Once

	closed func() // called when net/http closes it; nil: none
}

func newReader(s *source, waits bool) *reader {
	r := &reader{s: s, waits: waits}
	if waits {
		r.word, r.ended = make(chan struct{}), make(chan struct{})
	}
	return r
}

// hear lets the rest of the body go. It reports whether that is news. It does not block.
func (r *reader) hear() bool {
	if !r.waits || !r.told.CompareAndSwap(false, true) {
		return false
	}
	close(r.word)
	return true
}

func (r *reader) heard() bool { return !r.waits || r.told.Load() }

// end ends the try.
func (r *reader) end() {
	r.over.Store(true)
	if r.waits {
		r.once.Do(func() { close(r.ended) })
	}
}

func (r *reader) Read(p []byte) (int, error) {
	r.asked.Store(true)
	s := r.s
	s.mu.Lock()
	for !r.heard() && !r.over.Load() && r.pos >= int64(len(s.kept)) && s.err == nil {
		if room := s.keep - len(s.kept); room > 0 && !s.spent {
			p = p[:min(len(p), room)]
			break
		}
		s.mu.Unlock()
		select {
		case <-r.word:
		case <-r.ended:
		}
		s.mu.Lock()
	}
	n, err := r.next(p)
	s.mu.Unlock()
	if s.closing.Load() {
		s.close()
	}
	return n, err
}

func (r *reader) next(p []byte) (int, error) {
	s := r.s
	switch {
	case r.over.Load():
		return 0, errBodyOver
	case r.pos < int64(len(s.kept)):
		n := copy(p, s.kept[r.pos:])
		r.pos += int64(n)
		return n, nil
	case r.pos != s.read.Load():
		return 0, errBodySpent // what this try would need next has gone out with another
	case s.err != nil:
		return 0, s.err
	case s.closed:
		return 0, errBodyClosed
	}
	n, err := s.rc.Read(p)
	s.read.Add(int64(n))
	r.pos += int64(n)
	switch {
	case n == 0:
	case !s.spent && !s.forget.Load() && len(s.kept)+n <= s.keep:
		if s.kept == nil {
			s.kept = make([]byte, 0, max(n, min(s.keep, 4<<10)))
		}
		s.kept = append(s.kept, p[:n]...)
	default:
		s.spent, s.kept = true, nil
	}
	s.err = err
	return n, err
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
func (s *source) state(r *reader) bodyState {
	r.end()
	if !r.asked.Load() {
		return bodyWhole // s may be in use only by readers that asked
	}
	// A reader that is blocked in a read keeps what it reads if there is room for all; else it may spend the body.
	if !s.mu.TryLock() {
		if r.waits && !r.told.Load() || !r.waits && s.keep > 0 {
			return bodyWhole
		}
		return bodySpent
	}
	defer s.mu.Unlock()
	if s.spent {
		return bodySpent
	}
	return bodyWhole
}

// broken returns the error that reading from the client ended with, other than its end.
func (s *source) broken() error {
	if s == nil || !s.mu.TryLock() {
		return nil
	}
	defer s.mu.Unlock()
	if s.err == io.EOF {
		return nil
	}
	return s.err
}

// close closes the client's body, or leaves that to the read under way: closing must not wait for a slow client.
func (s *source) close() {
	s.closing.Store(true)
	if !s.mu.TryLock() {
		return
	}
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		s.rc.Close()
	}
}

// peek reads the first bytes into kept, so that they can be sent again with another connection.
func (s *source) peek(r *reader) error {
	s.keep = peekSize
	var first [peekSize]byte
	_, err := r.Read(first[:])
	r.pos = 0
	if err == io.EOF {
		err = nil
	}
	return err
}

const peekSize = 512
