package process

import (
	"context"
	"sync"

	"github.com/ebbkit/ebb/autostart/machine"
)

// maxUnseen bounds the exits kept for a Watch that never comes; the oldest are dropped. An exit is
// some 100 bytes.
const maxUnseen = 10_000

// exits hands each exit to every watcher there is when it happens. Exits that nobody has seen yet
// are kept for the next watcher. The zero value is ready for use.
type exits struct {
	mu       sync.Mutex
	watchers map[*watcher]struct{}
	unseen   []*report
}

// report is one exit that is being delivered.
type report struct {
	exit    machine.Exit
	seen    bool // some watcher has called its function
	holders int  // watchers whose queues hold it
}

// watcher is one call of Watch.
type watcher struct {
	queue []*report
	wake  chan struct{} // holds a token while queue may be non-empty
}

// add reports e.
func (x *exits) add(e machine.Exit) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.spread(&report{exit: e})
}

// spread gives r to all watchers, or keeps it. x.mu is held.
func (x *exits) spread(r *report) {
	if len(x.watchers) == 0 {
		x.unseen = append(x.unseen, r)
		if n := len(x.unseen) - maxUnseen; n > 0 {
			x.unseen = append([]*report(nil), x.unseen[n:]...)
		}
		return
	}
	for w := range x.watchers {
		r.holders++
		w.queue = append(w.queue, r)
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// watch calls exited for every exit until ctx ends.
func (x *exits) watch(ctx context.Context, exited func(machine.Exit)) {
	w := &watcher{wake: make(chan struct{}, 1)}
	x.join(w)
	defer x.leave(w)
	for {
		for r := x.pop(ctx, w); r != nil; r = x.pop(ctx, w) {
			exited(r.exit) // with no lock held
		}
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		}
	}
}

func (x *exits) join(w *watcher) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.watchers == nil {
		x.watchers = make(map[*watcher]struct{})
	}
	x.watchers[w] = struct{}{}
	kept := x.unseen
	x.unseen = nil
	for _, r := range kept {
		x.spread(r) // only w is there: with others nothing would have been kept
	}
}

// leave removes w. Reports that only its queue held go to the other watchers, or are kept.
func (x *exits) leave(w *watcher) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.watchers, w)
	for _, r := range w.queue {
		if r.holders--; r.holders == 0 && !r.seen {
			x.spread(r)
		}
	}
}

// pop takes the next report of w's queue, or nil when there is none or ctx has ended.
func (x *exits) pop(ctx context.Context, w *watcher) *report {
	x.mu.Lock()
	defer x.mu.Unlock()
	if ctx.Err() != nil || len(w.queue) == 0 {
		return nil
	}
	r := w.queue[0]
	w.queue = w.queue[1:]
	r.holders--
	r.seen = true
	return r
}
