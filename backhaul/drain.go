package backhaul

import (
	"cmp"
	"context"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/tcp"
)

// drain is how a server stops without costing a request: answers say that their connection ends
// (Connection: close, GOAWAY) for a while, during which connections that are idle stay open and new
// ones are accepted; then it stops accepting. [Front] and [Server] have one.
type drain struct {
	draining atomic.Bool
	open     atomic.Int64  // connections, but for those that have become something else
	fresh    atomic.Int64  // of them those on which no request has come yet
	accepted atomic.Int64  // when the last one came, in Unix nanoseconds
	arriving time.Duration // 0: as the constant says

	mu        sync.Mutex
	listeners map[net.Listener]struct{} // nil until the first
	one       sync.Mutex                // drain at a time
	drained   bool
}

// The steps of a drain that no request tells the end of.
const (
	defaultGrace = 5 * time.Second
	drainLook    = 5 * time.Millisecond
	// arriving is how long a connection may take from its first packet to its request: a round trip
	// around the planet.
	arriving = 300 * time.Millisecond
)

// listen notes a listener, or closes it where all is over.
func (d *drain) listen(l net.Listener) bool {
	d.mu.Lock()
	drained := d.drained
	if !drained {
		if d.listeners == nil {
			d.listeners = map[net.Listener]struct{}{}
		}
		d.listeners[l] = struct{}{}
	}
	d.mu.Unlock()
	if drained {
		l.Close()
	}
	return !drained
}

// leave forgets a listener whose Serve returns, and reports whether that is by our doing.
func (d *drain) leave(l net.Listener) (drained bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.listeners, l)
	return d.drained
}

// came notes a new connection, used the first byte of its first request, and gone its end.
func (d *drain) came() {
	d.accepted.Store(time.Now().UnixNano())
	d.open.Add(1)
	d.fresh.Add(1)
}

func (d *drain) used() { d.fresh.Add(-1) }
func (d *drain) gone() { d.open.Add(-1) }

func (d *drain) over() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.drained
}

// run prepares the end: see [Front.Drain]. It returns ctx's error when that ends first.
func (d *drain) run(ctx context.Context, grace time.Duration) error {
	d.draining.Store(true)
	d.one.Lock()
	defer d.one.Unlock()
	if d.over() {
		return nil
	}
	waitFor(ctx, grace, func() bool { return d.open.Load() == 0 })
	d.mu.Lock()
	ls := slices.Collect(maps.Keys(d.listeners))
	d.mu.Unlock()
	deaf := false
	for _, l := range ls {
		if own, ok := l.(*exclusive); ok && !own.shared.Load() {
			deaf = tcp.Deafen(own.TCPListener, true) || deaf
		}
	}
	arriving := cmp.Or(d.arriving, arriving)
	if deaf {
		waitFor(ctx, drainLook, func() bool { return false })
		waitFor(ctx, 10*arriving,
			func() bool { return time.Now().UnixNano()-d.accepted.Load() > int64(arriving) })
	}
	d.stop()
	waitFor(ctx, 3*arriving, func() bool { return d.fresh.Load() == 0 })
	return context.Cause(ctx)
}

// stop ends accepting, now.
func (d *drain) stop() {
	d.draining.Store(true)
	d.mu.Lock()
	d.drained = true
	ls := slices.Collect(maps.Keys(d.listeners))
	clear(d.listeners)
	d.mu.Unlock()
	for _, l := range ls { // which are not ours: no lock is held when they are closed
		// A socket that is ours alone stays deaf, since who connects before it is closed would be reset.
		if own, ok := l.(*exclusive); ok && own.shared.Load() {
			tcp.Deafen(own.TCPListener, false)
		}
		l.Close()
	}
}

// serve serves a request such that its answer says so where its connection ends.
func (d *drain) serve(h http.Handler, w http.ResponseWriter, r *http.Request) {
	rw := &reply{ResponseWriter: w, r: r, guess: true, ending: &d.draining}
	h.ServeHTTP(rw, r)
	if rw.status == 0 && !rw.hijacked && d.draining.Load() {
		rw.WriteHeader(http.StatusOK)
	}
}

// waitFor waits for something that nobody tells.
func waitFor(ctx context.Context, most time.Duration, is func() bool) {
	end := time.Now().Add(most)
	t := time.NewTicker(drainLook)
	defer t.Stop()
	for !is() && time.Now().Before(end) {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}
