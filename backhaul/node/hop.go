package node

import (
	"context"
	"crypto/tls"
	"net"

	"github.com/ebbkit/ebb/backhaul"
)

// hop accepts other nodes, with requests for this node's machines and with orders.
type hop struct {
	n        *Node
	handler  *backhaul.Handler
	server   *backhaul.Server
	listener net.Listener
	over     chan struct{} // closed when nothing is served any more
	err      error         // of Serve, once it is over
}

func (n *Node) newHop() (h *hop, err error) {
	c := &n.config
	h = &hop{n: n, listener: c.Hop, over: make(chan struct{})}
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

// run serves. Like the link, it ends after this node's machines: until all edges know that these
// have stopped, requests for them must be refused, rather than find nobody listening.
func (h *hop) run(run func(string, func(context.Context) error)) {
	go func() {
		defer close(h.over)
		h.err = h.server.Serve(h.listener)
	}()
	run("hop", func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return nil
		case <-h.over:
			return h.err
		}
	})
}

// refuse refuses further requests and waits for those in flight.
func (h *hop) refuse(ctx context.Context) {
	h.handler.Shutdown(ctx) //nolint:errcheck // the error is ctx's, and what follows hurries as well
}

// shutdown ends the orders that are still open, and then the hop.
func (h *hop) shutdown(ctx context.Context) {
	h.n.orders.Close()
	if h.server.Shutdown(ctx) != nil {
		h.server.Close() //nolint:errcheck // nobody is served any more
	}
	h.listener.Close() //nolint:errcheck // for a node that never ran; else it is closed already
	if h.n.began() {
		<-h.over
	}
}
