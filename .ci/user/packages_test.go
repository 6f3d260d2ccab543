package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/autostart/machinetest"
	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/autostart/policytest"
	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/backhaul/node"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange"
	"github.com/ebbkit/ebb/balance/exchange/exchangetest"
	"github.com/ebbkit/ebb/balance/grants"
	"github.com/ebbkit/ebb/downscale"
	"github.com/ebbkit/ebb/downscale/cordon"
	downpolicy "github.com/ebbkit/ebb/downscale/policy"
	downpolicytest "github.com/ebbkit/ebb/downscale/policytest"
	"github.com/ebbkit/ebb/downscale/stoppertest"
)

// counting is the planner, and counts the machines that it starts.
type counting struct {
	policy.Planner
	started int
}

func (c *counting) Plan(now time.Time, in policy.Input) policy.Decision {
	d := c.Planner.Plan(now, in)
	c.started += len(d.Start)
	return d
}

func TestOwnPolicy(t *testing.T) {
	policytest.TestPolicy(t, func() policy.Policy { return new(counting) })
}

func TestOwnStopPolicy(t *testing.T) {
	downpolicytest.TestPolicy(t, downpolicytest.Subject{
		New: func() downpolicy.Policy {
			return &downpolicy.Bounded{Policy: &downpolicytest.Excess{Pass: time.Minute}}
		},
		Sleeps: 2 * time.Minute,
	})
}

// fleet is a fleet of one app with one machine, and a driver for it.
func fleet(t *testing.T) (*balance.Fleet, *machinetest.Fake) {
	t.Helper()
	f, err := balance.NewFleet(balance.FleetConfig{Node: "own", Region: "here"})
	if err != nil {
		t.Fatal(err)
	}
	app := balance.App{
		ID: "web", Autostart: true, Autostop: balance.AutostopStop, KeepAlive: time.Minute,
	}
	if err := f.Apply(balance.PutApp{App: app}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Host(balance.Machine{ID: "web-1", App: "web", Region: "here"}); err != nil {
		t.Fatal(err)
	}
	return f, &machinetest.Fake{}
}

func TestStopsOfADriver(t *testing.T) {
	stoppertest.TestDriver(t, func(t *testing.T) stoppertest.Subject {
		_, fake := fleet(t)
		n := 0
		row := func() balance.Machine {
			n++
			return balance.Machine{
				ID: balance.MachineID(fmt.Sprint("own-", n)), App: "own", Region: "here", Epoch: 1,
			}
		}
		return stoppertest.Subject{
			Driver: fake,
			Boot: func() balance.Machine {
				m := row()
				if _, err := fake.Start(t.Context(), m); err != nil {
					t.Fatal(err)
				}
				return m
			},
			Runs:   func(m balance.Machine) bool { return fake.Check(t.Context(), m) == nil },
			Resume: func(m balance.Machine) error { _, err := fake.Start(t.Context(), m); return err },
		}
	})
}

// The parts, wired by hand: a request starts the machine, and a minute without one stops it.
func TestWakesAndSleeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, fake := fleet(t)
		picks, err := balance.New(f, balance.Config{Strategy: balance.Pack{}})
		if err != nil {
			t.Fatal(err)
		}
		starter, err := machine.NewStarter(
			f, fake, machine.Config{Check: machine.Check{Func: fake.Check}},
		)
		if err != nil {
			t.Fatal(err)
		}
		room, err := autostart.New(
			picks, starter,
			autostart.Config{Policy: func(balance.AppID) policy.Policy {
				return new(policy.Planner)
			}},
		)
		if err != nil {
			t.Fatal(err)
		}
		scaler, err := downscale.New(f, fake, downscale.Config{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 4)
		for _, run := range []func(context.Context) error{picks.Run, starter.Run, room.Run, scaler.Run} {
			go func() { ended <- run(ctx) }()
		}
		r, err := room.Acquire(t.Context(), &balance.Request{App: "web"})
		if err != nil {
			t.Fatal(err)
		}
		r.Release(balance.OutcomeDone)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if s := f.Gate("web", "web-1").State(); s != balance.StateStopped {
			t.Errorf("after two idle minutes: %v", s)
		}
		stop()
		for range 4 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
}

// The state machine of one stop, stepped by hand.
func TestCordon(t *testing.T) {
	m := cordon.Machine{Config: cordon.Config{Quiet: time.Second, CordonMax: time.Minute}}
	now := time.Unix(0, 0)
	m.Look(now, cordon.Look{Up: true})
	if c := m.Surplus(now, cordon.Order{Reason: "not needed"}, true); c.Do != cordon.ActCordon {
		t.Errorf("first %v", c.Do)
	}
}

func TestGranter(t *testing.T) {
	f, _ := fleet(t)
	granter, err := grants.New(f, grants.Config{Give: func(balance.NodeID, balance.Grant) {}})
	if err != nil {
		t.Fatal(err)
	}
	granter.Ask("edge", "web", 1)
}

// The suite of exchanges, as the author of an engine runs it.
func TestOwnExchange(t *testing.T) {
	exchangetest.Test(t, exchangetest.Engine{Bubble: true, New: func(*testing.T) exchangetest.Net {
		m := exchange.NewMemory(exchange.MemoryConfig{})
		return exchangetest.Net{
			Connect: func(n balance.NodeID) exchange.Exchange { return m.Connect(n) },
			Store:   func(n balance.NodeID) exchange.Store { return m.Connect(n) },
		}
	}})
}

// A link between two fleets of one process.
func TestLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		between := exchange.NewMemory(exchange.MemoryConfig{})
		owner, _ := fleet(t)
		edge, err := balance.NewFleet(balance.FleetConfig{Node: "edge", Region: "here"})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 2)
		for _, at := range []struct {
			f *balance.Fleet
			c exchange.Config
		}{{owner, exchange.Config{Worker: true}}, {edge, exchange.Config{Edge: true}}} {
			link, err := exchange.New(at.f, between.Connect(at.f.Node()), at.c)
			if err != nil {
				t.Fatal(err)
			}
			go func() { ended <- link.Run(ctx) }()
		}
		if err := edge.Apply(balance.PutApp{App: balance.App{ID: "web"}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if rows, ok := edge.App("web"); !ok || rows.Len() != 1 {
			t.Error("the edge does not know the machine")
		}
		stop()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
}

// A node in front of a machine that is a server of this test.
func TestNode(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "well")
	}))
	defer server.Close()
	n, err := node.New(node.Config{
		Apps:   []node.App{{App: balance.App{ID: "web.test", Autostart: true}, Machines: 1}},
		Driver: shut{new(machinetest.Fake)},
		Starter: machine.Config{Check: machine.Check{
			Func: func(context.Context, balance.Machine) error { return nil },
		}},
		Transport: backhaul.Config{MachineConfig: backhaul.MachineConfig{
			DialMachine: func(ctx context.Context, _ balance.Machine) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", server.Listener.Addr().String())
			},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- n.Run(t.Context()) }()
	answer := httptest.NewRecorder()
	n.Handler().ServeHTTP(answer, httptest.NewRequest("GET", "http://web.test/", nil))
	if answer.Code != http.StatusOK || answer.Body.String() != "well" {
		t.Errorf("%d %q", answer.Code, answer.Body)
	}
	if err := n.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// shut is a driver for a node: nothing of it outlives the test.
type shut struct{ *machinetest.Fake }

func (shut) Shutdown(context.Context) error { return nil }
