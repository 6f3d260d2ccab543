// Package relay emulates the network between the nodes of a fleet that runs on one host: every
// connection goes through it, takes as long as between real places, and can be held up.
package relay

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// Net is a network. All methods are safe for concurrent use.
type Net struct {
	delay func(from, to string) time.Duration

	mu     sync.Mutex
	names  map[string]string // of addresses
	cut    map[[2]string]bool
	change chan struct{} // closed when cut or late changes
	late   time.Duration
	doors  []net.Listener
	conns  map[net.Conn]bool
	over   bool
	wg     sync.WaitGroup
}

// New returns a network. delay returns how long a byte takes between two nodes; it is called
// concurrently.
func New(delay func(from, to string) time.Duration) *Net {
	return &Net{
		delay: delay, names: map[string]string{}, cut: map[[2]string]bool{},
		change: make(chan struct{}), conns: map[net.Conn]bool{},
	}
}

// Name says which node listens at an address.
func (n *Net) Name(addr, name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.names[addr] = name
}

// Cut holds up everything between two nodes, in both directions, until they are joined. It is like
// a torn cable: neither side is told. A node's own name twice cuts it off from itself.
func (n *Net) Cut(a, b string) { n.set(a, b, true) }

// Join ends a cut.
func (n *Net) Join(a, b string) { n.set(a, b, false) }

// Late delays every byte by d, on top of the usual delay.
func (n *Net) Late(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.late = d
}

func (n *Net) set(a, b string, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[pair(a, b)] = cut
	close(n.change)
	n.change = make(chan struct{})
}

func pair(a, b string) [2]string { return [2]string{min(a, b), max(a, b)} }

// wait waits until t, and until the two nodes are not cut off from each other.
func (n *Net) wait(t time.Time, a, b string) bool {
	time.Sleep(time.Until(t))
	for {
		n.mu.Lock()
		cut, over, change := n.cut[pair(a, b)], n.over, n.change
		n.mu.Unlock()
		if over || !cut {
			return !over
		}
		<-change
	}
}

func (n *Net) takes(from, to string) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.delay(from, to) + n.late
}

// Door opens the door through which a node reaches all others; see [Dial].
func (n *Net) Door(from string) (addr string, err error) {
	return n.listen(func(c net.Conn) (net.Conn, string, string, error) {
		in := bufio.NewReaderSize(c, 256)
		line, err := in.ReadString('\n')
		if err != nil {
			return nil, "", "", err
		}
		addr := strings.TrimSpace(line)
		n.mu.Lock()
		to := n.names[addr]
		n.mu.Unlock()
		if to == "" {
			return nil, "", "", fmt.Errorf("relay: nobody listens at %s", addr)
		}
		if !n.wait(time.Now().Add(n.takes(from, to)), from, to) {
			return nil, "", "", net.ErrClosed
		}
		out, err := net.Dial("tcp", addr)
		if err == nil && n.wait(time.Now().Add(n.takes(from, to)), from, to) {
			_, err = c.Write([]byte{'+'})
		}
		return out, from, to, err
	})
}

// Pipe opens an address through which the node from reaches the node to, which listens at target.
func (n *Net) Pipe(from, to, target string) (addr string, err error) {
	return n.listen(func(net.Conn) (net.Conn, string, string, error) {
		if !n.wait(time.Now().Add(n.takes(from, to)), from, to) {
			return nil, "", "", net.ErrClosed
		}
		out, err := net.Dial("tcp", target)
		return out, from, to, err
	})
}

func (n *Net) listen(
	connect func(net.Conn) (out net.Conn, from, to string, err error),
) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	n.mu.Lock()
	n.doors = append(n.doors, l)
	n.mu.Unlock()
	n.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n.wg.Go(func() {
				defer n.drop(c)
				if !n.keep(c) {
					return
				}
				out, from, to, err := connect(c)
				if out == nil || err != nil {
					return
				}
				defer n.drop(out)
				if !n.keep(out) {
					return
				}
				var both sync.WaitGroup
				both.Go(func() { n.carry(out, c, from, to) })
				both.Go(func() { n.carry(c, out, to, from) })
				both.Wait()
			})
		}
	})
	return l.Addr().String(), nil
}

func (n *Net) keep(c net.Conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conns[c] = true
	return !n.over
}

func (n *Net) drop(c net.Conn) {
	c.Close()
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.conns, c)
}

// piece is the data of one read; nil is the end.
type piece struct {
	bytes []byte
	due   time.Time
	err   error
}

// piecesMax bounds the data in flight, in pieces of at most 16 KiB: 8 MiB in all.
const piecesMax = 512

// carry copies what arrives from src to dst, delayed.
func (n *Net) carry(dst, src net.Conn, from, to string) {
	way := make(chan piece, piecesMax)
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(way)
		for {
			b := make([]byte, 16<<10)
			k, err := src.Read(b)
			due := time.Now().Add(n.takes(from, to))
			if k > 0 {
				way <- piece{bytes: b[:k], due: due}
			}
			if err != nil {
				way <- piece{due: due, err: err}
				return
			}
		}
	})
	defer reader.Wait()
	ok := true
	for p := range way {
		if !ok || !n.wait(p.due, from, to) {
			ok = false
			continue
		}
		switch {
		case p.err == io.EOF:
			dst.(*net.TCPConn).CloseWrite()
		case p.err != nil: // broken off
			ok = false
		default:
			_, err := dst.Write(p.bytes)
			ok = err == nil
		}
		if !ok { // the other side learns of it after the delay
			dst.(*net.TCPConn).SetLinger(0)
			dst.Close()
			src.Close()
		}
	}
}

// Close ends the network and all connections.
func (n *Net) Close() {
	n.mu.Lock()
	n.over = true
	close(n.change)
	n.change = make(chan struct{})
	for _, l := range n.doors {
		l.Close()
	}
	for c := range n.conns {
		c.Close()
	}
	n.mu.Unlock()
	n.wg.Wait()
}

// Dial connects to an address through a door.
func Dial(ctx context.Context, door, addr string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", door)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	_, err = fmt.Fprintln(c, addr)
	if err == nil {
		_, err = io.ReadFull(c, make([]byte, 1))
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("relay: %s cannot be reached: %w", addr, err)
	}
	return c, nil
}
