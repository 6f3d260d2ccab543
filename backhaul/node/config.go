package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange"
	"github.com/ebbkit/ebb/downscale"
	"github.com/ebbkit/ebb/internal/enum"
)

// Driver runs the machines of a node: a [machine.Driver] that can also end everything it has
// started. The optional interfaces of package machine (Inspector, Describer, Readiness) are used
// where a driver has them.
type Driver interface {
	machine.Driver
	// Shutdown ends all machines and leaves nothing behind; when ctx ends it kills what is left.
	Shutdown(ctx context.Context) error
}

// Role says what a node does.
type Role uint8

// The roles.
const (
	RoleBoth   Role = iota // it has clients, and machines
	RoleEdge               // it has clients
	RoleWorker             // it has machines
)

var roleNames = [...]string{"edge+worker", "edge", "worker"}

// String returns the role's name as the status page shows it.
func (r Role) String() string { return enum.String(roleNames[:], uint8(r), "role") }

// App is an app and what this node does with it.
type App struct {
	balance.App
	// Hosts are the host names by which clients ask for the app, in lower case and without a port.
	// The app's ID is always one more.
	Hosts []string
	// Machines is how many machines of the app this node hosts, at most 10,000. They begin asleep.
	Machines int
	// Driver runs them. nil means Config.Driver.
	Driver Driver
	// Check says when its machines are ready and how they are checked afterwards. The zero value
	// means Config.Starter's.
	Check machine.Check
}

// Config configures a [Node].
//
// The configurations of the parts apply as they are, except for what the node wires itself. Their
// traces are called as well as the node's own.
type Config struct {
	// Node is this node's name. It is required where there are other nodes; alone, "" means "here".
	Node balance.NodeID
	// Region is where the node is. "" means "home".
	Region string

	// Role says what the node does where there are other nodes. 0 means both.
	Role Role

	// Apps are the apps that are served. A node without the worker role hosts none of their
	// machines.
	Apps []App
	// Driver runs the machines of apps that have none of their own.
	Driver Driver

	// Listener accepts clients. [Node.Run] serves it and closes it. nil: you serve [Node.Handler]
	// yourself. [backhaul.Listen] makes a listener that ends without resetting any connection.
	Listener net.Listener
	// StatusNames are the host names under which [Node.StatusHandler] answers, besides localhost
	// and IP addresses.
	StatusNames []string

	// Exchange carries rows, loads, acknowledgements and demand between the nodes. nil: there is no
	// other node.
	Exchange exchange.Exchange
	// Link configures what is published through the exchange. The node sets Edge, Worker and
	// Demand. Hop and Probe are the addresses at which others reach those sockets; "" means the
	// sockets' own.
	Link exchange.Config
	// Hop accepts other nodes, with requests for this node's machines and with orders. [Node.Run]
	// serves it and closes it.
	Hop net.Listener
	// Keys are secrets of the cluster, see [backhaul.Config].Keys. Nodes authenticate each other by
	// them where they do not by Identity. The first is the key of the probes.
	Keys []string
	// Identity is this node's certificate, for mutual TLS on the hop. nil: there is none.
	Identity *backhaul.Identity
	// Dial connects to another node's hop. nil means TCP to its address.
	Dial func(ctx context.Context, to exchange.Node) (net.Conn, error)
	// Probe is a UDP socket by which the node measures the round trip to the others; see package
	// rtt. nil: nothing is measured.
	Probe net.PacketConn

	// Balance configures the picks: the strategy, and the distances, which otherwise are the
	// measured ones. The node sets GiveBack.
	Balance balance.Config
	// Autostart configures the waiting room and, with its Policy, when machines are started. The
	// node sets Others.
	Autostart autostart.Config
	// Starter configures starts and checks.
	Starter machine.Config
	// Downscale configures which machines may sleep. If Habits is nil, a [downscale.Habits] learns
	// them. The node sets Connections and Views.
	Downscale downscale.Config
	// Transport configures requests on their way to machines. If its Route is nil, requests are
	// routed by App.Hosts. The node sets Connections, Keys, Dial and RTT.
	Transport backhaul.Config
	// Proxy configures what clients see. Its App is for a node of one app.
	Proxy backhaul.ProxyConfig
	// Front configures the server of Listener. If ConnContext is nil, that of package autostart is
	// used.
	Front backhaul.FrontConfig

	// Grace bounds how long requests may take to end when Run's context ends. 0 means 20 s;
	// negative: none.
	Grace time.Duration
	// Logger gets the node's decisions and errors. nil: nothing is logged.
	Logger *slog.Logger
}

// defaultGrace leaves requests time to end and stays below 30 s, after which process managers
// commonly kill a process.
const defaultGrace = 20 * time.Second

// machinesMax bounds the machines of an app on one node: more is a mistake in the configuration.
const machinesMax = 10_000

func (c *Config) resolve() error {
	if c.Exchange == nil {
		c.Node = cmp.Or(c.Node, "here")
	}
	c.Region = cmp.Or(c.Region, "home")
	c.Grace = max(0, cmp.Or(c.Grace, defaultGrace))
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Downscale.Habits == nil {
		c.Downscale.Habits = &downscale.Habits{}
	}
	if c.Front.ConnContext == nil {
		c.Front.ConnContext = autostart.ConnContext
	}
	if c.Front.Logger == nil {
		c.Front.Logger = c.Logger
	}
	return errors.Join(c.checkApps(), c.checkWired(), c.resolveNodes())
}

// resolveNodes fills in and checks the fields that concern other nodes.
func (c *Config) resolveNodes() error {
	if c.Role > RoleWorker {
		return fmt.Errorf("node: Config.Role %d: want RoleBoth, RoleEdge or RoleWorker", c.Role)
	}
	if c.Exchange == nil {
		switch {
		case c.Role != RoleBoth:
			return fmt.Errorf(
				"node: Config.Role %v without Exchange: nobody would hear of this node", c.Role,
			)
		case c.Hop != nil:
			return errors.New(
				"node: Config.Hop without Exchange: nobody would come; set Exchange, or leave it out",
			)
		}
		return nil
	}
	switch {
	case c.Node == "":
		return errors.New("node: Config.Node is empty: where there are others, each has a name")
	case c.Hop == nil && c.worker():
		return errors.New("node: Config.Hop is nil: set the listener where other nodes come")
	case len(c.Keys) == 0 && c.Identity == nil:
		return errors.New(
			"node: Config.Keys and Identity are empty: set what the nodes know each other by",
		)
	case len(c.Keys) == 0 && c.Probe != nil:
		return errors.New("node: Config.Probe without Keys: set the secret that answers probes")
	}
	var err error
	if c.Hop != nil && c.Link.Hop == "" {
		c.Link.Hop, err = reached("Hop", c.Hop.Addr())
	}
	if c.Probe != nil && c.Link.Probe == "" && err == nil {
		c.Link.Probe, err = reached("Probe", c.Probe.LocalAddr())
	}
	return err
}

// reached returns the address at which others reach a socket.
func reached(field string, at net.Addr) (string, error) {
	a, err := netip.ParseAddrPort(at.String())
	if err != nil || a.Addr().IsUnspecified() || a.Port() == 0 {
		return "", fmt.Errorf(
			"node: Config.%s listens at %v, which tells others nothing: set Config.Link.%s to where they reach it",
			field, at, field,
		)
	}
	return a.String(), nil
}

func (c *Config) edge() bool { return c.Role != RoleWorker }

func (c *Config) worker() bool { return c.Role != RoleEdge }

func (c *Config) checkApps() error {
	apps, hosts := map[balance.AppID]bool{}, map[string]balance.AppID{}
	for _, a := range c.Apps {
		switch {
		case apps[a.ID]:
			return fmt.Errorf("node: Config.Apps names app %q twice: leave one", a.ID)
		case a.Machines < 0 || a.Machines > machinesMax:
			return fmt.Errorf("node: app %q: Machines %d: want 0 (none here) to %d", a.ID, a.Machines,
				machinesMax)
		case a.Machines > 0 && c.worker() && a.Driver == nil && c.Driver == nil:
			return fmt.Errorf(
				"node: app %q has %d machines here and no driver: set Config.Driver; package process has one",
				a.ID, a.Machines,
			)
		}
		apps[a.ID] = true
		for _, h := range a.Hosts {
			if of, ok := hosts[h]; ok && of != a.ID {
				return fmt.Errorf("node: apps %q and %q both have the host %q: leave it to one", of, a.ID, h)
			}
			hosts[h] = a.ID
		}
	}
	return nil
}

// checkWired refuses fields that the node sets itself: a value in them would be lost.
func (c *Config) checkWired() error {
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"Balance.GiveBack", c.Balance.GiveBack != nil},
		{"Autostart.Others", c.Autostart.Others != nil},
		{"Starter.CheckOf", c.Starter.CheckOf != nil},
		{"Downscale.Connections", c.Downscale.Connections != nil},
		{"Downscale.Views", c.Downscale.Views != nil},
		{"Transport.Connections", c.Transport.Connections != nil},
		{"Transport.Keys", c.Transport.Keys != nil},
		{"Transport.Dial", c.Transport.Dial != nil},
		{"Transport.RTT", c.Transport.RTT != nil},
		{"Link.Edge or Worker", c.Link.Edge || c.Link.Worker},
		{"Link.Demand", c.Link.Demand != nil},
	} {
		if f.set {
			return fmt.Errorf("node: Config.%s is the node's own to set: leave it out", f.name)
		}
	}
	return nil
}

// app returns the configuration of an app, or nil for an app that did not come from Config.
func (c *Config) app(id balance.AppID) *App {
	for i := range c.Apps {
		if c.Apps[i].ID == id {
			return &c.Apps[i]
		}
	}
	return nil
}
