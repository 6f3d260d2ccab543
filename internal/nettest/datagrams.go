package nettest

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Datagrams is a packet network in memory, for synctest bubbles: packets take virtual time.
type Datagrams struct {
	mu     sync.Mutex
	link   Link
	conns  map[netip.AddrPort]*PacketConn
	bytes  map[netip.AddrPort]int // sent, by sender
	flying sync.WaitGroup         // packets
}

// Link says what becomes of a packet: when its copies arrive, none for a lost one. It may change b.
type Link func(from, to netip.AddrPort, b []byte) []time.Duration

// NewDatagrams returns a network whose packets arrive as link says; nil means at once.
func NewDatagrams(link Link) *Datagrams {
	return &Datagrams{
		link: link, conns: make(map[netip.AddrPort]*PacketConn), bytes: make(map[netip.AddrPort]int),
	}
}

// SetLink changes what becomes of the packets sent from now on.
func (n *Datagrams) SetLink(link Link) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.link = link
}

// Sent returns how many bytes were sent from an address.
func (n *Datagrams) Sent(from netip.AddrPort) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.bytes[from]
}

// Wait returns when no packet is under way: in a bubble no time passes after the test.
func (n *Datagrams) Wait() { n.flying.Wait() }

// Listen binds an address; the last one who does gets its packets.
func (n *Datagrams) Listen(self netip.AddrPort) *PacketConn {
	c := &PacketConn{
		net: n, self: self, in: make(chan packet, 4096), closed: make(chan struct{}),
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conns[self] = c
	return c
}

func (n *Datagrams) send(from, to netip.AddrPort, b []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.bytes[from] += len(b)
	b = slices.Clone(b)
	after := []time.Duration{0}
	if n.link != nil {
		after = n.link(from, to, b)
	}
	for _, d := range after {
		if d == 0 {
			n.deliver(from, to, b)
			continue
		}
		// Not time.AfterFunc: the race detector sometimes crashes where a timer of a bubble starts a
		// goroutine.
		n.flying.Go(func() {
			time.Sleep(d)
			n.Deliver(from, to, b)
		})
	}
}

// Deliver hands a packet over at once, whoever has sent it.
func (n *Datagrams) Deliver(from, to netip.AddrPort, b []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.deliver(from, to, b)
}

func (n *Datagrams) deliver(from, to netip.AddrPort, b []byte) {
	c := n.conns[to]
	if c == nil {
		return
	}
	select {
	case c.in <- packet{from, b}:
	default: // its buffer is full
	}
}

// PacketConn is a bound address of Datagrams. It is a net.PacketConn without deadlines.
type PacketConn struct {
	net    *Datagrams
	self   netip.AddrPort
	in     chan packet
	closed chan struct{}
	once   sync.Once
}

type packet struct {
	from netip.AddrPort
	b    []byte
}

// ReadFrom implements net.PacketConn.
func (c *PacketConn) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case p := <-c.in:
		return copy(b, p.b), net.UDPAddrFromAddrPort(p.from), nil
	case <-c.closed:
		return 0, nil, net.ErrClosed
	}
}

// WriteTo implements net.PacketConn.
func (c *PacketConn) WriteTo(b []byte, to net.Addr) (int, error) {
	select {
	case <-c.closed:
		return 0, net.ErrClosed
	default:
	}
	addr := to.(*net.UDPAddr).AddrPort()
	c.net.send(c.self, netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()), b)
	return len(b), nil
}

// Close implements net.PacketConn.
func (c *PacketConn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.net.mu.Lock()
		defer c.net.mu.Unlock()
		if c.net.conns[c.self] == c {
			delete(c.net.conns, c.self)
		}
	})
	return nil
}

// LocalAddr implements net.PacketConn.
func (c *PacketConn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(c.self) }

// SetDeadline implements net.PacketConn; it does nothing.
func (c *PacketConn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.PacketConn; it does nothing.
func (c *PacketConn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.PacketConn; it does nothing.
func (c *PacketConn) SetWriteDeadline(time.Time) error { return nil }
