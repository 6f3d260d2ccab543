package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale"
	"github.com/ebbkit/ebb/internal/status"
)

// Node is a process of the fleet. Make one with [New], run it with [Node.Run]. All methods are safe
// for concurrent use.
type Node struct {
	config Config
	fleet  *balance.Fleet
	conns  backhaul.Connections // to the machines of this process
	edge   *edge
	worker *worker
	report *report
	page   http.Handler

	ran  atomic.Bool
	mu   sync.Mutex // no part begins when all have been told to end
	over bool
	work context.Context // of all parts
	stop context.CancelFunc
	all  *errgroup.Group
	once sync.Once // Shutdown
	done chan struct{}
	err  error // of Shutdown
}

// New returns a node. It starts nothing, see [Node.Run].
func New(c Config) (*Node, error) {
	if err := c.resolve(); err != nil {
		return nil, err
	}
	n := &Node{config: c, report: newReport(&c), done: make(chan struct{})}
	work, stop := context.WithCancel(context.Background())
	n.stop = stop
	n.all, n.work = errgroup.WithContext(work)
	if err := n.make(); err != nil {
		stop()
		return nil, err
	}
	n.page = status.Handler(source{n}, c.StatusNames...)
	return n, nil
}

// make makes the parts.
func (n *Node) make() (err error) {
	c := &n.config
	n.fleet, err = balance.NewFleet(balance.FleetConfig{
		Node: c.Node, Region: c.Region, Incarnation: uint64(time.Now().UnixNano()),
	})
	if err != nil {
		return err
	}
	for _, a := range c.Apps {
		if err := n.fleet.Apply(balance.PutApp{App: a.App}); err != nil {
			return err
		}
	}
	if n.worker, err = n.newWorker(); err != nil {
		return err
	}
	n.edge, err = n.newEdge(n.worker.starter)
	return err
}

// Fleet returns the node's catalogue: apps and machines come and go with [balance.Fleet.Apply] and
// [balance.Fleet.Host].
func (n *Node) Fleet() *balance.Fleet { return n.fleet }

// Balancer returns what picks.
func (n *Node) Balancer() *balance.Balancer { return n.edge.balancer }

// Autostart returns the waiting room.
func (n *Node) Autostart() *autostart.Autostart { return n.edge.auto }

// Downscaler returns what stops this node's machines: for maintenance, and to take apps out.
func (n *Node) Downscaler() *downscale.Downscaler { return n.worker.scaler }

// Handler returns what serves clients. Where [Config].Listener is nil it is for a server of yours,
// such as a [backhaul.Front]; end that one before the node.
func (n *Node) Handler() http.Handler { return n.edge.proxy }

// StatusHandler returns a page for people, and the same for scripts at /status.json: nodes,
// machines, what was decided and why. Whoever may ask sees everything and may stop machines, so it
// belongs on a private address. It answers requests that name this host by an address, as localhost
// or by one of Config.StatusNames.
func (n *Node) StatusHandler() http.Handler { return n.page }

// Run serves until ctx ends; then it shuts down as [Node.Shutdown] does, within Config.Grace, and
// returns nil. It also returns, and the node is shut down, when Shutdown is called, and when a part
// fails: then with its error. A Node runs once: another call returns an error.
func (n *Node) Run(ctx context.Context) error {
	if n.ran.Swap(true) {
		return errors.New("node: Node.Run was called before: make another node with New")
	}
	n.begin()
	select {
	case <-ctx.Done():
	case <-n.work.Done(): // something failed, or Shutdown is past that
	case <-n.done:
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), n.config.Grace)
	defer cancel()
	err := n.Shutdown(last)
	return errors.Join(n.all.Wait(), err)
}

// begin starts the parts, unless all is over.
func (n *Node) begin() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.over {
		return
	}
	run := func(name string, f func(context.Context) error) {
		n.all.Go(func() error {
			err := f(n.work)
			if err == nil || n.work.Err() != nil || errors.Is(err, http.ErrServerClosed) {
				return nil
			}
			return fmt.Errorf("node: %s: %w", name, err)
		})
	}
	n.worker.run(run)
	n.edge.run(run)
	run("history", func(ctx context.Context) error { return n.report.history.Run(ctx, source{n}) })
}

// end ends all parts and waits for them.
func (n *Node) end() {
	n.mu.Lock()
	n.over = true
	n.mu.Unlock()
	n.stop()
	n.all.Wait() //nolint:errcheck // Run returns it
}

// Shutdown ends the node in the order in which nothing is lost: clients are told that their
// connections end, this node's machines are cordoned and their long connections told, requests end,
// and machines are stopped last. When ctx ends it waits for requests no longer, and what is left is
// cut off. It returns when nothing runs any more; the error names what could not be ended. Further
// calls wait for the first, and return the same.
func (n *Node) Shutdown(ctx context.Context) error {
	n.once.Do(func() {
		n.err = n.shutdown(ctx)
		close(n.done)
	})
	return n.err
}

func (n *Node) shutdown(ctx context.Context) error {
	n.edge.drain(ctx)
	n.worker.cordon()
	n.worker.notify(ctx)
	n.edge.shutdown(ctx)
	n.end()
	err := n.worker.shutdown(ctx)
	n.edge.transport.Close()
	n.report.log.Close() // ends those who follow the page's events
	return err
}
