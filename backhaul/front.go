package backhaul

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// FrontConfig configures a [Front]. The zero value is valid.
type FrontConfig struct {
	// Grace is how long connections stay open after Drain was called, so that each answer can say that its connection ends.
	// 0 means 5 s: clients that keep connections alive are mostly back by then. Negative: none.
	Grace time.Duration
	// Limit bounds the connections of all clients together and of each.
	Limit LimitConfig
	// TLS serves HTTPS. nil: clear text, HTTP/1.1 and HTTP/2 ("h2c").
	TLS *tls.Config
	// HeaderTimeout bounds the time from the first byte of a request to the end of its head. 0 means 10 s.
	HeaderTimeout time.Duration
	// IdleTimeout is how long a connection without requests is kept. 0 means 2 minutes.
	IdleTimeout time.Duration
	// MaxHeader bounds the head of a request in bytes. 0 means 1 MiB.
	MaxHeader int
	// ConnContext is that of [http.Server]: with that of package autostart a client that leaves while it waits is noticed.
	ConnContext func(ctx context.Context, c net.Conn) context.Context
	// Logger gets what goes wrong with connections; nil: nothing is logged.
	Logger *slog.Logger
}

func (c *FrontConfig) resolve() error {
	c.Grace = max(0, cmp.Or(c.Grace, 5*time.Second))
	c.HeaderTimeout = cmp.Or(c.HeaderTimeout, 10*time.Second)
	c.IdleTimeout = cmp.Or(c.IdleTimeout, 2*time.Minute)
	c.MaxHeader = cmp.Or(c.MaxHeader, defaultMaxHeader)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case c.HeaderTimeout < 0:
		return fmt.Errorf("backhaul: FrontConfig.HeaderTimeout %v: want 0 (the default) or more", c.HeaderTimeout)
	case c.IdleTimeout < 0:
		return fmt.Errorf("backhaul: FrontConfig.IdleTimeout %v: want 0 (the default) or more", c.IdleTimeout)
	case c.MaxHeader < 0:
		return fmt.Errorf("backhaul: FrontConfig.MaxHeader %d: want 0 (the default) or more bytes", c.MaxHeader)
	}
	return nil
}

// Front serves clients, over HTTP/1.1 and HTTP/2: an [http.Server] with bounds, and with an end that costs no request.
// All methods are safe for concurrent use.
//
// [http.Server.Shutdown] closes the connections that are idle at once, and so resets the client that is just sending its
// next request on one. Drain comes first: it lets answers say that their connection ends (Connection: close, GOAWAY).
type Front struct {
	c        FrontConfig
	server   *http.Server
	draining atomic.Bool
	open     atomic.Int64 // connections, but for those that have become something else
	fresh    atomic.Int64 // of them those on which no request has come yet
	accepted atomic.Int64 // when the last one came, in Unix nanoseconds

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	drain     sync.Mutex // one at a time
	drained   bool
}

// NewFront returns a server of h, such as a [Proxy]. It starts nothing.
func NewFront(h http.Handler, c FrontConfig) (*Front, error) {
	if h == nil {
		return nil, errors.New("backhaul: NewFront without a handler: pass what NewProxy returned")
	}
	if err := c.resolve(); err != nil {
		return nil, err
	}
	f := &Front{c: c, listeners: map[net.Listener]struct{}{}}
	f.server = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rw := &reply{ResponseWriter: w, r: r, guess: true, ending: &f.draining}
			h.ServeHTTP(rw, r)
			if rw.status == 0 && !rw.hijacked && f.draining.Load() {
				rw.WriteHeader(http.StatusOK)
			}
		}),
		TLSConfig: c.TLS, ReadHeaderTimeout: c.HeaderTimeout, IdleTimeout: c.IdleTimeout, MaxHeaderBytes: c.MaxHeader,
		ConnContext: c.ConnContext, ConnState: f.changed, ErrorLog: slog.NewLogLogger(c.Logger.Handler(), slog.LevelWarn),
		Protocols: new(http.Protocols),
	}
	f.server.Protocols.SetHTTP1(true)
	f.server.Protocols.SetHTTP2(c.TLS != nil)
	f.server.Protocols.SetUnencryptedHTTP2(c.TLS == nil)
	return f, nil
}

// Listen listens for a [Front] at a TCP address, as [net.Listen] does, but without Multipath TCP, whose sockets on Linux
// cannot be kept from taking further connections before they are closed: see [Front.Drain].
func Listen(addr string) (net.Listener, error) {
	var c net.ListenConfig
	c.SetMultipathTCP(false)
	return c.Listen(context.Background(), "tcp", addr)
}

// Serve accepts connections until the listener fails, which it returns, or until Drain, Shutdown or Close: then it returns
// [http.ErrServerClosed]. It closes the listener.
func (f *Front) Serve(l net.Listener) error {
	limited, err := LimitListener(l, f.c.Limit)
	if err != nil {
		return err
	}
	f.mu.Lock()
	if f.drained {
		f.mu.Unlock()
		l.Close()
		return http.ErrServerClosed
	}
	f.listeners[l] = struct{}{}
	f.mu.Unlock()
	if f.c.TLS != nil {
		err = f.server.ServeTLS(limited, "", "")
	} else {
		err = f.server.Serve(limited)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.listeners, l)
	if f.drained {
		return http.ErrServerClosed
	}
	return err
}

// changed keeps count of connections.
func (f *Front) changed(c net.Conn, s http.ConnState) {
	l := limitedOf(c)
	if l == nil {
		return
	}
	switch s {
	case http.StateNew:
		f.accepted.Store(time.Now().UnixNano())
		f.open.Add(1)
		f.fresh.Add(1)
		return
	case http.StateClosed, http.StateHijacked:
		f.open.Add(-1)
	}
	if l.used.CompareAndSwap(false, true) {
		f.fresh.Add(-1)
	}
}

// The steps of a drain that no request tells the end of.
const (
	drainLook = 5 * time.Millisecond
	// arriving is how long a connection may take from its first packet to its request: a round trip around the planet.
	arriving = 300 * time.Millisecond
)

// Drain prepares the end: from now on every answer says that its connection ends. It waits until no connection is left, or
// for Grace: meanwhile new connections are still accepted, since those who balance load take a moment to hear of it. Then
// it stops accepting and returns. On Linux, with a listener of [Listen], it first has the kernel drop what asks for further
// connections, and accepts those that are there: else the last ones would be reset with their requests.
// It returns ctx's error when that ends first.
//
// Those who upgrade connections tell them to end between Drain and Shutdown.
func (f *Front) Drain(ctx context.Context) error {
	f.draining.Store(true)
	f.drain.Lock()
	defer f.drain.Unlock()
	if f.over() {
		return nil
	}
	f.until(ctx, f.c.Grace, func() bool { return f.open.Load() == 0 })
	f.mu.Lock()
	ls := make([]net.Listener, 0, len(f.listeners))
	for l := range f.listeners {
		ls = append(ls, l)
	}
	f.mu.Unlock()
	deaf := false
	for _, l := range ls {
		deaf = deafen(l, true) || deaf
	}
	if deaf {
		f.until(ctx, drainLook, func() bool { return false })
		f.until(ctx, 10*arriving, func() bool { return time.Now().UnixNano()-f.accepted.Load() > int64(arriving) })
	}
	f.mu.Lock()
	f.drained = true
	f.mu.Unlock()
	for _, l := range ls {
		deafen(l, false) // somebody else may have the socket as well
		l.Close()
	}
	f.until(ctx, 3*arriving, func() bool { return f.fresh.Load() == 0 })
	return context.Cause(ctx)
}

func (f *Front) over() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.drained
}

// until waits for something that nobody tells.
func (f *Front) until(ctx context.Context, most time.Duration, is func() bool) {
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

// Shutdown drains, then waits as [http.Server.Shutdown] does until all requests have been answered; that does not wait for
// upgraded connections.
func (f *Front) Shutdown(ctx context.Context) error {
	err := f.Drain(ctx)
	return errors.Join(err, f.server.Shutdown(ctx))
}

// Close closes the listeners and all connections but upgraded ones.
func (f *Front) Close() error {
	f.draining.Store(true)
	f.mu.Lock()
	f.drained = true
	f.mu.Unlock()
	return f.server.Close()
}
