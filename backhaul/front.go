package backhaul

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/tcp"
)

// FrontConfig configures a [Front]. The zero value is valid.
type FrontConfig struct {
	// Grace is how long connections stay open after Drain was called, so that each answer can say that
	// its connection ends. 0 means 5 s: most clients that keep connections alive have sent another
	// request by then. Negative: none.
	Grace time.Duration
	// Limit bounds the connections of all clients together and of each.
	Limit LimitConfig
	// TLS serves HTTPS. nil: clear text, HTTP/1.1 and HTTP/2 ("h2c").
	TLS *tls.Config
	// IdleTimeout is how long a connection without requests is kept. 0 means 2 minutes. Behind a
	// load balancer that keeps connections, set it above the time for which that does.
	IdleTimeout time.Duration
	// ConnContext is that of [http.Server]. With that of package autostart, a client that leaves while
	// its request is parked is noticed.
	ConnContext func(ctx context.Context, c net.Conn) context.Context
	// Logger gets what goes wrong with connections; nil: nothing is logged.
	Logger *slog.Logger
}

func (c *FrontConfig) resolve() error {
	c.Grace = max(0, cmp.Or(c.Grace, defaultGrace))
	c.Logger = orSilent(c.Logger)
	if c.IdleTimeout = cmp.Or(c.IdleTimeout, 2*time.Minute); c.IdleTimeout < 0 {
		return fmt.Errorf(
			"backhaul: FrontConfig.IdleTimeout %v: want 0 (the default) or more", c.IdleTimeout,
		)
	}
	return nil
}

// Front serves clients, over HTTP/1.1 and HTTP/2: an [http.Server] with bounds, and with an end
// that costs no request. All methods are safe for concurrent use.
//
// [http.Server.Shutdown] closes idle connections at once, and so resets a client that is just
// sending its next request on one. Drain comes first: it lets answers say that their connection
// ends (Connection: close, GOAWAY).
type Front struct {
	c      FrontConfig
	server *http.Server
	drain
}

// NewFront returns a server of h, such as a [Proxy]. It starts nothing.
func NewFront(h http.Handler, c FrontConfig) (*Front, error) {
	if h == nil {
		return nil, errors.New("backhaul: NewFront without a handler: pass what NewProxy returned")
	}
	if err := c.resolve(); err != nil {
		return nil, err
	}
	f := &Front{c: c}
	f.server = &http.Server{
		Handler:   http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { f.serve(h, w, r) }),
		TLSConfig: c.TLS, ReadHeaderTimeout: defaultHeaderTimeout, IdleTimeout: c.IdleTimeout,
		MaxHeaderBytes: defaultMaxHeader, ConnContext: c.ConnContext, ConnState: f.changed,
		ErrorLog:  slog.NewLogLogger(c.Logger.Handler(), slog.LevelWarn),
		Protocols: new(http.Protocols),
	}
	f.server.Protocols.SetHTTP1(true)
	f.server.Protocols.SetHTTP2(c.TLS != nil)
	f.server.Protocols.SetUnencryptedHTTP2(c.TLS == nil)
	return f, nil
}

// Serve accepts connections until the listener fails, which it returns, or until Drain, Shutdown or
// Close: then it returns [http.ErrServerClosed]. It closes the listener.
func (f *Front) Serve(l net.Listener) error {
	limited, err := LimitListener(l, f.c.Limit)
	if err != nil {
		return err
	}
	if !f.listen(l) {
		return http.ErrServerClosed
	}
	if f.c.TLS != nil {
		err = f.server.ServeTLS(limited, "", "")
	} else {
		err = f.server.Serve(limited)
	}
	if f.leave(l) {
		return http.ErrServerClosed
	}
	return err
}

// changed keeps count of connections.
func (f *Front) changed(c net.Conn, s http.ConnState) {
	l, ok := tcp.Beneath[*limited](c)
	if !ok {
		return
	}
	switch s {
	case http.StateNew:
		f.came()
		return
	case http.StateClosed, http.StateHijacked:
		f.gone()
	}
	if l.used.CompareAndSwap(false, true) {
		f.used()
	}
}

// Drain prepares the end: from now on every answer says that its connection ends. It waits until no
// connection is left, or for Grace. Meanwhile new connections are still accepted, since load
// balancers take a moment to notice. Then it stops accepting and returns. On Linux, with a listener
// of [Listen], it first has the kernel drop further connection attempts, and accepts the
// connections that are waiting: else the last ones would be reset with their requests. It returns
// ctx's error when that ends first.
//
// Upgraded connections are best told to end between Drain and Shutdown.
func (f *Front) Drain(ctx context.Context) error { return f.run(ctx, f.c.Grace) }

// Shutdown drains, then waits as [http.Server.Shutdown] does until all requests have been answered;
// that does not wait for upgraded connections.
func (f *Front) Shutdown(ctx context.Context) error {
	err := f.Drain(ctx)
	return errors.Join(err, unlessClosed(f.server.Shutdown(ctx)))
}

// Close closes the listeners and all connections but upgraded ones.
func (f *Front) Close() error {
	f.stop()
	return unlessClosed(f.server.Close())
}

// unlessClosed forgets the error of closing a listener that drain has closed.
func unlessClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// drain stops a server without costing a request. For a while answers say that their connection
// ends (Connection: close, GOAWAY), idle connections stay open and new ones are accepted; then it
// stops accepting. [Front] and [Server] have one.
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

// The times of a drain.
const (
	defaultGrace = 5 * time.Second
	drainLook    = 5 * time.Millisecond
	// arriving is how long a connection may take from its first packet to its request: a round trip
	// around the planet.
	arriving = 300 * time.Millisecond
)

// listen notes a listener, or closes it if the drain is over.
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

// leave forgets a listener whose Serve returns, and reports whether the drain made it return.
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

// serve serves a request; while draining, its answer says that its connection ends.
func (d *drain) serve(h http.Handler, w http.ResponseWriter, r *http.Request) {
	rw := &reply{ResponseWriter: w, r: r, guess: true, ending: &d.draining}
	h.ServeHTTP(rw, r)
	if rw.status == 0 && !rw.hijacked && d.draining.Load() {
		rw.WriteHeader(http.StatusOK)
	}
}

// waitFor polls for something, for at most that long.
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
