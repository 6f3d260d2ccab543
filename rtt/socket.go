package rtt

import (
	"fmt"
	"net"
	"net/netip"
)

// socket is what Mesh needs from a datagram socket.
type socket interface {
	// read fills b with one datagram. stamp is the kernel's receive time on the wall clock, ns, and
	// 0 without one.
	read(b []byte) (n int, from netip.AddrPort, stamp int64, err error)
	write(b []byte, to netip.AddrPort) error
	addr() net.Addr
	close() error
}

func newSocket(c net.PacketConn) socket {
	u, ok := c.(*net.UDPConn)
	if !ok {
		return plainSocket{c}
	}
	// Room for a second of answers that arrive while this process is not running; the default holds
	// about 200 packets. Failure is harmless: a smaller buffer only loses packets sooner.
	_ = u.SetReadBuffer(1 << 20)
	return newUDPSocket(u)
}

// unmap turns the IPv6 form of an IPv4 address into that address, so that the two compare equal.
func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// plainSocket is any net.PacketConn; it has no kernel stamps.
type plainSocket struct{ c net.PacketConn }

func (s plainSocket) read(b []byte) (int, netip.AddrPort, int64, error) {
	n, from, err := s.c.ReadFrom(b)
	if err != nil {
		return n, netip.AddrPort{}, 0, err
	}
	return n, addrPort(from), 0, nil
}

func (s plainSocket) write(b []byte, to netip.AddrPort) error {
	_, err := s.c.WriteTo(b, net.UDPAddrFromAddrPort(to))
	return err
}

func (s plainSocket) addr() net.Addr { return s.c.LocalAddr() }
func (s plainSocket) close() error   { return s.c.Close() }

// addrPort returns a as a value; invalid when it is not an IP address with a port.
func addrPort(a net.Addr) netip.AddrPort {
	switch a := a.(type) {
	case interface{ AddrPort() netip.AddrPort }:
		return unmap(a.AddrPort())
	case fmt.Stringer:
		p, _ := netip.ParseAddrPort(a.String())
		return unmap(p)
	}
	return netip.AddrPort{}
}

// plainUDP is a UDP socket without kernel stamps; unlike plainSocket it does not allocate.
type plainUDP struct{ c *net.UDPConn }

func (s plainUDP) read(b []byte) (int, netip.AddrPort, int64, error) {
	n, from, err := s.c.ReadFromUDPAddrPort(b)
	return n, unmap(from), 0, err
}

func (s plainUDP) write(b []byte, to netip.AddrPort) error {
	_, err := s.c.WriteToUDPAddrPort(b, to)
	return err
}

func (s plainUDP) addr() net.Addr { return s.c.LocalAddr() }
func (s plainUDP) close() error   { return s.c.Close() }
