package backhaul

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// FrontConfig configures a [Front]. The zero value is valid.
type FrontConfig struct {
	// Grace is how long connections stay open after Drain was called, so that each answer can say that
	// its connection ends. 0 means 5 s: clients that keep connections alive are mostly back by then.
	// Negative: none.
	Grace time.Duration
	// Limit bounds the connections of all clients together and of each.
	Limit LimitConfig
	// TLS serves HTTPS. nil: clear text, HTTP/1.1 and HTTP/2 ("h2c").
	TLS *tls.Config
	// HeaderTimeout bounds the time from the first byte of a request to the end of its head. 0 means
	// 10 s.
	HeaderTimeout time.Duration
	// IdleTimeout is how long a connection without requests is kept. 0 means 2 minutes.
	IdleTimeout time.Duration
	// MaxHeader bounds the head of a request in bytes. 0 means 1 MiB.
	MaxHeader int
	// ConnContext is that of [http.Server]: with that of package autostart a client that leaves while
	// it waits is noticed.
	ConnContext func(ctx context.Context, c net.Conn) context.Context
	// Logger gets what goes wrong with connections; nil: nothing is logged.
	Logger *slog.Logger
}

func (c *FrontConfig) resolve() error {
	c.Grace = max(0, cmp.Or(c.Grace, defaultGrace))
	c.Logger = orSilent(c.Logger)
	return cmp.Or(
		atLeast0("FrontConfig.HeaderTimeout", "", &c.HeaderTimeout, defaultHeaderTimeout),
		atLeast0("FrontConfig.IdleTimeout", "", &c.IdleTimeout, 2*time.Minute),
		atLeast0("FrontConfig.MaxHeader", " bytes", &c.MaxHeader, defaultMaxHeader),
	)
}

// Front serves clients, over HTTP/1.1 and HTTP/2: an [http.Server] with bounds, and with an end
// that costs no request. All methods are safe for concurrent use.
//
// [http.Server.Shutdown] closes the connections that are idle at once, and so resets the client
// that is just sending its next request on one. Drain comes first: it lets answers say that their
// connection ends (Connection: close, GOAWAY).
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
		TLSConfig: c.TLS, ReadHeaderTimeout: c.HeaderTimeout, IdleTimeout: c.IdleTimeout, MaxHeaderBytes: c.MaxHeader,
		ConnContext: c.ConnContext, ConnState: f.changed, ErrorLog: slog.NewLogLogger(c.Logger.Handler(), slog.LevelWarn),
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
	l := limitedOf(c)
	if l == nil {
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
// connection is left, or for Grace: meanwhile new connections are still accepted, since those who
// balance load take a moment to hear of it. Then it stops accepting and returns. On Linux, with a
// listener of [Listen], it first has the kernel drop what asks for further connections, and accepts
// those that are there: else the last ones would be reset with their requests. It returns ctx's
// error when that ends first.
//
// Those who upgrade connections tell them to end between Drain and Shutdown.
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
