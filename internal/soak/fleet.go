package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/autostart/process"
	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale"
)

// hard is how many requests at once a machine of any app takes.
const hard = 4

// app is one row of the catalogue.
type app struct {
	id     balance.AppID
	far    bool // hosted by the worker: requests go over the hop
	h2     bool // its machines speak HTTP/2 without TLS
	finish bool // they are not told that a client has left
}

// The apps: on the edge itself and behind a worker, over HTTP/1.1 and HTTP/2, whose machines are
// told when a client leaves, and whose are not.
var apps = []app{
	{id: "near"},
	{id: "near-h2", h2: true},
	{id: "near-finish", finish: true},
	{id: "far", far: true},
	{id: "far-h2", far: true, h2: true},
	{id: "far-finish", far: true, finish: true},
	{id: "far-h2-finish", far: true, h2: true, finish: true},
}

// appOf returns the app of that name, or that of no name.
func appOf(id balance.AppID) app {
	for _, a := range apps {
		if a.id == id {
			return a
		}
	}
	return app{}
}

// mayExceed reports whether a machine of the app may execute more at once than its hard limit: one
// that is told over HTTP/2 that a client has left gives no sign when it is done, and its slot is
// free after a while.
func (a app) mayExceed() bool { return a.h2 && !a.finish }

// machinesPerApp is how many machines each app has.
const machinesPerApp = 3

// causeHeader stands in the proxy's own answers.
const causeHeader = "X-Proxy-Cause"

// host is a node that has machines.
type host struct {
	fleet   *balance.Fleet
	driver  *process.Driver
	starter *machine.Starter
	scaler  *downscale.Downscaler
	conns   *backhaul.Connections
}

// fleet is an edge that has machines of its own, and a worker behind it.
type fleet struct {
	edge, worker host
	transport    *backhaul.Transport
	handler      *backhaul.Handler
	hop          *backhaul.Server
	front        *backhaul.Front
	addr         string // of the front

	stop    context.CancelFunc
	running errgroup.Group
}

func h2c(m balance.Machine) bool { return appOf(m.App).h2 }

// newHost makes a node that hosts the machines of the apps that are far, or of those that are not.
func newHost(node balance.NodeID, far bool, journal string) (h host, err error) {
	if h.fleet, err = balance.NewFleet(balance.FleetConfig{Node: node, Region: "here"}); err != nil {
		return h, err
	}
	for _, a := range apps {
		row := balance.App{
			ID: a.id, Autostart: true, Autostop: balance.AutostopStop, Limits: balance.Limits{Soft: hard / 2, Hard: hard},
			KeepAlive: 3 * time.Second, FinishAbandoned: a.finish,
		}
		if err := h.fleet.Apply(balance.PutApp{App: row}); err != nil {
			return h, err
		}
		for n := range machinesPerApp {
			if a.far != far {
				break
			}
			id := balance.MachineID(fmt.Sprintf("%s-%d", a.id, n+1))
			if _, err := h.fleet.Host(balance.Machine{ID: id, App: a.id, Region: "here"}); err != nil {
				return h, err
			}
		}
	}
	self, err := os.Executable()
	if err != nil {
		return h, err
	}
	h.driver, err = process.New(process.Config{
		Argv: []string{
			self,
		}, Env: []string{journalVariable + "=" + journal, hardVariable + "=" + strconv.Itoa(hard)},
	})
	if err != nil {
		return h, err
	}
	if h.starter, err = machine.NewStarter(h.fleet, h.driver, machine.Config{}); err != nil {
		return h, err
	}
	h.conns = new(backhaul.Connections)
	return h, nil
}

// newFleet builds everything and starts it.
func newFleet(journal string) (_ *fleet, err error) {
	f := new(fleet)
	if f.edge, err = newHost("edge", false, journal); err != nil {
		return nil, err
	}
	if f.worker, err = newHost("worker", true, journal); err != nil {
		return nil, err
	}
	key := "of-this-run-" + strconv.Itoa(os.Getpid())
	f.handler, err = backhaul.NewHandler(
		f.worker.fleet,
		backhaul.HandlerConfig{
			MachineConfig: backhaul.MachineConfig{H2: h2c}, Keys: []string{key}, Connections: f.worker.conns,
		},
	)
	if err != nil {
		return nil, err
	}
	if f.hop, err = backhaul.NewServer(f.handler, backhaul.ServerConfig{}); err != nil {
		return nil, err
	}
	hop, err := backhaul.Listen("127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	balancer, err := balance.New(f.edge.fleet, balance.Config{})
	if err != nil {
		return nil, err
	}
	waiting, err := autostart.New(balancer, owners{f}, autostart.Config{})
	if err != nil {
		return nil, err
	}
	f.transport, err = backhaul.NewTransport(waiting, backhaul.Config{
		MachineConfig: backhaul.MachineConfig{H2: h2c}, Keys: []string{key}, Connections: f.edge.conns,
		Dial: func(ctx context.Context, _ balance.NodeID) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", hop.Addr().String())
		},
	})
	if err != nil {
		return nil, err
	}
	// Only the edge stops machines: the worker's are never idle for long enough to matter, and what
	// acknowledges a stop between two nodes is not this program's business.
	if f.edge.scaler, err = downscale.New(f.edge.fleet, f.edge.driver, downscale.Config{
		Window: 3 * time.Second, Connections: f.edge.conns,
	}); err != nil {
		return nil, err
	}
	if err := f.serve(); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	f.stop = stop
	for _, run := range []func(context.Context) error{
		balancer.Run, waiting.Run, f.edge.starter.Run, f.worker.starter.Run, f.edge.scaler.Run, f.carryRows,
	} {
		f.running.Go(func() error { return run(ctx) })
	}
	f.running.Go(func() error { return closed(f.hop.Serve(hop)) })
	return f, nil
}

// serve begins to take requests of clients.
func (f *fleet) serve() error {
	proxy, err := backhaul.NewProxy(f.transport, backhaul.ProxyConfig{
		ErrorHandler: backhaul.ErrorHandler{CauseHeader: causeHeader, Details: true}.ServeError,
	})
	if err != nil {
		return err
	}
	f.front, err = backhaul.NewFront(proxy, backhaul.FrontConfig{ConnContext: autostart.ConnContext})
	if err != nil {
		return err
	}
	l, err := backhaul.Listen("127.0.0.1:0")
	if err != nil {
		return err
	}
	f.addr = l.Addr().String()
	f.running.Go(func() error { return closed(f.front.Serve(l)) })
	return nil
}

func closed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// carryRows keeps the edge's view of the worker's machines up to date, a moment late.
func (f *fleet) carryRows(ctx context.Context) error {
	watch := f.worker.fleet.Watch()
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		if err := f.edge.fleet.Apply(watch.Take()...); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// inFlight is what the gates of all machines hold.
func (f *fleet) inFlight() (n int) {
	for _, h := range []host{f.edge, f.worker} {
		for _, a := range apps {
			for i := range machinesPerApp {
				if g := h.fleet.Gate(a.id, balance.MachineID(fmt.Sprintf("%s-%d", a.id, i+1))); g != nil {
					n += g.InFlight()
				}
			}
		}
	}
	return n
}

// end stops everything in the order in which nothing is lost.
func (f *fleet) end(ctx context.Context) error {
	errs := []error{f.front.Shutdown(ctx), f.edge.scaler.Drain(ctx)}
	f.transport.Close()
	errs = append(errs, f.handler.Shutdown(ctx), f.hop.Shutdown(ctx))
	f.stop()
	errs = append(errs, f.running.Wait(), f.edge.driver.Shutdown(ctx), f.worker.driver.Shutdown(ctx))
	return errors.Join(errs...)
}

// owners asks the node that owns a machine.
type owners struct{ f *fleet }

func (o owners) of(m balance.Machine) *machine.Starter {
	if m.Owner == "worker" {
		return o.f.worker.starter
	}
	return o.f.edge.starter
}

func (o owners) Start(ctx context.Context, m balance.Machine) (balance.StartAnswer, error) {
	return o.of(m).Start(ctx, m)
}

func (o owners) Recall(
	ctx context.Context, m balance.Machine,
) error {
	return o.of(m).Recall(ctx, m)
}
