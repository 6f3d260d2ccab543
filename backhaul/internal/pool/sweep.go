package pool

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
)

// turn counts changes of turn: it is odd while something is awaited from the client, else even.
type turn struct{ atomic.Uint32 }

// Pass changes the turn.
func (t *turn) Pass() { t.Add(1) }

// waits reports whether something is awaited.
func (t *turn) waits() bool { return t.Load()%2 == 1 }

// Progress is what a sweeper looks at.
type Progress struct {
	Bounds hop.Bounds
	Body   *Body // nil: there is none, or all of it has arrived
	Answer turn
	Talks  atomic.Bool // a body that may be silent
	// stalled is called once, when a bound has passed. It must not block.
	Stalled func(hop.Stall)

	// Used by the sweeper.
	in         *Sweeper
	prev, next *Progress
	bodyAt     hop.Standing
	drip       hop.SlowBody
	answerAt   hop.Standing
}

// Sweeper checks the requests that may stall, periodically while there are any, so that no request
// needs its own timer. It never sees most requests: those without a body or with one that has
// arrived, whose answers are read at once. The zero value is ready.
type Sweeper struct {
	mu    sync.Mutex
	first *Progress
	every time.Duration
	timer *time.Timer
}

// Add starts checking a request.
func (s *Sweeper) Add(p *Progress) {
	every := time.Duration(0)
	for _, bound := range [...]time.Duration{p.Bounds.Body, p.Bounds.Answer} {
		if bound > 0 && (every == 0 || hop.LookEvery(bound) < every) {
			every = hop.LookEvery(bound)
		}
	}
	if every == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.in != nil {
		return
	}
	p.in = s
	if p.next = s.first; p.next != nil {
		p.next.prev = p
	}
	s.first = p
	switch {
	case s.timer == nil:
		s.every = every
		s.timer = time.AfterFunc(every, s.sweep)
	case every < s.every:
		s.every = every
		s.timer.Reset(every)
	}
}

// Remove stops checking it. A call of Stalled may still be under way.
func (s *Sweeper) Remove(p *Progress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(p)
}

// drop is Remove with s.mu held.
func (s *Sweeper) drop(p *Progress) {
	if p.in == nil {
		return
	}
	p.in = nil
	if p.next != nil {
		p.next.prev = p.prev
	}
	if p.prev != nil {
		p.prev.next = p.next
	} else {
		s.first = p.next
	}
	p.prev, p.next = nil, nil
	if s.first == nil && s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
}

func (s *Sweeper) sweep() {
	type found struct {
		p *Progress
		s hop.Stall
	}
	var late []found
	s.mu.Lock()
	now := time.Now()
	for p := s.first; p != nil; {
		next := p.next
		if st, ok := p.look(now); ok {
			s.drop(p)
			late = append(late, found{p, st})
		}
		p = next
	}
	if s.timer != nil {
		s.timer.Reset(s.every)
	}
	s.mu.Unlock()
	for _, f := range late {
		f.p.Stalled(f.s)
	}
}

func (p *Progress) look(now time.Time) (hop.Stall, bool) {
	if p.Body != nil {
		n := p.Body.awaited.Load()
		stands := p.bodyAt.Stands(now, n, p.Bounds.Body)
		slow := p.drip.Slow(now, n%2 == 1, p.Body.BytesRead.Load(), p.Bounds)
		if (stands || slow) && !p.Talks.Load() {
			return hop.StallBody, true
		}
	}
	return hop.StallAnswer, p.answerAt.Stands(now, p.Answer.Load(), p.Bounds.Answer)
}
