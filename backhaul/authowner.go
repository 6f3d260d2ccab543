package backhaul

import (
	"cmp"
	"container/list"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/balance"
)

// Listener returns l for a server that is not ours: a plain [http.Server] with a Handler behind it. Connections prove in
// it, by the handler's keys, that they come from a node of the cluster; others are closed. The server needs [ConnContext]
// besides. A [Server] does all this for a Handler that it serves itself; where it serves something that is wrapped around
// one, it needs Listener as well.
//
// The key's preface comes inside of TLS: pass what [crypto/tls.NewListener] returned. A server that is to authenticate by
// certificates alone needs no Listener, and handles TLS itself.
//
// A connection has 10 s to prove itself. While more than 1024 have not, each new one closes the oldest of them.
func (h *Handler) Listener(l net.Listener) net.Listener {
	return newOwnerListener(l, h.auth)
}

// owner is whom a Handler lets in.
type owner struct {
	keys        []hop.AuthKey
	certificate func(*x509.Certificate) (balance.NodeID, error) // nil: certificates are not looked at
	anyNode     bool
	denied      func(addr string, err error) // nil: nobody is told
}

func newOwnerListener(l net.Listener, o *owner) net.Listener {
	return &ownerListener{Listener: l, owner: o, pending: newPending(defaultUnauthenticated), limit: authTimeout}
}

const (
	// defaultUnauthenticated is a thousand nodes that come at once, at some kilobytes each.
	defaultUnauthenticated = 1024
	// lingerFor is how long a refused connection stays for the refusal to arrive: a close with bytes unread resets it.
	lingerFor   = 500 * time.Millisecond
	lingerBytes = 64 << 10
)

type ownerListener struct {
	net.Listener
	owner   *owner
	pending *pending
	limit   time.Duration
}

// Accept returns the next connection. Nothing has been read from it yet.
func (l *ownerListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return newOwnerConn(c, l.owner, l.pending, l.limit), nil
}

// ConnContext is for [http.Server.ConnContext]: it lets a [Handler] know what the connections of its [Handler.Listener]
// have proven. Where the server has other such functions, call them one after the other.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	for {
		switch t := c.(type) {
		case *ownerConn:
			return t.context(ctx)
		case *greeted:
			c = t.from
		case interface{ NetConn() net.Conn }:
			c = t.NetConn()
		default:
			return ctx
		}
	}
}

type ownerConnKey struct{}

// context returns ctx with the connection in it.
func (c *ownerConn) context(ctx context.Context) context.Context {
	return context.WithValue(ctx, ownerConnKey{}, c)
}

// pending bounds the connections that have not authenticated. The oldest goes first: a node needs two round trips, so whoever
// is to keep it out has to open that many connections in them.
type pending struct {
	max int // negative: no bound

	mu    sync.Mutex
	conns list.List // of *ownerConn
}

func newPending(most int) *pending { return &pending{max: most} }

func (p *pending) add(c *ownerConn) {
	var oldest *ownerConn
	p.mu.Lock()
	c.place = p.conns.PushBack(c)
	if p.max >= 0 && p.conns.Len() > p.max {
		oldest = p.conns.Remove(p.conns.Front()).(*ownerConn)
		oldest.place = nil
	}
	p.mu.Unlock()
	if oldest != nil {
		oldest.Conn.Close()
	}
}

func (p *pending) remove(c *ownerConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.place != nil {
		p.conns.Remove(c.place)
		c.place = nil
	}
}

func (p *pending) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conns.Len()
}

// ownerConn is a connection at an owner. The first read authenticates it; one that is refused ends with an error.
type ownerConn struct {
	net.Conn
	owner   *owner
	pending *pending
	place   *list.Element // in pending, whose lock guards it
	timer   *time.Timer   // of being pending
	wait    time.Duration // for the first byte of who need not prove a key; 0: as long as the caller's deadline says

	once sync.Once
	err  error
	rest []byte // read and not handed on yet

	known atomic.Bool    // who is there has been accepted
	node  balance.NodeID // by its certificate; "" where a key did it
}

func newOwnerConn(c net.Conn, by *owner, p *pending, limit time.Duration) *ownerConn {
	o := &ownerConn{Conn: c, owner: by, pending: p}
	o.timer = time.AfterFunc(cmp.Or(limit, authTimeout), func() { c.Close() })
	p.add(o)
	return o
}

// Read reads what follows the preface.
func (c *ownerConn) Read(p []byte) (int, error) {
	if err := c.authenticate(); err != nil {
		return 0, err
	}
	if len(c.rest) > 0 {
		n := copy(p, c.rest)
		if c.rest = c.rest[n:]; len(c.rest) == 0 {
			c.rest = nil
		}
		return n, nil
	}
	return c.Conn.Read(p)
}

// Write writes. Nobody has anything to say to who has not authenticated.
func (c *ownerConn) Write(p []byte) (int, error) {
	if !c.known.Load() {
		return 0, errUnauthenticated
	}
	return c.Conn.Write(p)
}

var errUnauthenticated = errors.New("backhaul: the connection is not authenticated")

// Close closes the connection.
func (c *ownerConn) Close() error {
	c.settled()
	return c.Conn.Close()
}

// CloseWrite ends one direction.
func (c *ownerConn) CloseWrite() error { return closeWrite(c.Conn) }

// NetConn returns the connection beneath.
func (c *ownerConn) NetConn() net.Conn { return c.Conn }

// Transparent returns it as one whose ends are this one's.
func (c *ownerConn) Transparent() net.Conn { return c.Conn }

// drained reports whether nothing is left of what was read to authenticate it.
func (c *ownerConn) drained() bool { return len(c.rest) == 0 }

// settled ends the time in which the connection may be closed for not being authenticated.
func (c *ownerConn) settled() {
	c.timer.Stop()
	c.pending.remove(c)
}

func (c *ownerConn) accept() {
	c.settled()
	c.known.Store(true)
}

// authenticate does an owner's part, once.
func (c *ownerConn) authenticate() error {
	c.once.Do(func() {
		if c.err = c.admit(); c.err != nil {
			c.settled()
			c.Conn.Close()
			if c.owner.denied != nil {
				if d, ok := errors.AsType[*strangerError](c.err); ok {
					c.owner.denied(c.RemoteAddr().String(), d)
				}
			}
		}
	})
	return c.err
}

// strangerError says why a connection was refused.
type strangerError struct{ words string }

func (e *strangerError) Error() string { return "backhaul: the connection was refused: " + e.words }

func (c *ownerConn) admit() error {
	t := tlsOf(c.Conn)
	if t != nil {
		if err := t.HandshakeContext(context.Background()); err != nil { // bounded by the timer
			c.linger(t.NetConn()) // our alert says why
			return err
		}
		if s := t.ConnectionState(); c.owner.certificate != nil && len(s.VerifiedChains) > 0 {
			node, err := c.owner.certificate(s.PeerCertificates[0])
			if err != nil {
				return c.forbid("the certificate is not accepted: " + err.Error())
			}
			c.node = node
			c.accept()
		}
	}
	if c.owner.anyNode {
		c.accept()
	}
	if c.known.Load() && c.wait > 0 {
		if err := c.Conn.SetReadDeadline(time.Now().Add(c.wait)); err != nil {
			return err
		}
	}
	buf := make([]byte, 512)
	n, err := c.Conn.Read(buf)
	if err != nil {
		return err
	}
	if !hop.BeginsHello(buf[:n]) {
		if c.known.Load() {
			c.rest = buf[:n]
			return nil
		}
		return c.forbid(remedyKey)
	}
	more, err := c.full(buf, n, hop.HelloSize)
	if err != nil {
		return err
	}
	hello := buf[:hop.HelloSize]
	var binding []byte
	if t != nil {
		if binding, err = bindingOf(t); err != nil {
			return err
		}
	}
	key, status := hop.JudgeHello(hello, c.owner.keys, binding)
	if status > hop.AuthConfirm {
		c.Conn.Write(hop.AppendRefusal(nil, status)) //nolint:errcheck // it is closed in any case
		c.linger(c.Conn)
		return &strangerError{hop.OwnerWords[status]}
	}
	k := c.owner.keys[key]
	reply := hop.AppendReply(make([]byte, 0, hop.ReplySize), status, k, hello, newNonce(), binding)
	if _, err := c.Conn.Write(reply); err != nil {
		return err
	}
	rest := buf[hop.HelloSize:more]
	if status == hop.AuthConfirm {
		proof := make([]byte, hop.ProofSize)
		n := copy(proof, rest)
		rest = rest[n:]
		if _, err := io.ReadFull(c.Conn, proof[n:]); err != nil {
			return err
		}
		if !hop.Confirms(proof, k, hello, reply) {
			c.linger(c.Conn)
			return &strangerError{"it sent a preface that it cannot have made: a copy, perhaps"}
		}
	}
	c.rest = rest
	c.accept()
	return nil
}

// full reads until there are at least that many bytes in buf, and returns how many there are.
func (c *ownerConn) full(buf []byte, have, want int) (int, error) {
	if have >= want {
		return have, nil
	}
	n, err := io.ReadAtLeast(c.Conn, buf[have:], want-have)
	return have + n, err
}

const (
	remedyKey = "only nodes of the cluster are served here: set Config.Key to this node's HandlerConfig.Key, or show a certificate"
	remedy    = "this connection is not authenticated: serve the Handler with NewServer; behind another server, wrap its listener " +
		"with Handler.Listener and set its ConnContext, or let it verify client certificates and set HandlerConfig.Certificate"
)

// forbid answers who has sent no preface, in words that an edge and a person understand, and reads no request.
func (c *ownerConn) forbid(words string) error {
	c.Conn.SetWriteDeadline(time.Now().Add(lingerFor)) //nolint:errcheck // it is closed in any case
	text := "Forbidden: " + words + "\n"
	fmt.Fprintf(c.Conn, "HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n%s: %s\r\n\r\n%s",
		len(text), hop.HeaderFault, hop.AppendFault(nil, hop.FailureDenied, words), text)
	c.linger(c.Conn)
	return &strangerError{words}
}

// linger lets what was written arrive. It is bounded in time and in bytes.
func (c *ownerConn) linger(conn net.Conn) {
	closeWrite(conn)                            //nolint:errcheck // it is closed in any case
	conn.SetDeadline(time.Now().Add(lingerFor)) //nolint:errcheck
	io.CopyN(io.Discard, conn, lingerBytes)     //nolint:errcheck
}

// knows reports whether a request has come over a connection that was authenticated for this owner, and by which node
// where a certificate says so.
func (o *owner) knows(r *http.Request) (node balance.NodeID, ok bool) {
	if c, _ := r.Context().Value(ownerConnKey{}).(*ownerConn); c != nil && c.owner == o && c.known.Load() {
		return c.node, true
	}
	if o.certificate != nil && r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		if node, err := o.certificate(r.TLS.PeerCertificates[0]); err == nil {
			return node, true
		}
	}
	return "", o.anyNode
}
