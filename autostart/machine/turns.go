package machine

import (
	"context"
	"sync"

	"github.com/ebbkit/ebb/autostart/internal/waitroom"
)

// turns bounds how many starts are under way at once; the others wait in the order of their places.
type turns struct {
	limit int // negative: no bound

	mu    sync.Mutex
	taken int
	last  uint64 // place given
	room  waitroom.List[chan struct{}]
}

// place returns the place of a start that has just been accepted.
func (t *turns) place() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last++
	return t.last
}

// try takes a turn if that is possible without waiting.
func (t *turns) try() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.limit >= 0 && (t.taken >= t.limit || t.room.N > 0) {
		return false
	}
	t.taken++
	return true
}

// wait waits for a turn until ctx ends, and reports whether it has one.
func (t *turns) wait(ctx context.Context, place uint64) bool {
	s := &waitroom.Seat[chan struct{}]{Value: make(chan struct{})}
	t.mu.Lock()
	t.room.Join(s, "", place, false)
	t.next()
	t.mu.Unlock()
	select {
	case <-s.Value:
		return true
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.room.Leave(s) {
		t.taken-- // it was given a turn at this very moment
		t.next()
	}
	return false
}

// done gives a turn back.
func (t *turns) done() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.taken--
	t.next()
}

// next gives free turns to those that wait first. t.mu is held.
func (t *turns) next() {
	t.room.Begin()
	for t.limit < 0 || t.taken < t.limit {
		s := t.room.Turn()
		if s == nil {
			return
		}
		t.room.Served(s)
		t.taken++
		close(s.Value)
	}
}
