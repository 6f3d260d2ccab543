package backhaul

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/auth"
	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/backhaul/internal/tcp"
)

// ServerConfig configures a [Server]. The zero value is valid.
type ServerConfig struct {
	// Grace is how long connections stay open after Drain was called, so that the next answer on each
	// can say that it ends. 0 means 5 s; negative: none. A [Handler] that has been shut down gets none
	// either: it refuses everything, and edges should hear of that at once.
	Grace time.Duration
	// Logger gets what goes wrong with connections; nil: nothing is logged.
	Logger *slog.Logger

	// Only tests set the rest. idle is how long a connection without requests is kept: longer than
	// edges keep it. A request that meets the end of its connection is refused and tried again.
	idle time.Duration
	// header bounds the time from the first byte of a request to the end of its head, and the time
	// that a new connection takes to authenticate, or to send a first byte where it need not.
	header time.Duration
	// unauthenticated is how many connections may be open that have not authenticated, of all
	// listeners: 1024, a thousand edges that come at once. Beyond it each new one closes the oldest of
	// them. Each holds some kilobytes, for at most header. Negative: no bound.
	unauthenticated int
	// The head of a request is bounded by 1 MiB and what edges add: above what their servers let in.
	// One HTTP/2 connection carries 1000 requests; edges open further ones beyond.
	maxHeader, maxStreams int
}

func (c *ServerConfig) resolve() {
	c.Grace = max(0, cmp.Or(c.Grace, defaultGrace))
	c.unauthenticated = cmp.Or(c.unauthenticated, auth.DefaultUnauthenticated)
	c.maxHeader = cmp.Or(c.maxHeader, defaultMaxHeader+headerRoom)
	c.maxStreams = cmp.Or(c.maxStreams, pool.MaxStreams)
	c.Logger = orSilent(c.Logger)
	c.idle = cmp.Or(c.idle, 2*defaultOwnerIdle)
	c.header = cmp.Or(c.header, defaultHeaderTimeout)
}

const (
	defaultHeaderTimeout = 10 * time.Second
	// acceptPause is the first pause after a listener fails for a moment; each further one doubles it,
	// up to a second.
	acceptPause = 5 * time.Millisecond
)

func orSilent(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}

// Server serves the hop at an owner: HTTP/1.1 and HTTP/2 without TLS on one listener, told apart by
// their first bytes. The windows of an HTTP/2 connection for uploads are as large as those that its
// edge has announced for downloads, since the edge knows the path. An [http.Server] has the same
// windows for all connections, so there is one for each class.
//
// A [Handler] gets requests of authenticated connections only: others are refused before anything
// of HTTP/2, or a body, has been read. A handler that wraps a Handler needs [Handler.Listener] for
// that.
//
// For TLS, pass a [crypto/tls.NewListener]; edges then return TLS connections from [Config].Dial.
// No protocol needs to be negotiated. All methods are safe for concurrent use.
type Server struct {
	handler http.Handler
	c       ServerConfig
	pending *auth.Pending
	drain

	conns   sync.Mutex               // guards what follows
	opening map[*serverConn]struct{} // no protocol known yet
	http1   map[*serverConn]struct{}
	servers map[served]*inner
	ended   atomic.Bool // connections that come to rest are retired
	closed  bool        // those that come are closed
	guards  tcp.Guards
	pings   pool.Pings
	running sync.WaitGroup
}

// served are the connections of one inner server: those of a class, -1 for HTTP/1.1, with pings or
// without.
type served struct {
	class int
	ping  bool
}

// inner is a server and how it gets its connections.
type inner struct {
	http *http.Server
	in   *connQueue
}

const classHTTP1 = -1

// NewServer returns a server for a [Handler], or for a handler that wraps one. It starts nothing.
func NewServer(h http.Handler, c ServerConfig) (*Server, error) {
	if h == nil {
		return nil, errors.New("backhaul: NewServer without a handler: pass what NewHandler returned")
	}
	c.resolve()
	return &Server{
		handler: h, c: c, pending: auth.NewPending(c.unauthenticated), pings: pool.UsualPings,
		opening: map[*serverConn]struct{}{}, http1: map[*serverConn]struct{}{},
		servers: map[served]*inner{},
	}, nil
}

// Serve accepts connections until the listener fails, which it returns, or Drain, Shutdown or Close
// is called: then it returns [http.ErrServerClosed]. It closes the listener.
func (s *Server) Serve(l net.Listener) error {
	defer l.Close()
	if !s.listen(l) {
		return http.ErrServerClosed
	}
	var pause time.Duration
	for {
		c, err := l.Accept()
		if err == nil {
			pause = 0
			s.open(c)
			continue
		}
		if s.over() {
			return http.ErrServerClosed
		}
		var t interface{ Temporary() bool } // no file left, say; what http.Server does as well
		if !errors.As(err, &t) || !t.Temporary() {
			if s.leave(l) {
				return http.ErrServerClosed
			}
			return err
		}
		pause = min(max(2*pause, acceptPause), time.Second)
		s.c.Logger.Warn("backhaul: accepting connections fails; trying again", "err", err, "pause", pause)
		wait := time.NewTimer(pause)
		<-wait.C
	}
}

// open authenticates a new connection, finds out what it speaks and hands it over.
func (s *Server) open(c net.Conn) {
	if h, ok := s.handler.(*Handler); ok {
		if _, done := c.(*auth.OwnerConn); !done {
			c = auth.NewOwnerConn(c, h.auth, s.pending, s.c.header)
		}
	}
	g := &serverConn{Conn: c, from: c, in: s}
	s.conns.Lock()
	if s.closed {
		s.conns.Unlock()
		c.Close()
		return
	}
	s.came()
	s.opening[g] = struct{}{}
	s.running.Go(func() {
		class, head, err := s.greet(g)
		s.used()
		s.conns.Lock()
		delete(s.opening, g)
		if err != nil || s.closed {
			s.conns.Unlock()
			c.Close()
			s.gone()
			return
		}
		g.greet(head)
		known := g.guarded.Watch(&s.guards, c)
		if g.http1 = class == classHTTP1; g.http1 {
			s.http1[g] = struct{}{}
		}
		in := s.server(served{class, !known && class != classHTTP1}).in
		s.conns.Unlock()
		in.give(g)
	})
	s.conns.Unlock()
}

// changed keeps count of the connections of inner servers.
func (s *Server) changed(c net.Conn, state http.ConnState) {
	g := c.(*serverConn) // it is what they were given
	switch {
	case state == http.StateIdle && g.http1:
		g.answered()
	case state == http.StateClosed || state == http.StateHijacked:
		s.gone()
		s.conns.Lock()
		delete(s.http1, g)
		s.conns.Unlock()
	}
}

// greet authenticates a connection and reads its first bytes: up to the first byte that cannot
// begin HTTP/2, or to the end of its first frame. They may come late, as edges make connections
// ahead of requests.
func (s *Server) greet(c *serverConn) (class int, head []byte, err error) {
	tcp.KeepAlive(c)
	wait := s.c.header // for the first byte
	if o, ok := c.Conn.(*auth.OwnerConn); ok {
		if !o.Owner.AnyNode {
			wait = s.c.idle
		}
		o.Wait = wait
		if err := o.Authenticate(); err != nil {
			return 0, nil, err
		}
	}
	c.answered() // so far, whatever that was
	if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return 0, nil, err
	}
	buf := make([]byte, 512)
	n := 0
	var first hop.Settings
	for {
		m, err := c.Read(buf[n:])
		if err != nil {
			return 0, nil, err
		}
		if n == 0 {
			if err := c.SetReadDeadline(time.Now().Add(s.c.header)); err != nil {
				return 0, nil, err
			}
		}
		before := n
		n += m
		o, rest := hop.Sniff(buf[:n])
		switch o {
		case hop.OpeningHTTP1:
			return classHTTP1, buf[:n], c.SetReadDeadline(time.Time{})
		case hop.OpeningHTTP2:
			first.Feed(rest[max(0, len(rest)-(n-before)):])
		}
		if first.Done || n == len(buf) {
			break
		}
	}
	class = hop.AnyClass
	if first.OK && first.Window > 0 {
		class = hop.ClassOf(int64(first.Window))
	}
	return class, buf[:n], c.SetReadDeadline(time.Time{})
}

// server returns the server of some connections; s.conns is held.
func (s *Server) server(of served) *inner {
	if in := s.servers[of]; in != nil {
		return in
	}
	h := &http.Server{
		Handler: http.HandlerFunc(s.serveHTTP), IdleTimeout: s.c.idle, ReadHeaderTimeout: s.c.header,
		ConnState: s.changed, ConnContext: proven, MaxHeaderBytes: s.c.maxHeader,
		ErrorLog:  slog.NewLogLogger(s.c.Logger.Handler(), slog.LevelWarn),
		Protocols: new(http.Protocols),
	}
	if of.class == classHTTP1 {
		h.Protocols.SetHTTP1(true)
	} else {
		h.Protocols.SetUnencryptedHTTP2(true)
		h.HTTP2 = &http.HTTP2Config{
			MaxConcurrentStreams:          s.c.maxStreams,
			MaxReceiveBufferPerConnection: hop.ConnWindow,
			MaxReceiveBufferPerStream:     hop.WindowOf(of.class),
		}
		if of.ping {
			h.HTTP2.SendPingTimeout, h.HTTP2.PingTimeout = s.pings.After, s.pings.Wait
		}
	}
	in := &inner{http: h, in: newConnQueue()}
	s.servers[of] = in
	s.running.Go(func() { h.Serve(in.in) })
	return in
}

// serveHTTP serves a request. That its connection ends is said of those that begin after that was
// decided: earlier ones leave it at rest, and the next one is told.
func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	if s.draining.Load() {
		s.serve(s.handler, w, r)
		return
	}
	s.handler.ServeHTTP(w, r)
}

// Drain prepares the end, as [Front.Drain] does for clients: from now on answers say that their
// connection ends, until no connection is left or Grace has passed; then it stops accepting and
// returns. Requests are served as before. It returns ctx's error when that ends first.
func (s *Server) Drain(ctx context.Context) error {
	grace := s.c.Grace
	if h, ok := s.handler.(*Handler); ok && h.draining.Load() {
		grace = 0
	}
	return s.run(ctx, grace)
}

// Shutdown drains, then ends the connections that are at rest, such that no request is lost on one,
// and waits until all requests have been answered. It does not wait for upgraded connections: call
// [Handler.Shutdown] before, or between Drain and Shutdown.
func (s *Server) Shutdown(ctx context.Context) error {
	errs := []error{s.Drain(ctx)}
	s.ended.Store(true)
	s.conns.Lock()
	conns := slices.AppendSeq(slices.Collect(maps.Keys(s.http1)), maps.Keys(s.opening))
	s.conns.Unlock()
	for _, g := range conns {
		if o, ok := g.from.(*auth.OwnerConn); ok && !o.Known.Load() {
			g.from.Close() // nothing can have been sent on it
			continue
		}
		g.retire()
	}
	var h2 error
	var wg sync.WaitGroup
	wg.Go(func() { h2 = s.end(true, func(h *http.Server) error { return h.Shutdown(ctx) }) })
	waitFor(ctx, pool.Never,
		s.quiet) // http.Server.Shutdown closes what it believes idle: it shall find nothing
	errs = append(errs, s.end(false, func(h *http.Server) error { return h.Shutdown(ctx) }))
	wg.Wait()
	err := errors.Join(append(errs, h2)...)
	if err == nil {
		s.running.Wait()
	}
	return err
}

// quiet reports whether no HTTP/1.1 connection is left, nor one that may become one.
func (s *Server) quiet() bool {
	s.conns.Lock()
	defer s.conns.Unlock()
	return len(s.http1) == 0 && len(s.opening) == 0
}

// Close closes the listeners and all connections but upgraded ones.
func (s *Server) Close() error {
	s.stop()
	err := errors.Join(s.end(true, (*http.Server).Close), s.end(false, (*http.Server).Close))
	s.running.Wait()
	return err
}

// end ends the inner servers of HTTP/2, or that of HTTP/1.1 and what has said nothing yet.
func (s *Server) end(h2 bool, how func(*http.Server) error) error {
	s.conns.Lock()
	var opening []*serverConn
	if !h2 {
		s.closed = true
		opening = slices.Collect(maps.Keys(s.opening))
	}
	var servers []*http.Server
	for of, in := range s.servers {
		if of.class == classHTTP1 != h2 {
			servers = append(servers, in.http)
		}
	}
	s.conns.Unlock()
	for _, g := range opening { // which are not ours: no lock is held when they are closed
		g.from.Close()
	}
	errs := make([]error, len(servers))
	var wg sync.WaitGroup
	for i, h := range servers {
		wg.Go(func() { errs[i] = how(h) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
