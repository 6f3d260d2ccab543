// Package balancetest holds the contracts of package balance as test suites, for authors of their
// own strategy or fleet: one subtest for each clause, whose name and failure quote it.
//
//	func TestMyStrategy(t *testing.T) {
//		balancetest.TestStrategy(t, func() balance.Strategy { return MyStrategy{} })
//	}
//
// The suites use rapid: a failure prints the smallest world that shows it, and how to run it again.
package balancetest

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/ebbkit/ebb/balance"
	"pgregory.net/rapid"
)

const app balance.AppID = "web"

// distances are those of the suites' worlds; the region "xyz" has none.
type distances map[string]time.Duration

func (d distances) RTT(region string) (time.Duration, bool) { rtt, ok := d[region]; return rtt, ok }

var trips = distances{
	"nrt": time.Millisecond, "hkg": 50 * time.Millisecond, "fra": 230 * time.Millisecond,
}

// machine is a row and this node's requests in flight there.
type machine struct {
	balance.Machine
	load int
}

// usable reports whether a request may go there.
func (m *machine) usable() bool { return m.tier() < balance.TierNone && !m.full() }

func (m *machine) full() bool { return m.Limits.Hard > 0 && m.load >= m.Limits.Hard }

func (m *machine) tier() balance.Tier {
	switch {
	case m.State != balance.StateStarted || m.Cordon == balance.CordonHard:
		return balance.TierNone
	case m.Health == balance.HealthFailing && m.Recent:
		return balance.TierComing
	case m.Health == balance.HealthFailing:
		return balance.TierFailing
	case m.Cordon == balance.CordonSoft:
		return balance.TierCordoned
	}
	return balance.TierReady
}

// drawMachines draws up to n machines in all states.
func drawMachines(t *rapid.T, n int) []machine {
	ms := rapid.SliceOfN(rapid.Custom(drawMachine), 1, n).Draw(t, "machines")
	for i := range ms {
		ms[i].ID = balance.MachineID(fmt.Sprintf("m%02d", i))
	}
	return ms
}

func drawMachine(t *rapid.T) machine {
	m := balance.Machine{App: app, Owner: "w"}
	m.Region = rapid.SampledFrom([]string{"nrt", "hkg", "fra", "xyz"}).Draw(t, "region")
	m.State = rapid.SampledFrom([]balance.State{balance.StateStarted, balance.StateStarted, balance.StateStarted, balance.StateStarted, balance.StateStopped, balance.StateStarting, balance.StateFailed}).
		Draw(t, "state")
	m.Cordon = rapid.SampledFrom([]balance.Cordon{balance.CordonNone, balance.CordonNone, balance.CordonNone, balance.CordonSoft, balance.CordonHard}).
		Draw(t, "cordon")
	m.Health = rapid.SampledFrom([]balance.Health{balance.HealthPassing, balance.HealthUnknown, balance.HealthPassing, balance.HealthFailing}).
		Draw(t, "health")
	m.Recent = rapid.Bool().Draw(t, "recent")
	m.Doubtful = rapid.Bool().Draw(t, "doubtful")
	m.Revision = rapid.SampledFrom([]string{"v1", "v2"}).Draw(t, "revision")
	m.Limits = rapid.SampledFrom([]balance.Limits{{Soft: 2, Hard: 4}, {Soft: 1, Hard: 1}, {Hard: 2}, {Soft: 3}}).
		Draw(t, "limits")
	load := 0
	if m.State == balance.StateStarted && m.Cordon != balance.CordonHard {
		load = rapid.IntRange(0, max(4, m.Limits.Hard)).Draw(t, "load")
		if m.Limits.Hard > 0 {
			load = min(load, m.Limits.Hard)
		}
	}
	return machine{m, load}
}

// world is a fleet with a balancer, and the load that the machines should have.
type world struct {
	fleet *balance.Fleet
	b     *balance.Balancer
	held  []balance.Reservation
}

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// newWorld builds a world from rows in the given order.
func newWorld(t fataler, s balance.Strategy, ms []machine) *world {
	t.Helper()
	f, err := balance.NewFleet(balance.FleetConfig{Node: "edge", Region: "nrt"})
	if err != nil {
		t.Fatalf("fleet: %v", err)
	}
	b, err := balance.New(f, balance.Config{Strategy: s, Distance: trips})
	if err != nil {
		t.Fatalf("balancer: %v", err)
	}
	w := &world{fleet: f, b: b}
	// until the load is in place
	us := []balance.Update{balance.PutApp{App: balance.App{ID: app, Strategy: balance.LeastLoad{}}}}
	for _, m := range ms {
		us = append(
			us, balance.PutMachine{Machine: m.Machine, Version: balance.Version{Incarnation: 1, Seq: 1}},
		)
	}
	if err := f.Apply(us...); err != nil {
		t.Fatalf("rows: %v", err)
	}
	ms = slices.Clone(ms) // the order of rows should not decide whose turn it is
	slices.SortFunc(ms, func(a, b machine) int { return cmp.Compare(a.ID, b.ID) })
	for _, m := range ms {
		for range m.load {
			r, err := b.Pick(
				balance.Request{
					App: app, Rand: 1,
					Force: &balance.Target{Machines: []balance.MachineID{m.ID}},
				},
			)
			if err != nil {
				t.Fatalf("load of %s: %v", m.ID, err)
			}
			w.held = append(w.held, r)
		}
	}
	if err := f.Apply(balance.PutApp{App: balance.App{ID: app}}); err != nil {
		t.Fatalf("app: %v", err)
	}
	return w
}

// pick asks the strategy itself, as the balancer would.
func (w *world) pick(t fataler, s balance.Strategy, r balance.Request) (balance.MachineID, bool) {
	t.Helper()
	v, ok := w.b.View(app)
	if !ok {
		t.Fatalf("no view")
	}
	r.App = app
	slot, ok := s.Pick(v, r)
	if !ok {
		return "", false
	}
	m := v.Machine(slot)
	if m == nil {
		t.Fatalf("the strategy returned a slot that is not of the view")
	}
	return m.ID, true
}
