package delay

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// linger is how long, after the last byte was due, a closed connection still waits for a peer
// that does not read.
const linger = 5 * time.Second

// Conn returns c as seen from its dialling side over the link: what is written reaches the peer
// half a round trip later, and what the peer writes can be read half a round trip later, as can the
// end of its stream and its errors. Order is kept, and there is no gap between bytes. Only the
// limit of 8 MiB on their way in each direction bounds the throughput: beyond it writing blocks,
// here or at the peer. If the delay is zero, c itself is returned.
//
// The connection belongs to the result. Deadlines apply to the result's calls. CloseWrite works if
// c has it. Close returns at once; as with a kernel's socket, bytes written before it still arrive,
// followed by the end of the stream.
func (l *Links) Conn(c net.Conn, from, to string) net.Conn {
	l.mu.Lock()
	k := l.link(from, to)
	l.mu.Unlock()
	if k.half() == 0 {
		return c
	}
	d := &conn{inner: c, links: l, in: newFlow(k), out: newFlow(k), writing: make(chan struct{}, 1)}
	if !l.register(d, d.abort, 2) {
		c.Close()
		return c
	}
	go d.send()
	go d.receive()
	return d
}

// conn is a delayed connection. One goroutine for each direction moves bytes between a flow and
// the inner connection; send also closes it.
type conn struct {
	inner   net.Conn
	links   *Links
	in, out *flow
	writing chan struct{} // holds a token while a Write is under way: concurrent ones do not mix

	mu                  sync.Mutex
	closed, writeClosed bool
}

// The errors with which the outward flow ends; they tell send what to do.
var (
	errCloseWrite = errors.New("close write")
	errClose      = errors.New("close")
)

// send delivers due bytes to the peer, until closed.
func (c *conn) send() {
	defer c.links.wg.Done()
	defer c.links.unregister(c)
	defer c.inner.Close()
	for {
		p, err := c.out.next()
		switch {
		case err == nil:
			n, err := c.inner.Write(p)
			c.out.done(n)
			if err != nil && !c.failed(err) {
				return
			}
		case err == errCloseWrite:
			c.out.reopen()
			if err := c.inner.(closeWriter).CloseWrite(); err != nil && !c.failed(err) {
				return
			}
		default: // errClose, or aborted
			return
		}
	}
}

// failed reports an error at the peer to this side, half a round trip later. It returns false when
// nobody is left to hear of it.
func (c *conn) failed(err error) bool {
	if !c.out.pause() {
		return false
	}
	c.out.refuse(err)
	return true
}

// receive reads what the peer sends, as fast as there is room, until its end.
func (c *conn) receive() {
	defer c.links.wg.Done()
	buf := make([]byte, 32<<10)
	for {
		n, err := c.inner.Read(buf)
		if _, closed := c.in.write(buf[:n]); closed != nil {
			return
		}
		if err != nil {
			c.in.finish(err, err)
			return
		}
	}
}

func (c *conn) abort() {
	c.in.abort(net.ErrClosed)
	c.out.abort(net.ErrClosed)
	c.inner.Close()
}

func (c *conn) Read(p []byte) (int, error) { return c.in.read(p) }

func (c *conn) Write(p []byte) (int, error) {
	c.writing <- struct{}{}
	defer func() { <-c.writing }()
	return c.out.write(p)
}

// Close ends both directions here at once, and at the peer after the bytes that are on their way.
func (c *conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.closed = true
	c.in.abort(net.ErrClosed)
	due := c.out.finish(errClose, net.ErrClosed)
	c.inner.SetWriteDeadline(due.Add(linger))
	return nil
}

type closeWriter interface{ CloseWrite() error }

// CloseWrite ends the stream to the peer; reading goes on.
func (c *conn) CloseWrite() error {
	if _, ok := c.inner.(closeWriter); !ok {
		return fmt.Errorf("delay: CloseWrite of a %T: %w", c.inner, errors.ErrUnsupported)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	if !c.writeClosed {
		c.writeClosed = true
		c.out.finish(errCloseWrite, io.ErrClosedPipe)
	}
	return nil
}

func (c *conn) LocalAddr() net.Addr                { return c.inner.LocalAddr() }
func (c *conn) RemoteAddr() net.Addr               { return c.inner.RemoteAddr() }
func (c *conn) SetReadDeadline(t time.Time) error  { return c.in.setDeadline(&c.in.get, t) }
func (c *conn) SetWriteDeadline(t time.Time) error { return c.out.setDeadline(&c.out.put, t) }
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}
