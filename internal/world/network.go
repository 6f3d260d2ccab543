package world

import (
	"context"
	"net"
	"net/netip"

	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/internal/delay"
)

// network is what the nodes of a world listen on and dial through: that of this host, or one in
// memory, with which a whole world runs in virtual time.
type network interface {
	listen(addr string) (net.Listener, error)
	dial(ctx context.Context, network, addr string) (net.Conn, error)
	// packets returns a node's socket for probes; nil for one of this host.
	packets(region string) net.PacketConn
	// relay returns the address to which packets to addr are sent so that they take the time of the
	// link.
	relay(
		ctx context.Context, links *delay.Links, from, to string, addr netip.AddrPort,
	) (netip.AddrPort, error)
}

// host is the network of this host.
type host struct{}

func (host) listen(addr string) (net.Listener, error) { return backhaul.Listen(addr) }

func (host) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, addr)
}

func (host) packets(string) net.PacketConn { return nil }

func (host) relay(
	ctx context.Context, links *delay.Links, from, to string, addr netip.AddrPort,
) (netip.AddrPort, error) {
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	if links.RTT(from, to) == 0 {
		return addr, nil
	}
	return links.RelayUDP(ctx, from, to, addr)
}
