package node

import (
	"context"
	"crypto/tls"
	"net"

	"github.com/ebbkit/ebb/backhaul"
)

// hop is where other nodes come: with requests for this node's machines, and with orders.
type hop struct {
	n        *Node
	handler  *backhaul.Handler
	server   *backhaul.Server
	listener net.Listener
}

func (n *Node) newHop() (h *hop, err error) {
	c := &n.config
	h = &hop{n: n, listener: c.Hop}
	hc := backhaul.HandlerConfig{
		MachineConfig: c.Transport.MachineConfig, Keys: c.Keys, Connections: &n.conns,
		Orders: n.orders.Serve, Trace: backhaul.Trace{Event: c.Transport.Trace.Event},
	}
	if c.Identity != nil {
		hc.Certificate = c.Identity.NodeOf
		h.listener = tls.NewListener(c.Hop, c.Identity.Server())
	}
	if h.handler, err = backhaul.NewHandler(n.fleet, hc); err != nil {
		return nil, err
	}
	h.server, err = backhaul.NewServer(h.handler, backhaul.ServerConfig{Logger: c.Logger})
	return h, err
}

// shutdown refuses further requests, and waits for those that are served. Orders come on until all
// of that is over.
func (h *hop) shutdown(ctx context.Context) {
	h.handler.Shutdown(ctx) //nolint:errcheck // it is ctx's, and what follows hurries as well
	h.n.orders.Close()
	if h.server.Shutdown(ctx) != nil {
		h.server.Close() //nolint:errcheck // nobody is served any more
	}
	h.listener.Close() //nolint:errcheck // of a node that never ran; else it is closed already
}
