package node

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange"
	"github.com/ebbkit/ebb/internal/report"
	"github.com/ebbkit/ebb/rtt"
)

// peers holds what a node knows of the others. It is nil where there are none.
type peers struct {
	n    *Node
	link *exchange.Link
	mesh *rtt.Mesh     // nil: they are not measured
	over chan struct{} // closed when the link has left
	stop context.CancelFunc
	err  error // of the link, once it is over
}

func (n *Node) newPeers() (p *peers, err error) {
	c := &n.config
	if c.Exchange == nil {
		return nil, nil
	}
	p = &peers{n: n, over: make(chan struct{}), stop: func() {}}
	lc := c.Link
	lc.Edge, lc.Worker, lc.Demand = c.edge(), c.worker(), n.demand
	report.Then1(&lc.Trace.Node, p.noticed)
	if p.link, err = exchange.New(n.fleet, c.Exchange, lc); err != nil {
		return nil, err
	}
	if c.Probe == nil {
		return p, nil
	}
	mc := rtt.Config{
		ID: string(c.Node), Region: c.Region, Key: []byte(c.Keys[0]), Peers: p.probed, Conn: c.Probe,
	}
	if p.mesh, err = rtt.New(mc); err != nil {
		return nil, err
	}
	var more [][]byte
	for _, k := range c.Keys[1:] {
		more = append(more, []byte(k))
	}
	return p, p.mesh.SetKeys(mc.Key, more...)
}

// demand returns how many requests of an app this node has, and their home region.
func (n *Node) demand(app balance.AppID) (home string, inFlight, parked int) {
	if n.edge == nil {
		return "", 0, 0
	}
	if inFlight, parked = n.edge.auto.Demand(app); inFlight+parked > 0 {
		home = n.edge.auto.Home(app)
	}
	return home, inFlight, parked
}

// noticed is told when another node's state changes.
func (p *peers) noticed(of exchange.Node) {
	p.n.report.Event(
		report.KindNode, balance.MachineKey{}, "%s in %s is %s", of.ID, of.Region, of.State,
	)
	if p.mesh != nil {
		p.mesh.Refresh()
	}
}

// probed returns the nodes whose distance is measured. Probes to a silent node go on: the exchange
// may be what is down.
func (p *peers) probed() (ns []rtt.Node) {
	for _, of := range p.link.Nodes() {
		if of.State == nodeLeft {
			continue
		}
		at, _ := netip.ParseAddrPort(of.Probe)
		hop, _ := netip.ParseAddrPort(of.Hop)
		if at.IsValid() || hop.IsValid() {
			ns = append(ns, rtt.Node{ID: string(of.ID), Region: of.Region, Addr: at, TCP: hop})
		}
	}
	return ns
}

// The states of nodes, see [exchange.Node].
const (
	nodeLive = "live"
	nodeLeft = "left"
)

// dial connects to a node's hop.
func (p *peers) dial(ctx context.Context, to balance.NodeID) (net.Conn, error) {
	of, ok := p.link.Node(to)
	if !ok {
		return nil, fmt.Errorf("node: nothing has been heard of node %q", to)
	}
	if of.Hop == "" { // it has none, or has not published it yet
		return nil, fmt.Errorf("node: node %q has not told where its hop is", to)
	}
	if dial := p.n.config.Dial; dial != nil {
		return dial(ctx, of)
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", of.Hop)
}

// rtt returns the measured round trip to a node.
func (p *peers) rtt(to balance.NodeID) (time.Duration, bool) {
	s, ok := p.mesh.Table().To(string(to))
	return s.Base, ok && s.Known()
}

// views gives the downscaler what other nodes have published.
type views struct{ *exchange.Link }

// Load implements [downscale.Views]: owners publish no loads to each other.
func (views) Load(balance.AppID, balance.MachineID) (inFlight, idle int, told, fresh bool) {
	return 0, 0, false, false
}

// run joins the others. The link ends after everything else, because it publishes that the machines
// have stopped, and then that this node leaves.
func (p *peers) run(run func(string, func(context.Context) error)) {
	if p.mesh != nil {
		run("probes", p.mesh.Run)
	}
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	go func() {
		defer close(p.over)
		p.err = p.link.Run(ctx)
	}()
	run("exchange", func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return nil
		case <-p.over:
			return p.err
		}
	})
}

// leave publishes that this node is gone.
func (p *peers) leave() error {
	p.stop()
	if p.n.began() {
		<-p.over
	}
	if p.mesh != nil {
		p.mesh.Close() //nolint:errcheck // of one that never ran; else it is closed already
	}
	return p.err
}
