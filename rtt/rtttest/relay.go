package rtttest

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Path is what a [Relay] does to the packets of one direction. The zero value passes them on at
// once.
type Path struct {
	Delay     time.Duration // every packet waits this long
	Jitter    time.Duration // and up to this much more, uniformly, so that packets overtake each other
	Loss      float64       // share of packets that are dropped, 0 to 1
	Duplicate float64       // share of packets that are sent twice
}

// Relay is a UDP relay in this process that delays packets. What is sent to its address reaches the
// node behind it, and answers come from that same address, both late. It is for demonstrations and
// tests: delays are kept by timers, so a busy machine adds to them now and then.
type Relay struct {
	front *net.UDPConn
	to    netip.AddrPort
	out   atomic.Pointer[Path]
	back  atomic.Pointer[Path]
	wg    sync.WaitGroup

	mu     sync.Mutex
	closed bool
	behind map[netip.AddrPort]*net.UDPConn // a socket for every one who sends
}

// maxClients bounds how many senders one Relay serves.
const maxClients = 1024

// NewRelay starts a relay on 127.0.0.1 in front of the given address. Half a round trip each way is
// NewRelay(to, Path{Delay: rtt/2}, Path{Delay: rtt/2}). End it with Close.
func NewRelay(to netip.AddrPort, out, back Path) (*Relay, error) {
	front, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	r := &Relay{front: front, to: netip.AddrPortFrom(to.Addr().Unmap(), to.Port()), behind: make(map[netip.AddrPort]*net.UDPConn)}
	r.Set(out, back)
	r.wg.Go(r.forward)
	return r, nil
}

// Addr is the address to give to peers instead of the node's own.
func (r *Relay) Addr() netip.AddrPort {
	return r.front.LocalAddr().(*net.UDPAddr).AddrPort()
}

// Set changes both directions, from the next packet on. It is safe for concurrent use.
func (r *Relay) Set(out, back Path) {
	r.out.Store(&out)
	r.back.Store(&back)
}

// Close ends the relay and waits for its goroutines.
func (r *Relay) Close() error {
	r.mu.Lock()
	r.closed = true
	err := r.front.Close()
	for _, c := range r.behind {
		c.Close()
	}
	r.mu.Unlock()
	r.wg.Wait()
	return err
}

func (r *Relay) forward() {
	buf := make([]byte, 2048)
	for {
		n, from, err := r.front.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		c := r.client(from)
		if c == nil {
			continue
		}
		pass(r.out.Load(), buf[:n], func(b []byte) { c.WriteToUDPAddrPort(b, r.to) })
	}
}

// client returns the socket that stands for from, nil when there can be none.
func (r *Relay) client(from netip.AddrPort) *net.UDPConn {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.behind[from]; c != nil || r.closed || len(r.behind) >= maxClients {
		return c
	}
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil
	}
	r.behind[from] = c
	r.wg.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, _, err := c.ReadFromUDPAddrPort(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				pass(r.back.Load(), buf[:n], func(b []byte) { r.front.WriteToUDPAddrPort(b, from) })
			}
		}
	})
	return c
}

// pass does to one packet what p says. A packet that is under way when the relay closes is lost.
func pass(p *Path, b []byte, send func([]byte)) {
	if p.Loss > 0 && rand.Float64() < p.Loss {
		return
	}
	copies := 1
	if p.Duplicate > 0 && rand.Float64() < p.Duplicate {
		copies = 2
	}
	for range copies {
		d := p.Delay
		if p.Jitter > 0 {
			d += rand.N(p.Jitter)
		}
		if d <= 0 {
			send(b)
			continue
		}
		own := append([]byte(nil), b...)
		time.AfterFunc(d, func() { send(own) })
	}
}
