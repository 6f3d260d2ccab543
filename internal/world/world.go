// Package world runs a fleet in one process: edges that accept requests and workers that host
// machines, in several regions, each node with a catalogue of its own. Rows, reports,
// acknowledgements, commands, probes and requests all travel over links that are as slow as real
// ones, so that every decision is made on late information, as in production.
//
// It wires the packages of the library as a platform would; the example proxy is a command line
// around it.
package world

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/cities"
	"github.com/ebbkit/ebb/internal/delay"
	"github.com/ebbkit/ebb/internal/eventlog"
	"github.com/ebbkit/ebb/internal/report"
	"github.com/ebbkit/ebb/internal/status"
	"github.com/ebbkit/ebb/rtt"
)

// Driver runs a worker's machines.
type Driver interface {
	machine.Driver
	// Shutdown ends all machines and leaves nothing behind; when ctx ends it kills the remaining
	// ones.
	Shutdown(ctx context.Context) error
}

// Region is a place with one worker.
type Region struct {
	Name     string
	Machines int
}

// Config describes the world.
type Config struct {
	Listen  string        // address of the edge, for clients
	Status  string        // address of the status page; empty for none
	Regions []Region      // the edges sit in the first
	Edges   int           // how many; clients come to them in turn; 0 means 1
	Guess   bool          // edges guess which machines with small hard limits are free, and ask for no slots
	App     balance.App   // the one app
	Title   string        // what the status page calls it
	Check   string        // path that is asked for readiness and health; empty for a TCP connect
	Window  time.Duration // downscale's window; 0 for its default
	Notify  balance.Class // the long connections that are told to end when their machine is not needed; others keep it
	Near    bool          // links take no time

	// how long clients' connections stay open when the world ends, so that answers can announce the
	// end; 0 for the default of backhaul.Front
	Grace time.Duration
	Limit backhaul.LimitConfig // of the connections of clients
	// names by which the status page may be requested, besides localhost and addresses
	StatusName []string

	Driver func(region string) (Driver, error)

	net network // nil means this host's
	// How machines in memory are reached and inspected; nil for those of this host.
	dialMachine func(context.Context, balance.Machine) (net.Conn, error)
	look        func(context.Context, balance.Machine) error
}

const (
	// settle bounds how long the edge waits, before it listens, for the first rows and round trips:
	// the farthest city is 0.4 s away and a distance takes three probes.
	settle = 3 * time.Second
	// drainFor bounds how long requests in flight may take when the world ends.
	drainFor = 20 * time.Second
)

// World is a running fleet. Make one with New, run it with Run.
type World struct {
	config  Config
	links   *delay.Links
	log     *eventlog.Log
	usual   []status.Link // see usualLinks
	edges   []*edge
	edge    *edge // the first
	workers []*worker
	picks   report.Picks
	answers report.Answers
	x       *exchange
	key     string // shared by all nodes
	started time.Time

	public, page net.Listener
	requests     atomic.Uint64
	past         status.History
	front        *backhaul.Front
	pageHTTP     *http.Server
}

// New binds all addresses and builds all nodes. It starts nothing; if Run is not called, Close
// releases everything.
func New(c Config) (_ *World, err error) {
	if c.net == nil {
		c.net = host{}
	}
	w := &World{
		config: c, log: eventlog.New(0), started: time.Now(), key: rand.Text(), links: new(delay.Links),
	}
	defer func() {
		if err != nil {
			w.Close()
		}
	}()
	if w.public, err = c.listen("-listen", c.Listen); err != nil {
		return nil, err
	}
	if c.Status != "" {
		if w.page, err = c.listen("-status", c.Status); err != nil {
			return nil, err
		}
	}
	if !c.Near {
		names := make([]string, len(c.Regions))
		for i, r := range c.Regions {
			names[i] = r.Name
		}
		w.links = delay.NewLinks(names...)
	}
	w.usual = w.usualLinks()
	w.x = &exchange{links: w.links, acks: &acks{seen: map[ackKey]uint64{}}}
	for _, r := range c.Regions {
		k, err := w.newWorker(r)
		if err != nil {
			return nil, err
		}
		w.workers = append(w.workers, k)
		w.x.nodes = append(w.x.nodes, &k.node)
	}
	for n := range max(c.Edges, 1) {
		e, err := w.newEdge(c.Regions[0].Name, n)
		if err != nil {
			return nil, err
		}
		w.edges = append(w.edges, e)
		w.x.nodes = append(w.x.nodes, &e.node)
		w.x.acks.nodes = append(w.x.acks.nodes, e.id)
	}
	w.edge = w.edges[0]
	w.front, err = backhaul.NewFront(w.handler(),
		backhaul.FrontConfig{Grace: c.Grace, Limit: c.Limit, ConnContext: autostart.ConnContext})
	return w, err
}

func (w *World) edgeNodes() (ns []*node) {
	for _, e := range w.edges {
		ns = append(ns, &e.node)
	}
	return ns
}

// handler serves clients: by the edges in turn.
func (w *World) handler() http.Handler {
	var of []http.Handler
	for _, e := range w.edges {
		of = append(of, e.proxy)
	}
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		n := w.requests.Add(1)
		of[n%uint64(len(of))].ServeHTTP(rw, r)
	})
}

func (c Config) listen(flag, addr string) (net.Listener, error) {
	l, err := c.net.listen(addr)
	if err != nil {
		return nil, fmt.Errorf(
			"%s %s: %w: stop what uses it or choose another address", flag, addr, cause(err),
		)
	}
	return l, nil
}

// cause returns the last part of a chain of network errors: "address already in use".
func cause(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}

// Addr returns the address that clients use.
func (w *World) Addr() net.Addr { return w.public.Addr() }

// Close releases what New bound.
func (w *World) Close() {
	for _, l := range []net.Listener{w.public, w.page} {
		if l != nil {
			l.Close()
		}
	}
	for _, k := range w.workers {
		k.close()
	}
	for _, e := range w.edges {
		e.close()
	}
	w.links.Close()
	w.log.Close()
}

// Run serves until ctx ends, then stops accepting, lets requests end, stops all machines and
// returns nil. When hurry ends it stops waiting.
func (w *World) Run(ctx, hurry context.Context) error {
	defer w.Close()
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, work := errgroup.WithContext(work)
	run := func(what string, f func(context.Context) error) {
		g.Go(func() error {
			if err := f(work); err != nil && work.Err() == nil {
				return fmt.Errorf("%s: %w", what, err)
			}
			return nil
		})
	}
	if err := w.connect(work); err != nil {
		return err
	}
	for _, k := range w.workers {
		k.run(run)
	}
	for _, e := range w.edges {
		e.run(run)
	}

	w.pageHTTP = &http.Server{
		Handler: status.Handler(w, w.config.StatusName...), ReadHeaderTimeout: 10 * time.Second,
		ErrorLog: log.New(io.Discard, "", 0),
	}
	w.wait(ctx)
	run("history", func(ctx context.Context) error { return w.past.Run(ctx, w) })
	run("edge", func(context.Context) error { return served(w.front.Serve(w.public)) })
	if w.page != nil {
		run("status page", func(context.Context) error { return served(w.pageHTTP.Serve(w.page)) })
	}
	select {
	case <-ctx.Done():
	case <-work.Done(): // something failed
	}
	w.drain(hurry)
	stop()
	return g.Wait()
}

// wait returns when the edges know all machines and the distances of all regions, or when it gives
// up.
func (w *World) wait(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	t := time.NewTicker(10 * time.Millisecond)
	defer t.Stop()
	for slices.ContainsFunc(w.edges, func(e *edge) bool { return !e.oriented(w.config.Regions) }) {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// drain ends the world in an order in which nothing is lost: first new clients, then requests, then
// machines.
func (w *World) drain(hurry context.Context) {
	w.front.Drain(hurry) //nolint:errcheck // the steps below hurry as well
	ctx, cancel := context.WithTimeout(hurry, drainFor)
	defer cancel()
	for _, k := range w.workers { // their clients will not come back here
		k.leave(drainFor)
	}
	if w.front.Shutdown(ctx) != nil {
		w.front.Close()
	}
	var g errgroup.Group
	for _, k := range w.workers {
		g.Go(func() error { return k.drain(ctx) })
	}
	g.Wait()
	w.log.Close() // ends the followers of /events
	if w.pageHTTP.Shutdown(ctx) != nil {
		w.pageHTTP.Close()
	}
}

func served(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Describe writes what runs where, and commands to try.
func (w *World) Describe(out io.Writer) {
	home := w.config.Regions[0].Name
	fmt.Fprintf(out, "edge    %-4s http://%s\n", home, w.public.Addr())
	for i, k := range w.workers {
		far := ""
		if d := w.links.RTT(home, k.region); d > 0 {
			far = fmt.Sprintf(", %v away", d.Round(time.Millisecond))
		}
		fmt.Fprintf(
			out, "worker  %-4s %d machines, asleep%s\n", k.region, w.config.Regions[i].Machines, far,
		)
	}
	if w.page != nil {
		fmt.Fprintf(out, "status       http://%s\n", w.page.Addr())
	}
	fmt.Fprintf(out, "\nTry:\n")
	fmt.Fprintf(out, "  curl -i http://%s/\n", w.public.Addr())
	fmt.Fprintf(
		out, "  for i in $(seq 60); do curl -s 'http://%s/slow?ms=2000' >/dev/null & done; wait\n",
		w.public.Addr(),
	)
	if w.page != nil {
		fmt.Fprintf(out, "  curl -sN 'http://%s/events?since=0'\n", w.page.Addr())
		fmt.Fprintf(out, "  curl -d 'machine=%s-1&drain=10s' http://%s/stop\n", home, w.page.Addr())
	}
}

// Snapshot implements [status.Source]: machines as their owners see them.
func (w *World) Snapshot() status.Snapshot {
	s := status.Snapshot{
		Title: cmp.Or(w.config.Title, "ebb"), Started: w.started, Requests: w.requests.Load(),
		AutostartOff: !w.config.App.Autostart,
	}
	for _, e := range w.edges {
		inFlight, parked := e.auto.Demand(w.config.App.ID)
		s.InFlight += inFlight + parked
		s.Parked += e.auto.Parked(w.config.App.ID)
		s.Nodes = append(
			s.Nodes,
			status.Node{ID: string(e.id), Region: e.region, Role: "edge", Place: cities.Name(e.region)},
		)
	}
	for _, k := range w.workers {
		s.Nodes = append(
			s.Nodes,
			status.Node{ID: string(k.id), Region: k.region, Role: "worker", Place: cities.Name(k.region)},
		)
		rows, _ := k.fleet.App(w.config.App.ID)
		for m := range rows.All() {
			g := k.fleet.Gate(m.App, m.ID)
			if g == nil {
				continue // another worker's
			}
			l, fault := g.Load(), m.Fault
			if l.State == balance.StateStarted {
				fault = cmp.Or(fault, w.answers.Failing(m.Key()))
			}
			s.Machines = append(s.Machines, status.Machine{
				ID: string(
					m.ID,
				), App: string(m.App), Region: m.Region, Owner: string(m.Owner), Revision: m.Revision,
				State: l.State.String(), Health: m.Health.String(), Cordon: l.Cordon.String(), Epoch: l.Epoch,
				Load: l.InFlight, Soft: l.Limits.Soft, Hard: l.Limits.Hard, Fault: fault,
			})
		}
	}
	for _, n := range w.meshes() {
		for to, p := range n.mesh.Table().All() {
			if p.Known() || p.State == rtt.StateLost {
				s.RTT = append(
					s.RTT,
					status.RTT{
						From: string(n.id), To: to.ID, MS: report.Millis(p.Base), Loss: p.Loss.Value(),
						State: p.State.String(),
					},
				)
			}
		}
	}
	return s
}

// Picks implements [status.Picks].
func (w *World) Picks() []status.Pick { return w.picks.List() }

// report returns a node's observations and where they go.
func (w *World) report(id balance.NodeID) *report.Report {
	return &report.Report{Node: id, Log: w.log, Answers: &w.answers, Picks: &w.picks}
}

// History implements [status.Historian].
func (w *World) History() *status.History { return &w.past }

// Events implements [status.Source].
func (w *World) Events() *eventlog.Log { return w.log }
