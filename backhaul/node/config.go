package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale"
)

// Driver runs the machines of a node: a [machine.Driver] that may also end everything it has begun.
// The optional interfaces of package machine (Inspector, Describer, Readiness) are used where a
// driver has them.
type Driver interface {
	machine.Driver
	// Shutdown ends all machines and leaves nothing behind; when ctx ends it kills what is left.
	Shutdown(ctx context.Context) error
}

// App is an app, and what this node does with it.
type App struct {
	balance.App
	// Hosts are the names under which clients ask for the app, in lower case and without a port. The
	// app's ID is one besides.
	Hosts []string
	// Machines is how many machines of the app this node hosts, at most 10,000. They begin asleep.
	Machines int
	// Driver runs them. nil means Config.Driver.
	Driver Driver
	// Check says when they are ready and how they are checked afterwards. The zero value means
	// Config.Starter's.
	Check machine.Check
}

// Config configures a [Node].
//
// The configurations of the parts hold as they are, but for what the node wires itself. Their
// traces are called, and the node listens besides.
type Config struct {
	// Node is this node's name. It has to be set where there are others; alone, "" means "here".
	Node balance.NodeID
	// Region is where the node is. "" means "home".
	Region string

	// Apps are what is served.
	Apps []App
	// Driver runs the machines of apps that have none of their own.
	Driver Driver

	// Listener is where clients come. [Node.Run] serves it and closes it. nil: somebody else serves
	// [Node.Handler]. [backhaul.Listen] makes one that ends without resetting anybody.
	Listener net.Listener
	// StatusNames are the names under which [Node.StatusHandler] may be asked, besides localhost and
	// addresses.
	StatusNames []string

	// Balance configures the picks: strategy and distances.
	Balance balance.Config
	// Autostart configures the waiting room, and with its Policy when machines are started.
	Autostart autostart.Config
	// Starter configures starts and checks.
	Starter machine.Config
	// Downscale configures who may sleep. Habits nil means that they are learned, by a
	// [downscale.Habits]. The node sets Connections.
	Downscale downscale.Config
	// Transport configures requests on their way to machines. Its Route nil means by App.Hosts. The
	// node sets Connections.
	Transport backhaul.Config
	// Proxy configures what clients see. Its App is for a node of one app.
	Proxy backhaul.ProxyConfig
	// Front configures the server of Listener. ConnContext nil means that of package autostart.
	Front backhaul.FrontConfig

	// Grace bounds how long requests may take to end when Run's context ends. 0 means 20 s; negative:
	// none.
	Grace time.Duration
	// Logger gets what the node decides, and what goes wrong. nil: nothing is logged.
	Logger *slog.Logger
}

// defaultGrace leaves requests time to end, and stays below the 30 s after which those who stop
// processes commonly kill them.
const defaultGrace = 20 * time.Second

// machinesMax bounds the machines of an app on one node: what is more is a slip of the pen.
const machinesMax = 10_000

func (c *Config) resolve() error {
	c.Node = cmp.Or(c.Node, "here")
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
	return errors.Join(c.checkApps(), c.checkWired())
}

func (c *Config) checkApps() error {
	apps, hosts := map[balance.AppID]bool{}, map[string]balance.AppID{}
	for _, a := range c.Apps {
		switch {
		case apps[a.ID]:
			return fmt.Errorf("node: Config.Apps names app %q twice: leave one", a.ID)
		case a.Machines < 0 || a.Machines > machinesMax:
			return fmt.Errorf("node: app %q: Machines %d: want 0 (none here) to %d", a.ID, a.Machines,
				machinesMax)
		case a.Machines > 0 && a.Driver == nil && c.Driver == nil:
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

// checkWired refuses what the node sets itself: it would be lost.
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
	} {
		if f.set {
			return fmt.Errorf("node: Config.%s is the node's own to set: leave it out", f.name)
		}
	}
	return nil
}

// app returns what is configured of an app; nil for one that came otherwise.
func (c *Config) app(id balance.AppID) *App {
	for i := range c.Apps {
		if c.Apps[i].ID == id {
			return &c.Apps[i]
		}
	}
	return nil
}
