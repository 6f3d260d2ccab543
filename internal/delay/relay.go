package delay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// relayQueue bounds the datagrams on their way in one direction of a relay; further ones are
	// lost, as in a full router.
	relayQueue = 4096

	// relaySources bounds the senders that a relay knows at once; a new one replaces the one that
	// has been silent for longest.
	relaySources = 256

	// relayIdle is how long a silent sender is known; replies that come later are lost.
	relayIdle = time.Minute
)

// RelayUDP starts a relay to target, and returns its address on 127.0.0.1. A datagram sent there
// reaches target half a round trip later, from a port that belongs to that sender; what target
// answers to that port reaches the sender after another half. The delay is read for each datagram.
// The relay ends with ctx or Close.
func (l *Links) RelayUDP(ctx context.Context, from, to string, target netip.AddrPort) (netip.AddrPort, error) {
	front, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return netip.AddrPort{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	l.mu.Lock()
	k := l.link(from, to)
	l.mu.Unlock()
	r := &relayUDP{
		links:   l,
		link:    k,
		ctx:     ctx,
		front:   front,
		target:  net.UDPAddrFromAddrPort(target),
		there:   courier{links: l, stop: ctx.Done(), limit: relayQueue},
		back:    courier{links: l, stop: ctx.Done(), limit: relayQueue},
		sources: make(map[netip.AddrPort]*source),
	}
	if !l.register(r, cancel, 1) {
		cancel()
		front.Close()
		return netip.AddrPort{}, net.ErrClosed
	}
	context.AfterFunc(ctx, r.closeSockets)
	go func() {
		defer l.wg.Done()
		defer l.unregister(r)
		defer cancel()
		r.serve()
	}()
	return front.LocalAddr().(*net.UDPAddr).AddrPort(), nil
}

type relayUDP struct {
	links       *Links
	link        *link
	ctx         context.Context
	front       *net.UDPConn
	target      *net.UDPAddr
	there, back courier

	mu      sync.Mutex
	sources map[netip.AddrPort]*source
}

// source is one sender and the socket that represents it at the target.
type source struct {
	addr netip.AddrPort
	conn *net.UDPConn
	used atomic.Int64 // when the last datagram came, either way; Unix nanoseconds
}

func (s *source) touch() { s.used.Store(time.Now().UnixNano()) }

// serve takes datagrams from senders until the relay ends.
func (r *relayUDP) serve() {
	buf := make([]byte, 64<<10)
	for {
		n, addr, err := r.front.ReadFromUDPAddrPort(buf)
		if r.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error of an earlier datagram, which some systems report here
		}
		s := r.source(addr)
		if s == nil {
			continue
		}
		s.touch()
		p := append([]byte(nil), buf[:n]...)
		r.there.post(r.link.half(), func() { s.conn.Write(p) })
	}
}

// source returns the sender of that address, and makes it if needed; nil if no socket is available.
func (r *relayUDP) source(addr netip.AddrPort) *source {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.sources[addr]; s != nil {
		return s
	}
	if len(r.sources) >= relaySources {
		var oldest *source
		for _, s := range r.sources {
			if oldest == nil || s.used.Load() < oldest.used.Load() {
				oldest = s
			}
		}
		r.forget(oldest)
	}
	conn, err := net.DialUDP("udp", nil, r.target)
	if err != nil {
		return nil
	}
	if r.ctx.Err() != nil || !r.links.enter() {
		conn.Close()
		return nil
	}
	s := &source{addr: addr, conn: conn}
	s.touch()
	r.sources[addr] = s
	go r.answers(s)
	return s
}

// answers relays the target's datagrams to one sender, until that sender is idle or the relay ends.
func (r *relayUDP) answers(s *source) {
	defer r.links.wg.Done()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.forget(s)
	}()
	buf := make([]byte, 64<<10)
	for {
		s.conn.SetReadDeadline(time.Unix(0, s.used.Load()).Add(relayIdle))
		n, err := s.conn.Read(buf)
		switch {
		case err == nil:
			s.touch()
			p := append([]byte(nil), buf[:n]...)
			r.back.post(r.link.half(), func() { r.front.WriteToUDPAddrPort(p, s.addr) })
		case r.ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return
		case errors.Is(err, os.ErrDeadlineExceeded) && time.Since(time.Unix(0, s.used.Load())) >= relayIdle:
			return
		}
		// Anything else is an ICMP error: the target does not listen. It may come back.
	}
}

// forget closes a sender's socket. r.mu is held.
func (r *relayUDP) forget(s *source) {
	s.conn.Close()
	if r.sources[s.addr] == s {
		delete(r.sources, s.addr)
	}
}

func (r *relayUDP) closeSockets() {
	r.front.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sources {
		r.forget(s)
	}
}
