package backhaul

import (
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/auth"
	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/tcp"
)

// serverConn is a connection of a Server. Over HTTP/1.1 it tracks whether it is idle; bytes that
// arrive after an idle connection was retired are not handed on:
//
//	busy --answered--> at rest --a byte of a request--> busy
//	                      '-----retire, or idle for too long-----> retired
type serverConn struct {
	net.Conn
	in      *Server
	head    []byte   // what has been read to find out what it speaks
	from    net.Conn // as it was accepted
	guarded tcp.Guarded
	http1   bool // it is known to speak HTTP/1.1
	phase   atomic.Int32
}

const (
	connBusy int32 = iota
	connResting
	connRetired
)

// greet records the first bytes, and drops what is no longer needed.
func (g *serverConn) greet(head []byte) {
	g.head = head
	if o, ok := g.Conn.(*auth.OwnerConn); ok && o.Drained() {
		g.Conn = o.Conn
	}
}

// answered records that the connection is idle.
func (g *serverConn) answered() {
	g.phase.CompareAndSwap(connBusy, connResting)
	if g.in.ended.Load() {
		g.retire()
	}
}

// lastWord is sent to an edge before an idle HTTP/1.1 connection is closed. If the connection is
// idle at the edge as well, it has no effect: net/http accepts a 408 there, and no other status. A
// request that crosses it on the way takes it for its answer and is tried again. If a request met
// only the end of its connection, the edge could not know that it was not executed.
const lastWord = "HTTP/1.1 408 Request Timeout\r\n" + hop.HeaderBounce + ": closing\r\n" +
	"Connection: close\r\nContent-Length: 0\r\n\r\n"

// retire ends a connection if it is idle.
func (g *serverConn) retire() bool {
	if !g.phase.CompareAndSwap(connResting, connRetired) {
		return false
	}
	g.Conn.SetWriteDeadline(time.Now().Add(auth.LingerFor)) //nolint:errcheck // the edge sees
	io.WriteString(g, lastWord)                             //nolint:errcheck
	g.CloseWrite()                                          //nolint:errcheck
	g.Conn.SetReadDeadline(time.Now().Add(lingerIdle))      //nolint:errcheck
	return true
}

// drop reads the bytes that arrive on a retired connection until its edge closes it: otherwise the
// connection would be reset, and lastWord lost.
func (g *serverConn) drop(p []byte) (int, error) {
	g.Conn.SetReadDeadline(time.Now().Add(lingerIdle)) //nolint:errcheck // then it fails
	for {
		if _, err := g.Conn.Read(p); err != nil {
			return 0, io.EOF
		}
	}
}

func (g *serverConn) Read(p []byte) (int, error) {
	if len(g.head) > 0 {
		n := copy(p, g.head)
		if g.head = g.head[n:]; len(g.head) == 0 {
			g.head = nil
		}
		return n, nil
	}
	if g.phase.Load() == connRetired {
		return g.drop(p)
	}
	n, err := g.Conn.Read(p)
	switch {
	case n == 0 && tcp.IsTimeout(err) && g.retire(): // it has been idle for too long
		return g.drop(p)
	case n > 0 && g.phase.Load() != connBusy && !g.phase.CompareAndSwap(connResting, connBusy):
		return g.drop(p) // it came too late
	case err != nil && g.phase.Load() == connRetired:
		return 0, io.EOF
	}
	return n, g.guarded.Err(err)
}

func (g *serverConn) Write(p []byte) (int, error) {
	g.guarded.Begin()
	defer g.guarded.End()
	n, err := g.Conn.Write(p)
	return n, g.guarded.Err(err)
}

// CloseWrite ends one direction of an upgraded connection.
func (g *serverConn) CloseWrite() error {
	g.guarded.Begin()
	defer g.guarded.End()
	return tcp.CloseWrite(g.Conn)
}

// NetConn returns the connection beneath.
func (g *serverConn) NetConn() net.Conn { return g.Conn }

// Transparent returns the connection beneath, which ends when this one ends.
func (g *serverConn) Transparent() net.Conn { return g.Conn }

// connQueue is the listener of an inner server.
type connQueue struct {
	mu     sync.Mutex
	queue  []net.Conn
	closed bool
	more   chan struct{}
}

func newConnQueue() *connQueue { return &connQueue{more: make(chan struct{}, 1)} }

// give passes a connection on without waiting.
func (h *connQueue) give(c net.Conn) {
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

func (h *connQueue) wake() {
	select {
	case h.more <- struct{}{}:
	default:
	}
}

// Accept returns the next connection.
func (h *connQueue) Accept() (net.Conn, error) {
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
func (h *connQueue) Close() error {
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
func (h *connQueue) Addr() net.Addr { return &net.TCPAddr{} }
