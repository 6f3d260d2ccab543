package nettest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
)

// Host is a computer in memory: what listens there is dialled by its address.
type Host struct {
	mu    sync.Mutex
	ports map[string]*Pipes
	last  int
}

// Listen binds an address. Its host may be any name; port 0 means a free one.
func (h *Host) Listen(addr string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if port == "0" {
		h.last++
		addr = net.JoinHostPort(host, strconv.Itoa(10_000+h.last))
	}
	if h.ports[addr] != nil {
		return nil, &net.OpError{
			Op: "listen", Net: "tcp", Err: os.NewSyscallError("bind", syscall.EADDRINUSE),
		}
	}
	if h.ports == nil {
		h.ports = make(map[string]*Pipes)
	}
	p := NewPipes()
	h.ports[addr] = p
	return &bound{p, h, addr}, nil
}

// Dial connects to what listens at the address; where nothing does, the connection is refused.
func (h *Host) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	h.mu.Lock()
	p := h.ports[addr]
	h.mu.Unlock()
	refused := &net.OpError{
		Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED),
	}
	if p == nil {
		return nil, refused
	}
	c, err := p.Dial(ctx)
	if err != nil && ctx.Err() == nil {
		return nil, refused
	}
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	return c, nil
}

// bound is a listener that gives its address back.
type bound struct {
	*Pipes
	host *Host
	addr string
}

// Addr implements net.Listener: a TCP address where the host is one, else the name.
func (b *bound) Addr() net.Addr {
	if at, err := netip.ParseAddrPort(b.addr); err == nil {
		return net.TCPAddrFromAddrPort(at)
	}
	return name(b.addr)
}

// Close implements net.Listener.
func (b *bound) Close() error {
	b.host.mu.Lock()
	if b.host.ports[b.addr] == b.Pipes {
		delete(b.host.ports, b.addr)
	}
	b.host.mu.Unlock()
	return b.Pipes.Close()
}

type name string

func (name) Network() string  { return "tcp" }
func (n name) String() string { return string(n) }
