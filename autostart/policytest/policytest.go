// Package policytest checks that a [policy.Policy] keeps the contract which the rest of the library
// relies on. It also has the rules of the proxy that this library is modelled on: see
// [NewSynchronous] and [NewAsynchronous].
//
//	func TestMyPolicy(t *testing.T) {
//		policytest.TestPolicy(t, func() policy.Policy { return &mine{} })
//	}
//
// Each clause of the contract is a subtest of its own. Policies are pure, so the suite uses a clock
// of its own and never sleeps.
package policytest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/balance"
)

// TestPolicy runs all clauses against policies that newPolicy returns, a new one for each node and
// app of a clause.
func TestPolicy(t *testing.T, newPolicy func() policy.Policy) {
	for _, c := range clauses {
		t.Run(c.name, func(t *testing.T) {
			c.check(&bench{T: t, clause: c.text, newPolicy: newPolicy})
		})
	}
}

// bench is what a clause works with.
type bench struct {
	*testing.T
	clause    string
	newPolicy func() policy.Policy
}

// broken ends the test with the clause and what happened instead.
func (b *bench) broken(format string, args ...any) {
	b.Helper()
	b.Fatalf("the contract says: %s\nbut: %s", b.clause, fmt.Sprintf(format, args...))
}

// epoch0 is the time at which all worlds begin.
var epoch0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// world is one app's machines, and the nodes that decide for it.
type world struct {
	*bench
	app     balance.App
	regions []string
	rows    []*balance.Machine // in the canonical order within each region; rows are immutable
	now     time.Time
}

// node is an edge with a policy of its own.
type node struct {
	*world
	policy  policy.Policy
	answers []policy.Answer
	rtt     []time.Duration // to the regions; nil: not known
	failed  bool            // a request has gone to a failing machine
	bits    uint64
}

// world makes n machines in each region; the first region is home.
func (b *bench) world(app balance.App, n int, regions ...string) *world {
	app.ID, app.Autostart = "app", true
	w := &world{bench: b, app: app, regions: regions, now: epoch0}
	if len(regions) == 0 {
		w.regions = []string{"home"}
	}
	for _, r := range w.regions {
		for i := range n {
			w.rows = append(
				w.rows,
				&balance.Machine{ID: balance.MachineID(fmt.Sprintf("%s-%d", r, i)), App: "app", Region: r},
			)
		}
	}
	return w
}

func (w *world) node() *node { return &node{world: w, policy: policy.Bounded(w.newPolicy())} }

// edit changes one row.
func (w *world) edit(id balance.MachineID, change func(*balance.Machine)) {
	for i, m := range w.rows {
		if m.ID == id {
			next := *m
			change(&next)
			w.rows[i] = &next
		}
	}
}

func (w *world) row(id balance.MachineID) balance.Machine {
	for _, m := range w.rows {
		if m.ID == id {
			return *m
		}
	}
	return balance.Machine{}
}

// move gives one machine a state; a start begins a new epoch.
func (w *world) move(id balance.MachineID, to balance.State) {
	w.edit(id, func(m *balance.Machine) {
		if to == balance.StateStarting || to == balance.StateStarted && m.State != balance.StateStarting {
			m.Epoch++
		}
		if m.Fault = ""; to == balance.StateFailed {
			m.Fault = "it is broken"
		}
		m.State = to
	})
}

// count returns how many machines are in one of the states.
func (w *world) count(states ...balance.State) (n int) {
	for _, m := range w.rows {
		if slices.Contains(states, m.State) {
			n++
		}
	}
	return n
}

// plan asks for a decision and checks what holds for each.
func (n *node) plan(inFlight, parked int, others ...int) policy.Decision {
	n.Helper()
	n.bits = n.bits*6364136223846793005 + 1442695040888963407
	before := make([]balance.Machine, len(n.rows))
	for i, m := range n.rows {
		before[i] = *m
	}
	in := policy.Input{
		App: n.app, Machines: slices.Clone(n.rows), Regions: slices.Clone(n.regions), InFlight: inFlight,
		Parked: parked, Others: others, RTT: slices.Clone(n.rtt), Unserved: n.failed, Answers: n.answers,
		Rand: n.bits,
	}
	n.answers = nil
	d := n.policy.Plan(n.now, in)
	for i, m := range n.rows {
		if before[i] != *m {
			n.Fatalf("the contract says: Rows are only read.\nbut: that of %s has been changed", m.ID)
		}
	}
	seen := map[balance.MachineID]bool{}
	check := func(what string, ms []balance.Machine) {
		n.Helper()
		for _, m := range ms {
			if seen[m.ID] || m != n.row(m.ID) {
				n.Fatalf(
					"the contract says: What is started or recalled is a row of the input, as it is, and each once.\nbut: %s %+v",
					what, m,
				)
			}
			seen[m.ID] = true
		}
	}
	check("start", d.Start)
	check("recall", d.Recall)
	return d
}

// carry carries out a decision at once: machines to start begin to boot, recalled ones lose their
// cordon.
func (n *node) carry(d policy.Decision) {
	for _, m := range d.Recall {
		if n.row(m.ID).CordonGen == m.CordonGen {
			n.edit(m.ID, func(m *balance.Machine) { m.Cordon = balance.CordonNone })
		}
		n.answers = append(n.answers, policy.Answer{At: n.now, Machine: m, Recall: true})
	}
	for _, m := range d.Start {
		a := balance.StartAccepted
		switch now := n.row(m.ID); {
		case now.State.Startable() && now.Epoch == m.Epoch:
			n.move(m.ID, balance.StateStarting)
		case now.State == balance.StateStarting:
			a = balance.StartUnderway
		case now.State == balance.StateStarted:
			a = balance.StartRunning
		case now.State == balance.StateStopping || now.State == balance.StateSuspending:
			a = balance.StartRemembered
		default:
			a = balance.StartRefused
		}
		n.answers = append(n.answers, policy.Answer{At: n.now, Machine: m, Start: a})
	}
}

// names lists machines.
func names(ms []balance.Machine) string {
	s := make([]string, len(ms))
	for i, m := range ms {
		s[i] = string(m.ID)
	}
	return strings.Join(s, " ")
}

var errNoRoute = errors.New("no route to its owner")
