package delay

import (
	"net"
	"os"
	"sync"
	"time"

	"github.com/ebbkit/ebb/internal/delay/queue"
)

// flow is one direction of a connection: a stream under a lock, with a put side and a get side.
type flow struct {
	link *link

	mu     sync.Mutex
	stream queue.Stream
	put    side
	get    side
	// What get returns once all bytes are taken, and from when on; end is nil while more may come.
	end    error
	endDue time.Time
}

// side is the waiting state of one side of a flow.
type side struct {
	cond     sync.Cond
	deadline time.Time
	err      error       // all calls fail with it
	alarm    *time.Timer // wakes the side; made when first needed
}

func newFlow(k *link) *flow {
	f := &flow{link: k}
	f.put.cond.L, f.get.cond.L = &f.mu, &f.mu
	return f
}

// check returns the error that ends a wait of this side. f.mu is held.
func (s *side) check(now time.Time) error {
	switch {
	case s.err != nil:
		return s.err
	case !s.deadline.IsZero() && !now.Before(s.deadline):
		return os.ErrDeadlineExceeded
	}
	return nil
}

// wait waits for a change, for the deadline, or for the given time unless that is zero. f.mu is
// held.
func (s *side) wait(now, until time.Time) {
	if until.IsZero() || !s.deadline.IsZero() && s.deadline.Before(until) {
		until = s.deadline
	}
	if !until.IsZero() {
		if s.alarm == nil {
			s.alarm = time.AfterFunc(until.Sub(now), s.ring)
		} else {
			s.alarm.Reset(until.Sub(now))
		}
	}
	s.cond.Wait()
}

// ring wakes the side. It takes the lock so that it cannot come between setting the alarm and
// waiting for it.
func (s *side) ring() {
	s.cond.L.Lock()
	defer s.cond.L.Unlock()
	s.cond.Broadcast()
}

func (s *side) fail(err error) {
	if s.err == nil {
		s.err = err
	}
	if s.alarm != nil {
		s.alarm.Stop()
	}
	s.cond.Broadcast()
}

// write puts all of p, waiting for room.
func (f *flow) write(p []byte) (n int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		now := time.Now()
		if err := f.put.check(now); err != nil {
			return n, err
		}
		if k := f.stream.Put(now, f.link.half(), p[n:]); k > 0 {
			n += k
			f.get.cond.Signal()
		}
		if n == len(p) {
			return n, nil
		}
		f.put.wait(now, time.Time{})
	}
}

// read copies bytes that are due into p, waiting for some.
func (f *flow) read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(p) == 0 {
		return 0, f.get.check(time.Now())
	}
	due, err := f.await()
	n := copy(p, due)
	f.removed(n)
	return n, err
}

// next waits for bytes that are due and returns them in place; [flow.done] must follow.
func (f *flow) next() ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.await()
}

// done removes the bytes that next returned, unless they were dropped meanwhile.
func (f *flow) done(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.removed(n)
}

func (f *flow) removed(n int) {
	if n = min(n, f.stream.Size()); n > 0 {
		f.stream.Take(n)
		f.put.cond.Broadcast()
	}
}

// await waits until bytes or the end are due. f.mu is held.
func (f *flow) await() ([]byte, error) {
	for {
		now := time.Now()
		if err := f.get.check(now); err != nil {
			return nil, err
		}
		p, wake := f.stream.Peek(now)
		if len(p) > 0 {
			return p, nil
		}
		if wake.IsZero() && f.end != nil {
			if wake = f.endDue; !wake.After(now) {
				return nil, f.end
			}
		}
		f.get.wait(now, wake)
	}
}

// finish accepts nothing more, and makes get return end after the bytes that are on their way. A
// later call replaces the end.
func (f *flow) finish(end, putErr error) (due time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	f.end, f.endDue = end, now.Add(f.link.half())
	if last := f.stream.Last(); last.After(f.endDue) {
		f.endDue = last
	}
	f.put.fail(putErr)
	f.get.cond.Broadcast()
	return f.endDue
}

// reopen makes get wait for another end after errCloseWrite, unless that end came already.
func (f *flow) reopen() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.end == errCloseWrite {
		f.end = nil
	}
}

// pause lets half a round trip pass on the get side. It returns false if the flow was aborted or
// closed meanwhile.
func (f *flow) pause() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	until := time.Now().Add(f.link.half())
	for f.get.err == nil && f.end != errClose {
		now := time.Now()
		if !now.Before(until) {
			return true
		}
		f.get.wait(now, until)
	}
	return false
}

// refuse drops the bytes that are on their way, and makes put fail.
func (f *flow) refuse(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stream = queue.Stream{}
	f.put.fail(err)
}

// abort drops everything and ends both sides.
func (f *flow) abort(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stream = queue.Stream{}
	f.put.fail(err)
	f.get.fail(err)
}

// setDeadline sets when the calls of a side of f give up; zero means never.
func (f *flow) setDeadline(s *side, t time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.err == net.ErrClosed {
		return net.ErrClosed
	}
	s.deadline = t
	s.cond.Broadcast()
	return nil
}
