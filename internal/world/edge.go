package world

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/rtt"
)

// edge accepts requests from clients.
type edge struct {
	node
	w         *World
	mesh      *rtt.Mesh
	peers     *peers
	balancer  *balance.Balancer
	auto      *autostart.Autostart
	transport *backhaul.Transport
	proxy     *backhaul.Proxy
	parks     chan struct{} // receives when the number of parked requests has changed
	others    *demand       // of the other edges
}

func (w *World) newEdge(region string, n int) (_ *edge, err error) {
	e := &edge{node: node{id: balance.NodeID("edge-" + region), region: region}, w: w, parks: make(chan struct{}, 1), others: newDemand(0)}
	if n > 0 {
		e.id = balance.NodeID(fmt.Sprintf("edge-%s-%d", region, n+1))
	}
	defer func() {
		if err != nil {
			e.close()
		}
	}()
	if e.mesh, e.peers, err = w.newMesh(e.id, region); err != nil {
		return nil, err
	}
	if e.fleet, err = balance.NewFleet(balance.FleetConfig{Node: e.id, Region: region}); err != nil {
		return nil, err
	}
	if err = e.fleet.Apply(balance.PutApp{App: w.config.App}); err != nil {
		return nil, err
	}
	tell := w.report(e.id)
	picks := balance.Config{Distance: e.mesh, GiveBack: e.giveBack}
	tell.Balance(&picks.Trace)
	if e.balancer, err = balance.New(e.fleet, picks); err != nil {
		return nil, err
	}
	c := autostart.Config{Trace: e.traceParked()}
	tell.Autostart(&c.Trace)
	if w.config.Edges > 1 { // all of them are in one region
		c.Others = func(balance.AppID, string) int { return e.others.sum() }
	}
	if e.auto, err = autostart.New(e.balancer, owners{e}, c); err != nil {
		return nil, err
	}
	hop := backhaul.Config{Keys: []string{w.key}, Dial: e.dial, RTT: e.rtt}
	tell.Transport(&hop.Trace)
	if e.transport, err = backhaul.NewTransport(e.auto, hop); err != nil {
		return nil, err
	}
	e.proxy, err = e.newProxy()
	return e, err
}

// dial connects to an owner's backhaul listener over the link between.
func (e *edge) dial(ctx context.Context, owner balance.NodeID) (net.Conn, error) {
	k := e.w.worker(owner)
	dial := e.w.links.WrapDial(e.region, k.region, e.w.config.net.dial)
	return dial(ctx, "tcp", k.listener.Addr().String())
}

// rtt returns the measured round trip to an owner.
func (e *edge) rtt(owner balance.NodeID) (time.Duration, bool) {
	s, ok := e.mesh.Table().To(string(owner))
	return s.Base, ok && s.Known()
}

func (w *World) worker(id balance.NodeID) *worker {
	for _, k := range w.workers {
		if k.id == id {
			return k
		}
	}
	panic("world: a machine of node " + string(id) + ", which is not there")
}

// newProxy returns the handler that answers clients.
func (e *edge) newProxy() (*backhaul.Proxy, error) {
	return backhaul.NewProxy(e.transport, backhaul.ProxyConfig{
		App: e.w.config.App.ID,
		// A listener on this host only is for development.
		ErrorHandler: backhaul.ErrorHandler{Details: isLoopback(e.w.public.Addr())}.ServeError,
	})
}

func isLoopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// oriented reports whether the edge knows all machines and has measured the round trips to all
// regions.
func (e *edge) oriented(regions []Region) bool {
	want := 0
	for _, r := range regions {
		want += r.Machines
		if _, ok := e.mesh.RTT(r.Name); !ok {
			return false
		}
	}
	s, ok := e.fleet.App(e.w.config.App.ID)
	return ok && s.Len() == want
}

// run starts all goroutines of the edge.
func (e *edge) run(run func(string, func(context.Context) error)) {
	name := string(e.id)
	run(name, e.mesh.Run)
	run(name, e.balancer.Run)
	run(name, e.auto.Run)
	run(name, e.reportDemand)
	if !e.w.config.Guess {
		run(name, e.askSlots)
	}
}

// reportDemand tells the workers how many requests wait here, and the other edges the demand here.
func (e *edge) reportDemand(ctx context.Context) error {
	t := time.NewTicker(reportEvery)
	defer t.Stop()
	for {
		inFlight, parked := e.auto.Demand(e.w.config.App.ID)
		for _, k := range e.w.workers {
			e.w.x.send(&e.node, &k.node, func() { k.demand.put(e.id, inFlight, parked) })
		}
		for _, o := range e.w.edges {
			if o != e {
				e.w.x.send(&e.node, &o.node, func() { o.others.put(e.id, inFlight, parked) })
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

func (e *edge) close() {
	if e.transport != nil {
		e.transport.Close()
	}
	if e.mesh != nil {
		e.mesh.Close()
	}
}

// owners calls the owners of machines over the links; it implements [autostart.Owner].
type owners struct{ e *edge }

func (o owners) Start(ctx context.Context, m balance.Machine) (balance.StartAnswer, error) {
	k := o.e.w.worker(m.Owner)
	return call(ctx, o.e.w.x, &o.e.node, &k.node, func() (balance.StartAnswer, error) { return k.starter.Start(ctx, m) })
}

func (o owners) Recall(ctx context.Context, m balance.Machine) error {
	k := o.e.w.worker(m.Owner)
	_, err := call(ctx, o.e.w.x, &o.e.node, &k.node, func() (struct{}, error) { return struct{}{}, k.starter.Recall(ctx, m) })
	return err
}
