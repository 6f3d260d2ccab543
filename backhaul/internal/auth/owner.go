package auth

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
	"github.com/ebbkit/ebb/backhaul/internal/tcp"
	"github.com/ebbkit/ebb/balance"
)

// Owner says which edges a Handler accepts.
type Owner struct {
	Keys        []hop.AuthKey
	Certificate func(*x509.Certificate) (balance.NodeID, error) // nil: certificates are not looked at
	AnyNode     bool
	Denied      func(error) // called with a *net.OpError that holds the address; nil: not reported
}

func NewOwnerListener(l net.Listener, o *Owner) net.Listener {
	return &ownerListener{
		Listener: l, owner: o, pending: NewPending(DefaultUnauthenticated), limit: AuthTimeout,
	}
}

const (
	// DefaultUnauthenticated suffices for a thousand nodes that connect at once, at a few kilobytes
	// each.
	DefaultUnauthenticated = 1024
	// LingerFor is how long a refused connection stays open so that the refusal arrives: closing it
	// with unread bytes would reset it.
	LingerFor   = 500 * time.Millisecond
	LingerBytes = 64 << 10
)

type ownerListener struct {
	net.Listener
	owner   *Owner
	pending *Pending
	limit   time.Duration
}

// Accept returns the next connection. Nothing has been read from it yet.
func (l *ownerListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return NewOwnerConn(c, l.owner, l.pending, l.limit), nil
}

type ownerConnKey struct{}

// Context returns ctx with the connection in it.
func (c *OwnerConn) Context(ctx context.Context) context.Context {
	return context.WithValue(ctx, ownerConnKey{}, c)
}

// Pending bounds the connections that have not authenticated. The oldest is closed first: a node
// needs two round trips, so an attacker has to open that many connections within them to keep it
// out.
type Pending struct {
	max int // negative: no bound

	mu    sync.Mutex
	conns list.List // of *ownerConn
}

func NewPending(most int) *Pending { return &Pending{max: most} }

func (p *Pending) add(c *OwnerConn) {
	var oldest *OwnerConn
	p.mu.Lock()
	c.place = p.conns.PushBack(c)
	if p.max >= 0 && p.conns.Len() > p.max {
		oldest = p.conns.Remove(p.conns.Front()).(*OwnerConn)
		oldest.place = nil
	}
	p.mu.Unlock()
	if oldest != nil {
		oldest.Conn.Close()
	}
}

func (p *Pending) remove(c *OwnerConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.place != nil {
		p.conns.Remove(c.place)
		c.place = nil
	}
}

func (p *Pending) Len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conns.Len()
}

// OwnerConn is a connection at an owner. The first read authenticates it; if the connection is
// refused, that read fails.
type OwnerConn struct {
	net.Conn
	Owner   *Owner
	pending *Pending
	place   *list.Element // in pending, whose lock guards it
	timer   *time.Timer   // bounds the time in pending
	// bounds the wait for the first byte where no key is required; 0: only the caller's deadline does
	Wait time.Duration

	once sync.Once
	err  error
	rest []byte // read, but not yet handed on

	Known atomic.Bool    // the peer has been accepted
	node  balance.NodeID // from its certificate; "" where a key proved it
}

func NewOwnerConn(c net.Conn, by *Owner, p *Pending, limit time.Duration) *OwnerConn {
	o := &OwnerConn{Conn: c, Owner: by, pending: p}
	o.timer = time.AfterFunc(cmp.Or(limit, AuthTimeout), func() { c.Close() })
	p.add(o)
	return o
}

// Read reads what follows the preface.
func (c *OwnerConn) Read(p []byte) (int, error) {
	if err := c.Authenticate(); err != nil {
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

// Write writes. It fails before the peer has authenticated.
func (c *OwnerConn) Write(p []byte) (int, error) {
	if !c.Known.Load() {
		return 0, errUnauthenticated
	}
	return c.Conn.Write(p)
}

var errUnauthenticated = errors.New("backhaul: the connection is not authenticated")

// Close closes the connection.
func (c *OwnerConn) Close() error {
	c.settled()
	return c.Conn.Close()
}

// CloseWrite ends one direction.
func (c *OwnerConn) CloseWrite() error { return tcp.CloseWrite(c.Conn) }

// NetConn returns the connection beneath.
func (c *OwnerConn) NetConn() net.Conn { return c.Conn }

// Transparent returns the connection beneath, which ends when this one ends.
func (c *OwnerConn) Transparent() net.Conn { return c.Conn }

// Drained reports whether everything that was read to authenticate it has been handed on.
func (c *OwnerConn) Drained() bool { return len(c.rest) == 0 }

// settled ends the time in which the connection may be closed because it is not authenticated.
func (c *OwnerConn) settled() {
	c.timer.Stop()
	c.pending.remove(c)
}

func (c *OwnerConn) accept() {
	c.settled()
	c.Known.Store(true)
}

// Authenticate runs the owner's side, once.
func (c *OwnerConn) Authenticate() error {
	c.once.Do(func() {
		if c.err = c.admit(); c.err != nil {
			c.settled()
			c.Conn.Close()
			if c.Owner.Denied != nil {
				if d, ok := errors.AsType[*strangerError](c.err); ok {
					c.Owner.Denied(
						&net.OpError{Op: "accept", Net: "tcp", Addr: c.RemoteAddr(), Err: d},
					)
				}
			}
		}
	})
	return c.err
}

// strangerError says why a connection was refused.
type strangerError struct{ words string }

func (e *strangerError) Error() string { return "backhaul: the connection was refused: " + e.words }

func (c *OwnerConn) admit() error {
	t := TLSOf(c.Conn)
	if t != nil {
		if err := t.HandshakeContext(context.Background()); err != nil { // bounded by the timer
			c.linger(t.NetConn()) // our alert says why
			return err
		}
		if s := t.ConnectionState(); c.Owner.Certificate != nil && len(s.VerifiedChains) > 0 {
			node, err := c.Owner.Certificate(s.PeerCertificates[0])
			if err != nil {
				return c.forbid("the certificate is not accepted: " + err.Error())
			}
			c.node = node
			c.accept()
		}
	}
	if c.Owner.AnyNode {
		c.accept()
	}
	if c.Known.Load() && c.Wait > 0 {
		if err := c.Conn.SetReadDeadline(time.Now().Add(c.Wait)); err != nil {
			return err
		}
	}
	buf := make([]byte, 512)
	n, err := c.Conn.Read(buf)
	if err != nil {
		return err
	}
	if !hop.BeginsHello(buf[:n]) {
		if c.Known.Load() {
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
		if binding, err = BindingOf(t); err != nil {
			return err
		}
	}
	key, status := hop.JudgeHello(hello, c.Owner.Keys, binding)
	if status > hop.AuthConfirm {
		c.Conn.Write(hop.AppendRefusal(nil, status)) //nolint:errcheck // it is closed in any case
		c.linger(c.Conn)
		return &strangerError{hop.OwnerWords[status]}
	}
	k := c.Owner.Keys[key]
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

// full reads until buf holds at least want bytes, and returns how many it holds.
func (c *OwnerConn) full(buf []byte, have, want int) (int, error) {
	if have >= want {
		return have, nil
	}
	n, err := io.ReadAtLeast(c.Conn, buf[have:], want-have)
	return have + n, err
}

const (
	remedyKey = "only nodes of the cluster are served here: set Config.Keys as this node's HandlerConfig.Keys, or show a certificate"
	Remedy    = "this connection is not authenticated: serve the Handler with NewServer; behind another server, wrap its listener " +
		"with Handler.Listener and set its ConnContext, or let it verify client certificates and set HandlerConfig.Certificate"
)

// forbid answers a peer that has sent no preface, in words that an edge and a person understand. It
// reads no request.
func (c *OwnerConn) forbid(words string) error {
	c.Conn.SetWriteDeadline(time.Now().Add(LingerFor)) //nolint:errcheck // it is closed in any case
	text := "Forbidden: " + words + "\n"
	fmt.Fprintf(
		c.Conn,
		"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n%s: %s\r\n\r\n%s",
		len(text), hop.HeaderFault, hop.AppendFault(nil, hop.FailureDenied, words), text,
	)
	c.linger(c.Conn)
	return &strangerError{words}
}

// linger lets the bytes already written arrive. It is bounded in time and in bytes.
func (c *OwnerConn) linger(conn net.Conn) {
	tcp.CloseWrite(conn)                        //nolint:errcheck // it is closed in any case
	conn.SetDeadline(time.Now().Add(LingerFor)) //nolint:errcheck
	io.CopyN(io.Discard, conn, LingerBytes)     //nolint:errcheck
}

// Knows reports whether a request came over a connection that this owner has authenticated, and
// names the node if a certificate does.
func (o *Owner) Knows(r *http.Request) (node balance.NodeID, ok bool) {
	if c, _ := r.Context().Value(ownerConnKey{}).(*OwnerConn); c != nil && c.Owner == o &&
		c.Known.Load() {
		return c.node, true
	}
	if o.Certificate != nil && r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		if node, err := o.Certificate(r.TLS.PeerCertificates[0]); err == nil {
			return node, true
		}
	}
	return "", o.AnyNode
}
