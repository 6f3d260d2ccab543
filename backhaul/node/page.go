package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale"
	"github.com/ebbkit/ebb/internal/eventlog"
	"github.com/ebbkit/ebb/internal/report"
	"github.com/ebbkit/ebb/internal/status"
	"github.com/ebbkit/ebb/rtt"
)

// shown is what only the status page needs.
type shown struct {
	started  time.Time
	requests atomic.Uint64
	history  status.History
}

// counted counts the requests that a handler serves.
func (n *Node) counted(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.shown.requests.Add(1)
		h.ServeHTTP(w, r)
	})
}

// source supplies the status page with the node's data. It implements [status.Source],
// [status.Historian], [status.Picks] and [status.Stops].
type source struct{ n *Node }

func (s source) Events() *eventlog.Log { return s.n.report.Log }

func (s source) History() *status.History { return &s.n.shown.history }

func (s source) Picks() []status.Pick { return s.n.report.Picks.List() }

func (s source) Snapshot() status.Snapshot {
	n := s.n
	snap := status.Snapshot{
		Title: string(n.config.Node), Started: n.shown.started, Requests: n.shown.requests.Load(),
		Nodes: []status.Node{
			{ID: string(n.config.Node), Region: n.config.Region, Role: n.config.Role.String()},
		},
	}
	if n.peers != nil {
		s.nodes(&snap)
	}
	for _, id := range n.fleet.Apps() {
		rows, ok := n.fleet.App(id)
		if !ok {
			continue
		}
		if n.edge != nil {
			inFlight, parked := n.edge.auto.Demand(id)
			snap.InFlight += inFlight + parked
			snap.Parked += n.edge.auto.Parked(id)
		}
		for m := range rows.All() {
			snap.Machines = append(snap.Machines, s.machine(rows.App(), m))
		}
	}
	return snap
}

// nodes adds the other nodes and the measured distances to them.
func (s source) nodes(snap *status.Snapshot) {
	p := s.n.peers
	for _, of := range p.link.Nodes() {
		role := RoleBoth
		switch {
		case !of.Worker:
			role = RoleEdge
		case !of.Edge:
			role = RoleWorker
		}
		snap.Nodes = append(
			snap.Nodes, status.Node{ID: string(of.ID), Region: of.Region, Role: role.String()},
		)
	}
	if p.mesh == nil {
		return
	}
	for to, d := range p.mesh.Table().All() {
		if d.Known() || d.State == rtt.StateLost {
			snap.RTT = append(snap.RTT, status.RTT{
				From: string(s.n.config.Node), To: to.ID, MS: report.Millis(d.Base), Loss: d.Loss.Value(),
				State: d.State.String(),
			})
		}
	}
}

// machine returns a machine's entry; at its owner, the live state of the gate replaces the row's.
func (s source) machine(app balance.App, m *balance.Machine) status.Machine {
	limits := app.LimitsOf(*m)
	out := status.Machine{
		ID: string(m.ID), App: string(m.App), Region: m.Region, Owner: string(m.Owner),
		Revision: m.Revision, State: m.State.String(), Health: m.Health.String(),
		Cordon: m.Cordon.String(), Epoch: m.Epoch, Soft: limits.Soft, Hard: limits.Hard, Fault: m.Fault,
	}
	if g := s.n.fleet.Gate(m.App, m.ID); g != nil {
		l := g.Load()
		out.State, out.Cordon, out.Epoch = l.State.String(), l.Cordon.String(), l.Epoch
		out.Load = l.InFlight
	}
	if out.State == balance.StateStarted.String() {
		out.Fault = cmp.Or(out.Fault, s.n.report.Answers.Failing(m.Key()))
	}
	return out
}

// StopMachine stops a machine, which is named by its ID or as "app/id".
func (s source) StopMachine(ctx context.Context, name string, o status.Order) error {
	m, ok := s.find(name)
	if !ok {
		return status.ErrNoMachine
	}
	err := s.n.Stop(ctx, m, downscale.Order{Reason: o.Reason, Suspend: o.Suspend, Drain: o.Drain})
	if errors.Is(err, downscale.ErrBusy) {
		return fmt.Errorf("%w: %w", status.ErrRunsOn, err)
	}
	return err
}

func (s source) find(name string) (balance.Machine, bool) {
	app, id, ok := strings.Cut(name, "/")
	for _, a := range s.n.fleet.Apps() {
		if ok && string(a) != app {
			continue
		}
		if !ok {
			id = name
		}
		rows, ok := s.n.fleet.App(a)
		if !ok {
			continue
		}
		if m, ok := rows.Machine(balance.MachineID(id)); ok {
			return m, true
		}
	}
	return balance.Machine{}, false
}
