// Package member runs a node of the fleet by its configuration, and follows changes to it.
package member

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/backhaul/node"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange"
	"github.com/ebbkit/ebb/downscale"
	"github.com/ebbkit/ebb/examples/fleet/internal/config"
	"github.com/ebbkit/ebb/examples/fleet/internal/relay"
)

// Config says what to run.
type Config struct {
	File string // of the configuration
	Role config.Role
	// Engine connects to the engine that carries messages between the nodes.
	Engine func(config.Engine, string) (x exchange.Exchange, closeEngine func(), err error)
	// Again has the configuration read again.
	Again  <-chan os.Signal
	Logger *slog.Logger
	Output io.Writer // for what machines print
}

// Member is a node, with the configuration that it follows.
type Member struct {
	c       Config
	file    atomic.Pointer[config.File] // the configuration in force
	drivers *drivers
	node    *node.Node
	started time.Time
}

// Run runs a node until ctx ends, and returns nil; an error says why it could not run.
func Run(ctx context.Context, c Config) error {
	f, err := config.Read(c.File, c.Role)
	if err != nil {
		return err
	}
	m := &Member{c: c, started: time.Now()}
	m.file.Store(f)
	if m.drivers, err = newDrivers(f, c.Output); err != nil {
		return err
	}
	x, closeEngine, err := c.Engine(f.Engine, f.Node)
	if err != nil {
		return fmt.Errorf("engine: %w", err)
	}
	defer closeEngine()
	nc, err := m.config(f)
	if err != nil {
		return err
	}
	nc.Exchange = x
	if m.node, err = node.New(nc); err != nil {
		return err
	}
	return m.run(ctx, f)
}

func (m *Member) run(ctx context.Context, f *config.File) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var all errgroup.Group
	all.Go(func() error { defer stop(); return m.node.Run(ctx) })
	all.Go(func() error {
		return config.Watcher{
			Name: m.c.File, Role: m.c.Role, Again: m.c.Again, Changed: m.changed,
			Refused: func(err error) { m.c.Logger.Error("the configuration stays as it is", "error", err) },
		}.Run(ctx, f)
	})
	if f.Status != "" {
		l, err := net.Listen("tcp", f.Status)
		if err != nil {
			stop()
			return errors.Join(fmt.Errorf("status: %w", err), all.Wait())
		}
		pages := &http.Server{Handler: m.pages()}
		all.Go(func() error {
			if err := pages.Serve(l); err != http.ErrServerClosed {
				return err
			}
			return nil
		})
		all.Go(func() error { <-ctx.Done(); return pages.Close() })
	}
	return all.Wait()
}

// config returns the node's configuration, with its listeners open.
func (m *Member) config(f *config.File) (c node.Config, err error) {
	c = node.Config{
		Node: balance.NodeID(f.Node), Region: f.Region, Driver: m.drivers, Keys: f.Keys,
		Link: exchange.Config{Cluster: f.Cluster, Expire: f.Expire}, Grace: f.Grace, Logger: m.c.Logger,
	}
	c.Role = map[config.Role]node.Role{
		config.RoleEdge: node.RoleEdge, config.RoleWorker: node.RoleWorker, config.RoleBoth: node.RoleBoth,
	}[m.c.Role]
	for _, id := range slices.Sorted(maps.Keys(f.Apps)) {
		a := f.Apps[id]
		c.Apps = append(c.Apps, node.App{App: a.Balance(id), Machines: a.Machines, Check: check(a)})
	}
	c.Starter.Check.Func = m.check
	c.Transport.Route = m.route
	if f.Relay != "" {
		c.Dial = func(ctx context.Context, to exchange.Node) (net.Conn, error) {
			return relay.Dial(ctx, m.file.Load().Relay, to.Hop)
		}
	}
	if f.Probe != "" {
		if c.Probe, err = net.ListenPacket("udp", f.Probe); err != nil {
			return c, fmt.Errorf("probe: %w", err)
		}
	} else {
		c.Balance.Distance = distance{m}
	}
	if m.c.Role != config.RoleWorker {
		if c.Listener, err = backhaul.Listen(f.Listen); err != nil {
			return c, fmt.Errorf("listen: %w", err)
		}
	}
	if m.c.Role != config.RoleEdge {
		if c.Hop, err = backhaul.Listen(f.Hop); err != nil {
			return c, fmt.Errorf("hop: %w", err)
		}
	}
	return c, nil
}

// checkEvery is how often a running machine is checked.
const checkEvery = 5 * time.Second

func check(a config.App) machine.Check { return machine.Check{Path: a.Check, Every: checkEvery} }

// check checks machines of apps that were added after the start.
func (m *Member) check(ctx context.Context, of balance.Machine) error {
	a := m.file.Load().Apps[string(of.App)]
	if a.Check == "" {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", of.Addr)
		if err == nil {
			c.Close()
		}
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+of.Addr+a.Check, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode/100 != 2 && resp.StatusCode/100 != 3 {
		return fmt.Errorf("%s answers %s", a.Check, resp.Status)
	}
	return nil
}

// route finds the app that a client asks for.
func (m *Member) route(r *http.Request) (balance.Request, error) {
	f := m.file.Load()
	app, ok := f.Hosts[r.URL.Host]
	if _, named := f.Apps[r.URL.Host]; !ok && !named {
		app, ok = f.Hosts["*"]
	}
	if !ok {
		app = r.URL.Host
	}
	return balance.Request{App: balance.AppID(app)}, nil
}

// distance gives the round trips to regions as configured.
type distance struct{ m *Member }

// RTT implements [balance.Distance].
func (d distance) RTT(region string) (time.Duration, bool) {
	rtt := d.m.file.Load().Regions[region]
	return rtt, rtt > 0
}

// changed puts a new configuration in force, as far as that works without a restart.
func (m *Member) changed(before, after *config.File) {
	if err := m.drivers.follow(after); err != nil {
		m.c.Logger.Error("the configuration stays as it is", "error", err)
		return
	}
	m.file.Store(after)
	for _, field := range config.Fixed(before, after) {
		m.c.Logger.Warn("this holds from the next start of the node", "field", field)
	}
	for _, id := range slices.Sorted(maps.Keys(after.Apps)) {
		if before.Apps[id].Check != after.Apps[id].Check && !reflect.ValueOf(before.Apps[id]).IsZero() {
			m.c.Logger.Warn("this holds from the next start of the node", "field", "apps."+id+".check")
		}
		if err := m.put(id, before.Apps[id], after.Apps[id]); err != nil {
			m.c.Logger.Error("an app does not follow the configuration", "app", id, "error", err)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(before.Apps)) {
		if _, ok := after.Apps[id]; !ok {
			go m.removed(id) // waits for requests
		}
	}
	m.c.Logger.Info("the configuration has changed")
}

// removeWait bounds how long the requests of a machine may take when it is removed.
const removeWait = 30 * time.Second

// put applies an app's configuration to the fleet, with its number of machines.
func (m *Member) put(id string, before, after config.App) error {
	fleet := m.node.Fleet()
	if err := fleet.Apply(balance.PutApp{App: after.Balance(id)}); err != nil {
		return err
	}
	if m.c.Role == config.RoleEdge {
		return nil
	}
	for i := range max(before.Machines, after.Machines) {
		one := balance.Machine{App: balance.AppID(id), ID: m.machine(id, i), Region: fleet.Region()}
		switch {
		case i >= after.Machines:
			go m.remove(one)
		case i >= before.Machines:
			if _, err := fleet.Host(one); err != nil {
				return err
			}
		}
	}
	return nil
}

// machine names a machine in the same way as package node.
func (m *Member) machine(app string, i int) balance.MachineID {
	return balance.MachineID(fmt.Sprintf("%s-%s-%d", app, m.node.Fleet().Node(), i+1))
}

func (m *Member) remove(one balance.Machine) {
	order := downscale.Order{Reason: "it is no longer configured", Drain: removeWait}
	if err := m.node.Downscaler().RemoveMachine(context.Background(), one, order); err != nil {
		m.c.Logger.Error("a machine stays", "machine", one.ID, "error", err)
	}
}

func (m *Member) removed(id string) {
	order := downscale.Order{Reason: "the app is no longer configured", Drain: removeWait}
	var err error
	if down := m.node.Downscaler(); down != nil {
		err = down.RemoveApp(context.Background(), balance.AppID(id), order)
	} else {
		err = m.node.Fleet().Apply(balance.RemoveApp{ID: balance.AppID(id)})
	}
	if err != nil {
		m.c.Logger.Error("an app stays", "app", id, "error", err)
	}
}
