package auth

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/tcp"
)

// AuthTimeout bounds the preface where no other deadline does.
const AuthTimeout = 10 * time.Second

// DeniedError says that this node and a peer do not accept each other. It is reported before the
// peer acts on anything.
type DeniedError struct {
	Peer  string
	Words string
	err   error
}

func (e *DeniedError) Error() string {
	return fmt.Sprintf(
		"backhaul: owner %q and this node do not accept each other: %s", e.Peer, e.Words,
	)
}

func (e *DeniedError) Unwrap() error { return e.err }

// Denied reports whether a connection failed because its ends do not accept each other.
func Denied(err error) bool {
	_, ok := errors.AsType[*DeniedError](err)
	return ok
}

// TLSOf returns c if it is a TLS connection, else the TLS connection beneath it, or nil.
func TLSOf(c net.Conn) *tls.Conn {
	t, _ := tcp.Beneath[*tls.Conn](c)
	return t
}

// BindingOf returns the keying material that a key's proofs are bound to.
func BindingOf(t *tls.Conn) ([]byte, error) {
	s := t.ConnectionState()
	b, err := s.ExportKeyingMaterial(hop.ExporterLabel, nil, hop.BindingSize)
	if err != nil {
		return nil, fmt.Errorf(
			"backhaul: the key cannot be bound to this TLS connection; set tls.Config.MinVersion to tls.VersionTLS13 at both ends: %w",
			err,
		)
	}
	return b, nil
}

func newNonce() (n [hop.NonceSize]byte) {
	rand.Read(n[:]) //nolint:errcheck // it does not fail
	return n
}

// Authenticate runs the edge's side on a new connection to an owner, and returns the connection to
// use: without TLS once the owner has proven itself, over TLS as soon as the handshake is under
// way. whole says that everything written first may be sent before the owner's proof, as in HTTP/2,
// where a connection begins with nothing that comes from a request.
func Authenticate(
	ctx context.Context, c net.Conn, peer string, keys []hop.AuthKey, whole bool,
) (net.Conn, error) {
	t := TLSOf(c)
	if t == nil && len(keys) == 0 {
		return c, nil
	}
	ctx, cancel := context.WithTimeout(ctx, AuthTimeout)
	defer cancel()
	if t == nil {
		return c, authenticateInClear(ctx, c, peer, keys)
	}
	if err := t.HandshakeContext(ctx); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, tlsDenied(peer, err)
	}
	e := NewEdgeConn(c, peer, keys, whole)
	if e.settled.Load() {
		return e, nil
	}
	var err error
	if e.binding, err = BindingOf(t); err != nil {
		return nil, &DeniedError{peer, err.Error(), err}
	}
	e.hello = hop.AppendHello(make([]byte, 0, hop.HelloSize), keys, newNonce(), e.binding)
	return e, nil
}

// authenticateInClear waits until the owner has proven itself, and then proves this node.
func authenticateInClear(ctx context.Context, c net.Conn, peer string, keys []hop.AuthKey) error {
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	err := func() error {
		hello := hop.AppendHello(make([]byte, 0, hop.HelloSize), keys, newNonce(), nil)
		if _, err := c.Write(hello); err != nil {
			return err
		}
		reply, err := readReply(c)
		if err != nil {
			return err
		}
		key, why := hop.JudgeReply(reply, hello, keys, nil)
		if why != "" {
			return &DeniedError{Peer: peer, Words: string(why)}
		}
		proof := hop.Confirmation(keys[key], hello, reply)
		_, err = c.Write(proof[:])
		return err
	}()
	if !stop() {
		return context.Cause(ctx)
	}
	return err
}

// readReply reads an owner's reply to a hello. Anything else that the owner sends may be shorter.
func readReply(c net.Conn) ([]byte, error) {
	var b [hop.ReplySize]byte
	n, err := io.ReadAtLeast(c, b[:], hop.MagicSize)
	if n >= hop.MagicSize && bytes.HasPrefix(b[:], []byte(hop.ReplyMagic)) {
		m := 0
		m, err = io.ReadFull(c, b[n:])
		n += m
	}
	if n < hop.MagicSize || err != nil {
		return nil, fmt.Errorf("backhaul: the owner ended the connection during the preface: %w", err)
	}
	return b[:n], nil
}

// tlsDenied separates rejected certificates from all other errors of a handshake.
func tlsDenied(peer string, err error) error {
	if v, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return &DeniedError{
			peer,
			"this node does not accept its certificate; see tls.Config.RootCAs and ServerName: " + v.Err.Error(),
			err,
		}
	}
	if alert, ok := remoteAlert(err); ok && aboutCertificates(alert) {
		return &DeniedError{
			peer,
			"it does not accept this node's certificate; see tls.Config.Certificates here and ClientCAs there: " + err.Error(),
			err,
		}
	}
	return err
}

// remoteAlert returns the alert (RFC 8446, 6) with which the other end has ended a TLS connection.
// Its type is not exported by crypto/tls.
func remoteAlert(err error) (alert uint8, ok bool) {
	op, ok := errors.AsType[*net.OpError](err)
	if !ok || op.Op != "remote error" {
		return 0, false
	}
	if v := reflect.ValueOf(op.Err); v.Kind() == reflect.Uint8 {
		return uint8(v.Uint()), true
	}
	return 0, false
}

// aboutCertificates reports whether an alert rejects the receiver's certificate. A server sends
// such alerts before it reads any application data.
func aboutCertificates(alert uint8) bool {
	switch alert {
	// bad, unsupported, revoked, expired, unknown, unknown CA, access denied, required
	case 42, 43, 44, 45, 46, 48, 49, 116:
		return true
	}
	return false
}

// EdgeConn is a TLS connection to an owner. The first write sends the hello, and with it only the
// head of a request; the rest waits for the owner's proof, which the first read takes in. A server
// that rejects our certificate also says so on a read.
type EdgeConn struct {
	net.Conn
	peer    string
	keys    []hop.AuthKey
	binding []byte
	whole   bool

	once  sync.Once // sends the hello
	hello []byte
	timer atomic.Pointer[time.Timer]

	settled atomic.Bool   // the owner has proven itself, or need not
	read    atomic.Bool   // something has been read since
	turn    chan struct{} // holds a token while somebody reads the reply
	failed  error
	refused atomic.Pointer[DeniedError]
}

func NewEdgeConn(c net.Conn, peer string, keys []hop.AuthKey, whole bool) *EdgeConn {
	e := &EdgeConn{Conn: c, peer: peer, keys: keys, whole: whole, turn: make(chan struct{}, 1)}
	e.settled.Store(len(keys) == 0)
	return e
}

var endOfHead = []byte("\r\n\r\n")

// greetWith sends the hello, followed by early, unless it has been sent.
func (c *EdgeConn) greetWith(early []byte) (sent bool, err error) {
	c.once.Do(func() {
		if c.settled.Load() {
			return
		}
		sent = true
		c.timer.Store(time.AfterFunc(AuthTimeout, func() { c.Conn.Close() }))
		_, err = c.Conn.Write(append(c.hello, early...))
	})
	return sent, err
}

// Write returns only when all of p may be sent.
func (c *EdgeConn) Write(p []byte) (n int, err error) {
	if !c.settled.Load() {
		early := p
		if i := bytes.Index(p, endOfHead); i >= 0 && !c.whole {
			early = p[:i+len(endOfHead)]
		}
		sent, err := c.greetWith(early)
		if err != nil {
			return 0, err
		}
		if sent {
			n = len(early)
		}
		if n == len(p) {
			return n, nil
		}
		if err := c.settle(); err != nil {
			return n, err
		}
	}
	m, err := c.Conn.Write(p[n:])
	return n + m, err
}

// settle reads the owner's reply, or waits for the goroutine that reads it.
func (c *EdgeConn) settle() error {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	if c.settled.Load() || c.failed != nil {
		return c.failed
	}
	reply, err := readReply(c.Conn)
	if t := c.timer.Load(); t != nil && !t.Stop() {
		err = errNoReply
	}
	if err == nil {
		if _, why := hop.JudgeReply(reply, c.hello, c.keys, c.binding); why != "" {
			err = &DeniedError{Peer: c.peer, Words: string(why)}
		}
	}
	if err = c.note(err); err != nil {
		c.failed = err
		c.Conn.Close()
		return err
	}
	c.settled.Store(true)
	return nil
}

const errNoReply = tcp.TimeoutError("backhaul: the owner did not answer the preface in time")

// note keeps an error which says that the ends do not accept each other.
func (c *EdgeConn) note(err error) error {
	if err == nil {
		return nil
	}
	err = tlsDenied(c.peer, err)
	if d, ok := errors.AsType[*DeniedError](err); ok {
		c.refused.Store(d)
	}
	return err
}

// Read reads what follows the owner's reply.
func (c *EdgeConn) Read(p []byte) (int, error) {
	if !c.settled.Load() {
		if err := c.settle(); err != nil {
			return 0, err
		}
	}
	n, err := c.Conn.Read(p)
	if err != nil && !c.read.Load() {
		err = c.note(err)
	}
	if n > 0 && !c.read.Load() {
		c.read.Store(true)
	}
	return n, err
}

// CloseWrite ends one direction.
func (c *EdgeConn) CloseWrite() error { return tcp.CloseWrite(c.Conn) }

// NetConn returns the connection beneath.
func (c *EdgeConn) NetConn() net.Conn { return c.Conn }

// Transparent returns the connection beneath, which ends when this one ends.
func (c *EdgeConn) Transparent() net.Conn { return c.Conn }

// Announce sends the hello on a connection that is dialled before a request needs it.
func Announce(c net.Conn) error {
	if e, ok := c.(*EdgeConn); ok {
		_, err := e.greetWith(nil)
		return err
	}
	return nil
}

// RefusedBy returns the error of a connection whose ends do not accept each other, or nil if they
// do or the outcome is not known.
func RefusedBy(c net.Conn) error {
	if e, ok := c.(*EdgeConn); ok {
		if d := e.refused.Load(); d != nil {
			return d
		}
	}
	return nil
}
