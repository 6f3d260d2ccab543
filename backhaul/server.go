package backhaul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// ServerConfig configures a [Server]. The zero value is valid.
type ServerConfig struct {
	// IdleTimeout is how long a connection without requests is kept. 0 means 3 minutes: it must be above Config.IdleTimeout of
	// all edges, else requests meet connections that are being closed.
	IdleTimeout time.Duration
	// HeaderTimeout bounds the time from the first byte of a request to the end of its head, and the time that a new
	// connection takes to authenticate, or to send a first byte where it need not. 0 means 10 s.
	HeaderTimeout time.Duration
	// MaxHeader bounds the head of a request in bytes. 0 means 1 MiB and what edges add: above what their servers let in.
	MaxHeader int
	// MaxStreams is how many requests one HTTP/2 connection may carry. 0 means 1000; edges open further connections beyond.
	MaxStreams int
	// MaxUnauthenticated is how many connections may be open that have not authenticated, of all listeners. Beyond it each new
	// one closes the oldest of them. Each holds some kilobytes, for at most HeaderTimeout. 0 means 1024: a thousand edges
	// that come at once. Negative: no bound. It has no meaning where the handler is not a [Handler].
	MaxUnauthenticated int
	// Logger gets what goes wrong with connections; nil: nothing is logged.
	Logger *slog.Logger
}

func (c *ServerConfig) resolve() error {
	c.IdleTimeout = cmp.Or(c.IdleTimeout, 2*defaultOwnerIdle)
	c.HeaderTimeout = cmp.Or(c.HeaderTimeout, 10*time.Second)
	c.MaxHeader = cmp.Or(c.MaxHeader, defaultMaxHeader+headerRoom)
	c.MaxStreams = cmp.Or(c.MaxStreams, maxStreams)
	c.MaxUnauthenticated = cmp.Or(c.MaxUnauthenticated, defaultUnauthenticated)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case c.IdleTimeout < 0:
		return fmt.Errorf("backhaul: ServerConfig.IdleTimeout %v: want 0 (the default) or more", c.IdleTimeout)
	case c.HeaderTimeout < 0:
		return fmt.Errorf("backhaul: ServerConfig.HeaderTimeout %v: want 0 (the default) or more", c.HeaderTimeout)
	case c.MaxHeader < 0:
		return fmt.Errorf("backhaul: ServerConfig.MaxHeader %d: want 0 (the default) or more bytes", c.MaxHeader)
	case c.MaxStreams < 0:
		return fmt.Errorf("backhaul: ServerConfig.MaxStreams %d: want 0 (the default) or more", c.MaxStreams)
	}
	return nil
}

// Server serves the hop at an owner: HTTP/1.1 and HTTP/2 without TLS on one listener, told apart by their first bytes. An
// HTTP/2 connection gets windows for uploads as large as those that its edge has announced for downloads: the edge knows
// the path. One [http.Server] has the same windows for all, so there is one for each class.
//
// A [Handler] that it serves hears from authenticated connections only: others are refused before anything of HTTP/2, or a
// body, has been read. What is wrapped around a Handler is served like any other, and needs [Handler.Listener] for that.
//
// For TLS, pass a [crypto/tls.NewListener]; edges then return TLS connections from [Config].Dial. No protocol needs to be
// negotiated. All methods are safe for concurrent use.
type Server struct {
	handler http.Handler
	c       ServerConfig
	pending *pending

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	opening   map[net.Conn]struct{} // no protocol known yet
	servers   map[served]*inner
	closed    bool
	guards    guards
	pings     pings
	running   sync.WaitGroup
}

// served are the connections of one inner server: those of a class, -1 for HTTP/1.1, with pings or without.
type served struct {
	class int
	ping  bool
}

// inner is a server and how it gets its connections.
type inner struct {
	http *http.Server
	in   *handover
}

const classHTTP1 = -1

// NewServer returns a server for a [Handler], or for what is wrapped around one. It starts nothing.
func NewServer(h http.Handler, c ServerConfig) (*Server, error) {
	if h == nil {
		return nil, errors.New("backhaul: NewServer without a handler: pass what NewHandler returned")
	}
	if err := c.resolve(); err != nil {
		return nil, err
	}
	return &Server{
		handler: h, c: c, pending: newPending(c.MaxUnauthenticated), listeners: map[net.Listener]struct{}{}, opening: map[net.Conn]struct{}{}, servers: map[served]*inner{},
		pings: usualPings,
	}, nil
}

// Serve accepts connections until the listener fails, which it returns, or Shutdown or Close is called: then it returns
// [http.ErrServerClosed]. It closes the listener.
func (s *Server) Serve(l net.Listener) error {
	defer l.Close()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return http.ErrServerClosed
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
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
			s.mu.Lock()
			delete(s.listeners, l)
			s.mu.Unlock()
			return err
		}
		pause = min(max(2*pause, pauseFirst), time.Second)
		s.c.Logger.Warn("backhaul: accepting connections fails; trying again", "err", err, "pause", pause)
		wait := time.NewTimer(pause)
		<-wait.C
	}
}

func (s *Server) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// open authenticates a new connection, finds out what it speaks and hands it over.
func (s *Server) open(c net.Conn) {
	if h, ok := s.handler.(*Handler); ok {
		if _, done := c.(*ownerConn); !done {
			c = newOwnerConn(c, h, s.pending, s.c.HeaderTimeout)
		}
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		c.Close()
		return
	}
	s.opening[c] = struct{}{}
	s.running.Go(func() {
		class, head, err := s.greet(c)
		s.mu.Lock()
		delete(s.opening, c)
		if err != nil || s.closed {
			s.mu.Unlock()
			c.Close()
			return
		}
		g := newGreeted(c, head)
		known := g.guarded.watch(&s.guards, c)
		in := s.server(served{class, !known && class != classHTTP1}).in
		s.mu.Unlock()
		in.give(g)
	})
	s.mu.Unlock()
}

// greet authenticates a connection, and reads its first bytes: up to the first that HTTP/2 does not begin with, or to the
// end of its first frame. An edge may have made a connection ahead of the request that it is for.
func (s *Server) greet(c net.Conn) (class int, head []byte, err error) {
	guard(c)
	wait := s.c.HeaderTimeout // for the first byte
	if o, ok := c.(*ownerConn); ok {
		if !o.h.c.AnyNode {
			wait = s.c.IdleTimeout
		}
		o.wait = wait
		if err := o.authenticate(); err != nil {
			return 0, nil, err
		}
	}
	if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return 0, nil, err
	}
	buf := make([]byte, 512)
	n := 0
	var first settings
	for {
		m, err := c.Read(buf[n:])
		if err != nil {
			return 0, nil, err
		}
		if n == 0 {
			if err := c.SetReadDeadline(time.Now().Add(s.c.HeaderTimeout)); err != nil {
				return 0, nil, err
			}
		}
		before := n
		n += m
		o, rest := opened(buf[:n])
		switch o {
		case openHTTP1:
			return classHTTP1, buf[:n], c.SetReadDeadline(time.Time{})
		case openHTTP2:
			first.feed(rest[max(0, len(rest)-(n-before)):])
		}
		if first.done || n == len(buf) {
			break
		}
	}
	class = anyClass
	if first.ok && first.window > 0 {
		class = classOf(int64(first.window))
	}
	return class, buf[:n], c.SetReadDeadline(time.Time{})
}

// greeted is a connection whose first bytes have been read.
type greeted struct {
	net.Conn
	head    []byte
	from    net.Conn // as it was accepted
	guarded guarded
}

// newGreeted leaves out what has nothing to do any more.
func newGreeted(c net.Conn, head []byte) *greeted {
	g := &greeted{Conn: c, head: head, from: c}
	if o, ok := c.(*ownerConn); ok && len(o.rest) == 0 {
		g.Conn = o.Conn
	}
	return g
}

func (g *greeted) Read(p []byte) (int, error) {
	if len(g.head) > 0 {
		n := copy(p, g.head)
		if g.head = g.head[n:]; len(g.head) == 0 {
			g.head = nil
		}
		return n, nil
	}
	n, err := g.Conn.Read(p)
	return n, g.guarded.err(err)
}

func (g *greeted) Write(p []byte) (int, error) {
	g.guarded.begin()
	defer g.guarded.end()
	n, err := g.Conn.Write(p)
	return n, g.guarded.err(err)
}

// CloseWrite is what ends one direction of an upgraded connection.
func (g *greeted) CloseWrite() error {
	g.guarded.begin()
	defer g.guarded.end()
	return closeWrite(g.Conn)
}

// NetConn returns the connection beneath.
func (g *greeted) NetConn() net.Conn { return g.Conn }

// server returns the server of some connections; s.mu is held.
func (s *Server) server(of served) *inner {
	if in := s.servers[of]; in != nil {
		return in
	}
	h := &http.Server{
		Handler: s.handler, IdleTimeout: s.c.IdleTimeout, ReadHeaderTimeout: s.c.HeaderTimeout,
		ConnContext: ConnContext, MaxHeaderBytes: s.c.MaxHeader, ErrorLog: slog.NewLogLogger(s.c.Logger.Handler(), slog.LevelWarn), Protocols: new(http.Protocols),
	}
	if of.class == classHTTP1 {
		h.Protocols.SetHTTP1(true)
	} else {
		h.Protocols.SetUnencryptedHTTP2(true)
		h.HTTP2 = &http.HTTP2Config{
			MaxConcurrentStreams:          s.c.MaxStreams,
			MaxReceiveBufferPerConnection: connWindow,
			MaxReceiveBufferPerStream:     windowOf(of.class),
		}
		if of.ping {
			h.HTTP2.SendPingTimeout, h.HTTP2.PingTimeout = s.pings.after, s.pings.wait
		}
	}
	in := &inner{http: h, in: newHandover()}
	s.servers[of] = in
	s.running.Go(func() { h.Serve(in.in) })
	return in
}

// Shutdown closes the listeners and waits as [http.Server.Shutdown] does, which does not wait for upgraded connections:
// call [Handler.Shutdown] before.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.end(func(h *http.Server) error { return h.Shutdown(ctx) })
	if err == nil {
		s.running.Wait()
	}
	return err
}

// Close closes the listeners and all connections but upgraded ones.
func (s *Server) Close() error {
	err := s.end((*http.Server).Close)
	s.running.Wait()
	return err
}

func (s *Server) end(how func(*http.Server) error) error {
	s.mu.Lock()
	s.closed = true
	var ended []io.Closer // which are not ours: no lock is held when they are closed
	for l := range s.listeners {
		ended = append(ended, l)
	}
	clear(s.listeners)
	for c := range s.opening {
		ended = append(ended, c)
	}
	servers := make([]*inner, 0, len(s.servers))
	for _, in := range s.servers {
		servers = append(servers, in)
	}
	s.mu.Unlock()
	for _, c := range ended {
		c.Close()
	}
	errs := make([]error, len(servers))
	var wg sync.WaitGroup
	for i, in := range servers {
		wg.Go(func() { errs[i] = how(in.http) })
	}
	wg.Wait()
	return errors.Join(slices.DeleteFunc(errs, func(err error) bool { return err == nil })...)
}

// handover is the listener of an inner server.
type handover struct {
	mu     sync.Mutex
	queue  []net.Conn
	closed bool
	more   chan struct{}
}

func newHandover() *handover { return &handover{more: make(chan struct{}, 1)} }

// give passes a connection on without waiting.
func (h *handover) give(c net.Conn) {
	h.mu.Lock()
	closed := h.closed
	if !closed {
		h.queue = append(h.queue, c)
		h.wake()
	}
	h.mu.Unlock()
	if closed {
		c.Close()
	}
}

func (h *handover) wake() {
	select {
	case h.more <- struct{}{}:
	default:
	}
}

// Accept returns the next connection.
func (h *handover) Accept() (net.Conn, error) {
	for {
		h.mu.Lock()
		switch {
		case h.closed:
			h.mu.Unlock()
			return nil, net.ErrClosed
		case len(h.queue) > 0:
			c := h.queue[0]
			h.queue = slices.Delete(h.queue, 0, 1)
			h.mu.Unlock()
			return c, nil
		}
		h.mu.Unlock()
		<-h.more
	}
}

// Close closes the connections that nobody has accepted.
func (h *handover) Close() error {
	h.mu.Lock()
	h.closed = true
	queue := h.queue
	h.queue = nil
	h.wake()
	h.mu.Unlock()
	for _, c := range queue {
		c.Close()
	}
	return nil
}

// Addr is no real address: the listeners of the Server have those.
func (h *handover) Addr() net.Addr { return &net.TCPAddr{} }
