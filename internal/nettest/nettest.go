// Package nettest has the connections that tests of several packages talk over.
package nettest

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"
)

// Pair returns the ends of a TCP connection, which the end of the test closes.
func Pair(t testing.TB) (near, far *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a.(*net.TCPConn), b.(*net.TCPConn)
}

// Pipes is a listener whose connections are in memory.
type Pipes struct {
	c    chan net.Conn
	done chan struct{}
	once sync.Once
}

// NewPipes returns an open listener.
func NewPipes() *Pipes { return &Pipes{c: make(chan net.Conn), done: make(chan struct{})} }

// Accept implements net.Listener.
func (p *Pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.c:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (p *Pipes) Close() error { p.once.Do(func() { close(p.done) }); return nil }

// Addr implements net.Listener.
func (p *Pipes) Addr() net.Addr { return &net.TCPAddr{} }

// Dial connects to the listener.
func (p *Pipes) Dial(ctx context.Context) (net.Conn, error) {
	a, b := Halves()
	select {
	case p.c <- b:
		return a, nil
	case <-p.done:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// half is one end of a connection in memory whose directions end by themselves, as those of TCP.
type half struct {
	net.Conn          // what it reads
	to       net.Conn // what it writes
}

// Halves returns the ends of a connection in memory; both have CloseWrite.
func Halves() (a, b net.Conn) {
	a1, b1 := net.Pipe()
	a2, b2 := net.Pipe()
	return &half{a1, a2}, &half{b2, b1}
}

func (h *half) Write(p []byte) (int, error) { return h.to.Write(p) }

func (h *half) CloseWrite() error { return h.to.Close() }

func (h *half) Close() error { h.to.Close(); return h.Conn.Close() }

func (h *half) SetWriteDeadline(t time.Time) error { return h.to.SetWriteDeadline(t) }

func (h *half) SetDeadline(t time.Time) error {
	h.to.SetWriteDeadline(t)
	return h.Conn.SetReadDeadline(t)
}
