package node

import (
	"context"
	"net"
	"net/http"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/backhaul/node/internal/orders"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/report"
)

// edge is the part of a node that has clients.
type edge struct {
	balancer  *balance.Balancer
	auto      *autostart.Autostart
	transport *backhaul.Transport
	proxy     *backhaul.Proxy
	front     *backhaul.Front // nil: a server that is not the node's accepts clients
	listener  net.Listener
	owners    owners
	talks     *orders.Talks // nil where there are no other nodes, and so is asker
	asker     *asker
}

func (n *Node) newEdge() (e *edge, err error) {
	c := &n.config
	e = &edge{listener: c.Listener, owners: owners{n: n}}
	picks := c.Balance
	if n.peers != nil {
		picks.GiveBack = n.giveBack
		if n.peers.mesh != nil && picks.Distance == nil {
			picks.Distance = n.peers.mesh
		}
	}
	n.report.Balance(&picks.Trace)
	if e.balancer, err = balance.New(n.fleet, picks); err != nil {
		return nil, err
	}
	auto := c.Autostart
	n.report.Autostart(&auto.Trace)
	if n.peers != nil {
		auto.Others = n.peers.link.Others
		e.asker = newAsker(n)
		e.asker.listen(&auto.Trace)
		e.talks = orders.NewTalks(
			n.work, &n.lasting, e.order, func(g balance.Grant) { e.balancer.AcceptGrant(g) },
		)
		e.owners.orders = orders.NewClient(n.work, &n.lasting, e.order, n.told)
	}
	if e.auto, err = autostart.New(e.balancer, &e.owners, auto); err != nil {
		return nil, err
	}
	var picker backhaul.Picker = e.auto
	hop := c.Transport
	if n.peers != nil {
		f := &finder{Autostart: e.auto, n: n}
		report.Then1(&hop.Trace.Event, f.hinted)
		picker = f
		hop.Keys, hop.Dial = c.Keys, n.peers.dial
		if c.Identity != nil {
			hop.Dial = c.Identity.Dial(n.peers.dial)
		}
		if n.peers.mesh != nil {
			hop.RTT = n.peers.rtt
		}
	}
	hop.Connections = &n.conns
	if hop.Route == nil {
		hop.Route = c.route()
	}
	n.report.Transport(&hop.Trace)
	if e.transport, err = backhaul.NewTransport(picker, hop); err != nil {
		return nil, err
	}
	if e.proxy, err = backhaul.NewProxy(e.transport, c.Proxy); err != nil {
		return nil, err
	}
	if c.Listener != nil {
		e.front, err = backhaul.NewFront(n.counted(e.proxy), c.Front)
	}
	return e, err
}

// order sends an order to a node.
func (e *edge) order(to balance.NodeID, req *http.Request) (*http.Response, error) {
	return e.transport.Order(to, req)
}

// route finds the app by the host name that a client asked for.
func (c *Config) route() func(*http.Request) (balance.Request, error) {
	apps := map[string]balance.AppID{}
	for _, a := range c.Apps {
		for _, h := range a.Hosts {
			apps[h] = a.ID
		}
	}
	return func(r *http.Request) (balance.Request, error) {
		if id, ok := apps[r.URL.Host]; ok {
			return balance.Request{App: id}, nil
		}
		return balance.Request{App: balance.AppID(r.URL.Host)}, nil
	}
}

func (e *edge) run(run func(string, func(context.Context) error)) {
	run("balancer", e.balancer.Run)
	run("autostart", e.auto.Run)
	if e.asker != nil {
		run("slots", e.asker.run)
	}
	if e.front != nil {
		run("clients", func(context.Context) error { return e.front.Serve(e.listener) })
	}
}

// drain has answers tell clients that their connections end.
func (e *edge) drain(ctx context.Context) {
	if e.front != nil {
		e.front.Drain(ctx) //nolint:errcheck // the error is ctx's, and what follows hurries as well
	}
}

// shutdown waits for the requests of clients.
func (e *edge) shutdown(ctx context.Context) {
	if e.front == nil {
		return
	}
	if e.front.Shutdown(ctx) != nil {
		e.front.Close() //nolint:errcheck // nobody is served any more
	}
	e.listener.Close() //nolint:errcheck // for a node that never ran; else it is closed already
}
