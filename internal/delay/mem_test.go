package delay

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// memConn is one end of a connection in memory with buffers, like a kernel's loopback; synctest
// sees its waits.
type memConn struct {
	in, out *memPipe
}

// memBuffer is what one direction holds before writing blocks.
const memBuffer = 256 << 10

func memPair() (*memConn, *memConn) {
	a, b := newMemPipe(), newMemPipe()
	return &memConn{a, b}, &memConn{b, a}
}

type memPipe struct {
	mu            sync.Mutex
	cond          *sync.Cond
	buf           []byte
	ended, broken bool
	writeDeadline time.Time
}

func newMemPipe() *memPipe {
	p := new(memPipe)
	p.cond = sync.NewCond(&p.mu)
	return p
}

func (c *memConn) Read(b []byte) (int, error) {
	p := c.in
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.buf) == 0 && !p.ended && !p.broken {
		p.cond.Wait()
	}
	switch {
	case p.broken:
		return 0, net.ErrClosed
	case len(p.buf) == 0:
		return 0, io.EOF
	}
	n := copy(b, p.buf)
	p.buf = p.buf[n:]
	p.cond.Broadcast()
	return n, nil
}

func (c *memConn) Write(b []byte) (n int, err error) {
	p := c.out
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(b) > 0 {
		switch {
		case p.broken || p.ended:
			return n, errReset
		case !p.writeDeadline.IsZero() && !time.Now().Before(p.writeDeadline):
			return n, os.ErrDeadlineExceeded
		case len(p.buf) >= memBuffer:
			p.cond.Wait()
			continue
		}
		k := min(len(b), memBuffer-len(p.buf))
		p.buf = append(p.buf, b[:k]...)
		b, n = b[k:], n+k
		p.cond.Broadcast()
	}
	return n, nil
}

var errReset = errors.New("reset by peer")

func (c *memConn) CloseWrite() error {
	c.out.end(false)
	return nil
}

// Close ends both directions: the peer reads what was written, and then the end; its writes fail.
func (c *memConn) Close() error {
	c.out.end(false)
	c.in.end(true)
	return nil
}

func (p *memPipe) end(broken bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended, p.broken = true, p.broken || broken
	p.cond.Broadcast()
}

func (c *memConn) SetWriteDeadline(t time.Time) error {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	c.out.writeDeadline = t
	time.AfterFunc(time.Until(t), func() {
		c.out.mu.Lock()
		defer c.out.mu.Unlock()
		c.out.cond.Broadcast()
	})
	return nil
}

func (c *memConn) LocalAddr() net.Addr             { return memAddr{} }
func (c *memConn) RemoteAddr() net.Addr            { return memAddr{} }
func (c *memConn) SetDeadline(time.Time) error     { return errors.ErrUnsupported }
func (c *memConn) SetReadDeadline(time.Time) error { return errors.ErrUnsupported }

type memAddr struct{}

func (memAddr) Network() string { return "mem" }
func (memAddr) String() string  { return "mem" }

// memListener hands out the far ends of dialled connections.
type memListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newMemListener() *memListener {
	return &memListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *memListener) dial() (net.Conn, error) {
	near, far := memPair()
	select {
	case l.conns <- far:
		return near, nil
	case <-l.done:
		return nil, errReset
	}
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *memListener) Addr() net.Addr { return memAddr{} }
