// Package town runs a whole fleet on this host: its processes, the network between them, which is
// as slow as between real places, and a page that shows what each node knows.
package town

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sync/errgroup"

	"github.com/ebbkit/ebb/examples/fleet/internal/app"
	"github.com/ebbkit/ebb/examples/fleet/internal/config"
	"github.com/ebbkit/ebb/examples/fleet/internal/relay"
)

// Config says what a town has.
type Config struct {
	Edges, Workers int // in each region
	Machines       int // of each worker
	Soft, Hard     int // limits of a machine, in requests
	KeepAlive      time.Duration
	// Port is the port of the page; the edges have the ports after it. 0: any free ports.
	Port int
	// Engine is the URL of the NATS server; empty: the town runs its own.
	Engine string
	// App is the command of a machine; empty: the built-in app.
	App string
	// Record is a folder in which the built-in app records what it executes; empty: none.
	Record string
	// Restart is the wait before a process that has ended is restarted.
	Restart time.Duration
	// Self is this program's file, Dir a folder for the files that the town writes.
	Self, Dir string
	Out       io.Writer
}

// engineName is the name of the engine among the processes, and in the network.
const engineName = "engine"

// regions are the nodes' regions, and trips the round trips between them, as measured between real
// places.
var (
	regions = []string{"nrt", "hkg", "fra"}
	trips   = map[[2]string]time.Duration{
		{"nrt", "nrt"}: time.Millisecond, {"hkg", "hkg"}: time.Millisecond, {"fra", "fra"}: time.Millisecond,
		{"hkg", "nrt"}: 48 * time.Millisecond, {"fra", "nrt"}: 230 * time.Millisecond,
		{"fra", "hkg"}: 190 * time.Millisecond,
	}
)

// Town is a fleet on one host.
type Town struct {
	c         Config
	net       *relay.Net
	processes []*Process
	region    map[string]string // of each process
	key       string
	spawner   *spawner
	page      net.Listener
	watcher   *watcher

	mu     sync.Mutex // of Out and events
	events []Event
}

// Event is something that happened.
type Event struct {
	At   time.Time
	Name string
	Text string
}

const eventsMax = 200

func (t *Town) event(name, format string, args ...any) {
	e := Event{time.Now(), name, fmt.Sprintf(format, args...)}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events = append(t.events, e)
	if len(t.events) > eventsMax {
		t.events = slices.Delete(t.events, 0, len(t.events)-eventsMax)
	}
	fmt.Fprintf(t.c.Out, "%-14s %s\n", name, e.Text)
}

// New prepares a town. It starts no process; see [Town.Run].
func New(c Config) (t *Town, err error) {
	c.Restart = cmp.Or(c.Restart, 3*time.Second)
	t = &Town{c: c, region: map[string]string{}, spawner: newSpawner(), key: rand.Text()}
	t.net = relay.New(t.delay)
	defer func() {
		if err != nil {
			t.net.Close()
			if t.page != nil {
				t.page.Close()
			}
		}
	}()
	if t.page, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", c.Port)); err != nil {
		return t, fmt.Errorf("the page: %w: name another port with -port", err)
	}
	if err := t.engine(); err != nil {
		return t, err
	}
	port := c.Port
	for _, of := range regions {
		for i := range c.Edges {
			if port > 0 {
				port++
			}
			if err := t.node(config.RoleEdge, of, i, port); err != nil {
				return t, err
			}
		}
		for i := range c.Workers {
			if err := t.node(config.RoleWorker, of, i, 0); err != nil {
				return t, err
			}
		}
	}
	t.watcher = newWatcher(t)
	return t, nil
}

// delay returns half of a round trip.
func (t *Town) delay(from, to string) time.Duration {
	a, b := t.region[from], t.region[to]
	return trips[[2]string{min(a, b), max(a, b)}] / 2
}

func (t *Town) engine() error {
	t.region[engineName] = regions[0]
	if t.c.Engine != "" {
		return nil
	}
	at, err := address(0)
	if err != nil {
		return err
	}
	t.c.Engine = "nats://" + at
	dir := filepath.Join(t.c.Dir, engineName)
	t.processes = append(t.processes, &Process{
		Name: engineName, Region: regions[0], Role: engineName, kick: make(chan struct{}, 1),
		args: []string{engineName, "-listen", at, "-dir", dir},
	})
	return nil
}

// node adds a node, with its configuration.
func (t *Town) node(role config.Role, region string, i, port int) (err error) {
	p := &Process{
		Name: fmt.Sprintf("%s-%s-%d", region, role, i+1), Region: region, Role: string(role),
		kick: make(chan struct{}, 1),
	}
	t.region[p.Name] = region
	f := config.File{
		Cluster: "fleet", Node: p.Name, Region: region, Keys: []string{t.key},
		Regions: map[string]time.Duration{}, Grace: 10 * time.Second,
		Apps: map[string]config.App{"web": {
			Soft: t.c.Soft, Hard: t.c.Hard, KeepAlive: t.c.KeepAlive, Finish: true,
		}},
		Hosts: map[string]string{"*": "web"},
	}
	for _, to := range regions {
		f.Regions[to] = trips[[2]string{min(region, to), max(region, to)}]
	}
	if f.Status, err = address(0); err != nil {
		return err
	}
	if role == config.RoleEdge {
		if f.Listen, err = address(port); err != nil {
			return err
		}
	} else {
		if f.Hop, err = address(0); err != nil {
			return err
		}
		t.net.Name(f.Hop, p.Name)
		t.machines(&f)
	}
	p.Address, p.Status = f.Listen, f.Status
	if f.Relay, err = t.net.Door(p.Name); err != nil {
		return err
	}
	if f.Engine.URL, err = t.reach(p.Name); err != nil {
		return err
	}
	text, err := yaml.Marshal(f)
	if err != nil {
		return err
	}
	name := filepath.Join(t.c.Dir, p.Name+".yaml")
	p.args = []string{string(role), "-config", name}
	t.processes = append(t.processes, p)
	return os.WriteFile(name, text, 0o600)
}

// reach returns the URL at which a node reaches the engine: through the town's network if possible.
func (t *Town) reach(from string) (string, error) {
	at, err := url.Parse(t.c.Engine)
	if err != nil || at.Scheme != "nats" || at.Port() == "" { // TLS checks the server's name
		return t.c.Engine, nil
	}
	at.Host, err = t.net.Pipe(from, engineName, at.Host)
	return at.String(), err
}

// address returns an address at a port, or at a free one that no other process gets by chance: it
// is below the ports of outgoing connections, and of machines.
func address(port int) (string, error) {
	if port > 0 {
		return fmt.Sprintf("127.0.0.1:%d", port), nil
	}
	for range 100 {
		n, err := rand.Int(rand.Reader, big.NewInt(8000))
		if err != nil {
			return "", err
		}
		at := fmt.Sprintf("127.0.0.1:%d", 11000+n.Int64())
		if l, err := net.Listen("tcp", at); err == nil {
			return at, l.Close()
		}
	}
	return "", fmt.Errorf("no port from 11000 to 18999 is free")
}

// machines configures the machines of a worker.
func (t *Town) machines(f *config.File) {
	a := f.Apps["web"]
	a.Driver, a.Machines = "app", t.c.Machines
	d := config.Driver{Command: t.c.App, StopTimeout: 5 * time.Second}
	if t.c.App == "" {
		d.Argv, d.Env = []string{t.c.Self}, app.Env(t.c.Record, t.c.Hard, 200*time.Millisecond)
		a.Check = "/healthz"
	}
	f.Apps["web"], f.Drivers = a, map[string]config.Driver{"app": d}
}

// Processes returns all processes: the engine first, if it is the town's own.
func (t *Town) Processes() []*Process { return t.processes }

func (t *Town) process(name string) *Process {
	i := slices.IndexFunc(t.processes, func(p *Process) bool { return p.Name == name })
	if i < 0 {
		return nil
	}
	return t.processes[i]
}

// Net returns the network between the nodes.
func (t *Town) Net() *relay.Net { return t.net }

// Page returns the URL of the page.
func (t *Town) Page() string { return "http://" + t.page.Addr().String() + "/" }

// Run runs the town until ctx ends, and then ends all processes: workers after edges, and the
// engine last.
func (t *Town) Run(ctx context.Context) error {
	watch, stopWatch := context.WithCancel(context.Background())
	page := &http.Server{Handler: t.Handler()}
	var pages errgroup.Group
	pages.Go(func() error { page.Serve(t.page); return nil })
	pages.Go(func() error { t.watcher.run(watch); return nil })
	failed, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	stages := [][]string{{string(config.RoleEdge)}, {string(config.RoleWorker)}, {engineName}}
	runs, stops := make([]errgroup.Group, len(stages)), make([]func(), len(stages))
	for i, roles := range slices.Backward(stages) {
		stage, stop := context.WithCancel(context.Background())
		stops[i] = stop
		for _, p := range t.processes {
			if slices.Contains(roles, p.Role) {
				runs[i].Go(func() error {
					err := p.run(stage, t)
					if err != nil {
						fail(err)
					}
					return err
				})
			}
		}
	}
	<-failed.Done()
	var err error
	for i := range stages {
		stops[i]()
		err = cmp.Or(err, runs[i].Wait())
	}
	stopWatch()
	page.Close()
	pages.Wait() //nolint:errcheck // they have none
	t.net.Close()
	close(t.spawner.do)
	return err
}

// Describe writes the addresses of everything.
func (t *Town) Describe(out io.Writer) {
	fmt.Fprintf(out, "The page is at %s\n", t.Page())
	for _, p := range t.processes {
		if p.Address != "" {
			fmt.Fprintf(out, "curl http://%s/ asks the edge %s\n", p.Address, p.Name)
		}
	}
}
