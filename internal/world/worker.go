package world

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/grants"
	"github.com/ebbkit/ebb/downscale"
	"github.com/ebbkit/ebb/rtt"
)

// worker owns the machines of one region.
type worker struct {
	node
	w        *World
	mesh     *rtt.Mesh
	peers    *peers
	driver   Driver
	starter  *machine.Starter
	scaler   *downscale.Downscaler
	handler  *backhaul.Handler
	conns    backhaul.Connections
	granter  *grants.Granter
	demand   *demand
	habits   downscale.Habits
	listener net.Listener
	server   *backhaul.Server
}

func (w *World) newWorker(r Region) (_ *worker, err error) {
	k := &worker{
		node: node{id: balance.NodeID("worker-" + r.Name), region: r.Name}, w: w,
		demand: newDemand(max(w.config.Edges, 1)),
	}
	defer func() {
		if err != nil {
			k.close()
		}
	}()
	if k.fleet, err = balance.NewFleet(balance.FleetConfig{Node: k.id, Region: r.Name}); err != nil {
		return nil, err
	}
	if err = k.fleet.Apply(balance.PutApp{App: w.config.App}); err != nil {
		return nil, err
	}
	for i := range r.Machines {
		if _, err = k.fleet.Host(balance.Machine{ID: balance.MachineID(fmt.Sprintf("%s-%d", r.Name, i+1)), App: w.config.App.ID, Region: r.Name}); err != nil {
			return nil, err
		}
	}
	if err = k.newGranter(); err != nil {
		return nil, err
	}
	if k.mesh, k.peers, err = w.newMesh(k.id, r.Name); err != nil {
		return nil, err
	}
	if k.driver, err = w.config.Driver(r.Name); err != nil {
		return nil, err
	}
	tell := w.report(k.id)
	starter := machine.Config{Check: machine.Check{Path: w.config.Check, Func: w.config.look}}
	tell.Starter(&starter.Trace)
	if k.starter, err = machine.NewStarter(k.fleet, k.driver, starter); err != nil {
		return nil, err
	}
	down := downscale.Config{
		Window: w.config.Window, Views: views{k.demand, w.x.acks}, Habits: &k.habits,
		Connections: &k.conns, Notify: w.config.Notify,
	}
	tell.Downscale(&down.Trace)
	if k.scaler, err = downscale.New(k.fleet, k.driver, down); err != nil {
		return nil, err
	}
	if k.handler, err = backhaul.NewHandler(k.fleet, backhaul.HandlerConfig{
		MachineConfig: backhaul.MachineConfig{DialMachine: w.config.dialMachine, EpochHeader: "Ebb-Epoch"},
		Keys:          []string{w.key}, Connections: &k.conns,
	}); err != nil {
		return nil, err
	}
	if k.listener, err = w.config.net.listen("127.0.0.1:0"); err != nil {
		return nil, err
	}
	k.server, err = backhaul.NewServer(k.handler, backhaul.ServerConfig{})
	return k, err
}

// run starts all goroutines of the worker.
func (k *worker) run(run func(string, func(context.Context) error)) {
	name := string(k.id)
	run(name, k.mesh.Run)
	run(name, k.starter.Run)
	run(name, k.scaler.Run)
	run(name, k.granter.Run)
	run(name, func(ctx context.Context) error { return k.w.x.publish(ctx, &k.node) })
	run(name, func(ctx context.Context) error {
		return k.w.x.report(ctx, &k.node, k.w.config.App.ID, k.w.edgeNodes())
	})
	run(name, func(context.Context) error { return served(k.server.Serve(k.listener)) })
}

// leave tells the long connections to the worker's machines to end within that time.
func (k *worker) leave(within time.Duration) {
	rows, _ := k.fleet.App(k.w.config.App.ID)
	for m := range rows.All() {
		k.conns.Notify(*m, balance.ClassAll, within)
	}
}

// drain stops all machines and the hop to them.
func (k *worker) drain(ctx context.Context) error {
	err := k.scaler.Drain(ctx)
	k.server.Close()
	return errors.Join(err, k.driver.Shutdown(ctx))
}

func (k *worker) close() {
	if k.listener != nil {
		k.listener.Close()
	}
	if k.mesh != nil {
		k.mesh.Close()
	}
}
