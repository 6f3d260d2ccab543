// Package eventlog keeps the latest decisions of a proxy, with their reasons, for people and
// scripts to follow.
package eventlog

import (
	"context"
	"iter"
	"sync"
	"time"

	"github.com/ebbkit/ebb/internal/events"
)

// batch is how many events a follower takes out at once: it bounds the time for which writers wait
// for it.
const batch = 256

// Log is an [events.Ring] for many goroutines. Writers never wait for followers: one that falls
// behind by more than the ring holds is moved forward. It starts no goroutine; a timer turns open
// sums into events. All methods are safe for concurrent use.
type Log struct {
	mu      sync.Mutex
	ring    *events.Ring
	timer   *time.Timer   // set while a sum is open
	changed chan struct{} // closed at the next event; nil while nobody waits for it
	closed  bool
}

// New returns an empty log that keeps the latest size events; 0 or less means [events.DefaultSize].
func New(size int) *Log { return &Log{ring: events.NewRing(size)} }

// Add takes in what happened now; see [events.Ring.Add]. After Close it does nothing.
func (l *Log) Add(e events.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.update(func(now time.Time) { l.ring.Add(now, e) })
}

// update changes the ring, wakes followers when there are new events, and sets the timer. l.mu is
// held.
func (l *Log) update(f func(now time.Time)) {
	now, before := time.Now(), l.ring.Newest()
	f(now)
	if l.ring.Newest() != before {
		l.wake()
	}
	if at, ok := l.ring.Wake(); ok && l.timer == nil {
		l.timer = time.AfterFunc(at.Sub(now), l.tick)
	}
}

func (l *Log) tick() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timer = nil
	if !l.closed {
		l.update(l.ring.Tick)
	}
}

func (l *Log) wake() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// Newest returns the sequence number of the newest event; 0 when there was none.
func (l *Log) Newest() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ring.Newest()
}

// Since returns the events after the one with that sequence number, oldest first, at most limit
// of them; see [events.Ring.Since].
func (l *Log) Since(seq uint64, limit int) []events.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ring.Since(seq, limit, nil)
}

// Follow iterates over the events after the one with that sequence number, oldest first and each
// once: first those that are kept, then new ones as they come, until ctx ends, or until the log is
// closed and everything has been seen. If the loop is so much slower than the writers that it
// misses events, it continues with the oldest event that is kept: the numbers jump.
func (l *Log) Follow(ctx context.Context, seq uint64) iter.Seq[events.Event] {
	return func(yield func(events.Event) bool) {
		for b := range l.Batches(ctx, seq) {
			for _, e := range b {
				if ctx.Err() != nil || !yield(e) {
					return
				}
			}
		}
	}
}

// Batches is [Log.Follow] in slices: each holds the events since the last, up to some hundreds. The
// slice is valid until the next.
func (l *Log) Batches(ctx context.Context, seq uint64) iter.Seq[[]events.Event] {
	return func(yield func([]events.Event) bool) {
		seq, buf := seq, []events.Event(nil)
		for ctx.Err() == nil {
			l.mu.Lock()
			buf = l.ring.Since(seq, batch, buf[:0])
			var changed chan struct{}
			if len(buf) == 0 {
				if l.closed {
					l.mu.Unlock()
					return
				}
				if l.changed == nil {
					l.changed = make(chan struct{})
				}
				changed = l.changed
				seq = min(seq, l.ring.Newest())
			}
			l.mu.Unlock()

			if changed == nil {
				if !yield(buf) {
					return
				}
				seq = buf[len(buf)-1].Seq
				continue
			}
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
	}
}

// Close turns the open sums into events, lets followers end, and stops the timer. Events that are
// kept can still be read.
func (l *Log) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.closed = true
	l.ring.Tick(time.Now().Add(events.SumFor))
	if l.timer != nil {
		l.timer.Stop()
	}
	l.wake()
}
