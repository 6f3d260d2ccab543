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

	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/backhaul/node/internal/orders"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange"
	"github.com/ebbkit/ebb/downscale"
	"github.com/ebbkit/ebb/internal/eventlog"
	"github.com/ebbkit/ebb/internal/report"
	"github.com/ebbkit/ebb/internal/status"
)

// Node is a process of the fleet. Make one with [New] and run it with [Node.Run]. All methods are
// safe for concurrent use.
type Node struct {
	config  Config
	fleet   *balance.Fleet
	conns   backhaul.Connections // to the machines of this process
	edge    *edge                // nil without the role, and so is worker
	worker  *worker
	peers   *peers         // nil where there are no others
	orders  *orders.Server // nil where there are no others, and so is hop
	hop     *hop
	lasting orders.Tasks
	report  report.Report
	shown   shown
	page    http.Handler

	ran    atomic.Bool
	ending atomic.Bool // no machine is started or recalled for others any more
	mu     sync.Mutex  // no part begins when all have been told to end
	over   bool
	runs   bool            // the parts have begun
	work   context.Context // of all parts
	stop   context.CancelFunc
	all    *errgroup.Group
	once   sync.Once // Shutdown
	done   chan struct{}
	err    error // of Shutdown
}

// New returns a node. It starts nothing; see [Node.Run].
func New(c Config) (*Node, error) {
	if err := c.resolve(); err != nil {
		return nil, err
	}
	n := &Node{
		config: c, shown: shown{started: time.Now()}, done: make(chan struct{}),
		report: report.Report{
			Node: c.Node, Log: eventlog.New(0), Logger: c.Logger, Answers: &report.Answers{}, Picks: &report.Picks{},
		},
	}
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
	if n.peers, err = n.newPeers(); err != nil {
		return err
	}
	if c.worker() {
		if n.worker, err = n.newWorker(); err != nil {
			return err
		}
	}
	if c.edge() {
		if n.edge, err = n.newEdge(); err != nil {
			return err
		}
	}
	if n.peers != nil {
		n.orders = orders.NewServer(n.served())
		if c.Hop != nil {
			n.hop, err = n.newHop()
		}
	}
	return err
}

// Fleet returns the node's catalogue. Apps and machines are added and removed with
// [balance.Fleet.Apply] and [balance.Fleet.Host].
func (n *Node) Fleet() *balance.Fleet { return n.fleet }

// Balancer returns the balancer that picks; nil at a node that is no edge.
func (n *Node) Balancer() *balance.Balancer {
	if n.edge == nil {
		return nil
	}
	return n.edge.balancer
}

// Downscaler returns the downscaler that stops this node's machines, also for maintenance and to
// remove apps; nil at a node that is no worker.
func (n *Node) Downscaler() *downscale.Downscaler {
	if n.worker == nil {
		return nil
	}
	return n.worker.scaler
}

// Link returns the link that joins the node to the others; nil where there are none.
func (n *Node) Link() *exchange.Link {
	if n.peers == nil {
		return nil
	}
	return n.peers.link
}

// Stop stops a machine of this node or of another, as [downscale.Downscaler.Stop] does.
func (n *Node) Stop(ctx context.Context, m balance.Machine, o downscale.Order) error {
	if n.edge == nil {
		return n.worker.scaler.Stop(ctx, m, o)
	}
	return n.edge.owners.Stop(ctx, m, o)
}

// Handler returns the handler that serves clients. Where [Config].Listener is nil, use it in a
// server of your own, such as a [backhaul.Front], and shut that server down before the node. At a
// node that is no edge it answers 404.
func (n *Node) Handler() http.Handler {
	if n.edge == nil {
		return http.NotFoundHandler()
	}
	return n.edge.proxy
}

// StatusHandler returns a status page for people, and the same as JSON at /status.json: nodes,
// machines, what was decided and why. Whoever can reach it sees everything and can stop machines,
// so it belongs on a private address. It answers only requests whose host is an IP address,
// localhost or one of Config.StatusNames.
func (n *Node) StatusHandler() http.Handler { return n.page }

// Run serves until ctx ends; then it shuts down as [Node.Shutdown] does, within Config.Grace, and
// returns nil. It also shuts the node down and returns when Shutdown is called, or when a part
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

// begin starts the parts, unless the node has been shut down.
func (n *Node) begin() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.over {
		return
	}
	n.runs = true
	run := func(name string, f func(context.Context) error) {
		n.all.Go(func() error {
			err := f(n.work)
			if err == nil || n.work.Err() != nil || errors.Is(err, http.ErrServerClosed) {
				return nil
			}
			return fmt.Errorf("node: %s: %w", name, err)
		})
	}
	if n.worker != nil {
		n.worker.run(run)
	}
	if n.edge != nil {
		n.edge.run(run)
	}
	if n.peers != nil {
		n.peers.run(run)
	}
	if n.hop != nil {
		n.hop.run(run)
	}
	run("history", func(ctx context.Context) error { return n.shown.history.Run(ctx, source{n}) })
}

func (n *Node) began() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.runs
}

// end ends all parts except the link and the hop, and waits for them.
func (n *Node) end() {
	n.mu.Lock()
	n.over = true
	n.mu.Unlock()
	n.stop()
	n.all.Wait() //nolint:errcheck // Run returns it
	n.lasting.Wait()
}

// Shutdown ends the node in the order in which nothing is lost. Clients are told that their
// connections end; this node's machines are cordoned everywhere and their long connections
// notified; requests end; machines are stopped; last, the node leaves the others. When ctx ends,
// Shutdown stops waiting for requests and cuts off those that are left. It returns when nothing
// runs any more; the error names what could not be ended. Further calls wait for the first and
// return the same.
func (n *Node) Shutdown(ctx context.Context) error {
	n.once.Do(func() {
		n.err = n.shutdown(ctx)
		close(n.done)
	})
	return n.err
}

func (n *Node) shutdown(ctx context.Context) (err error) {
	n.ending.Store(true)
	if n.edge != nil {
		n.edge.drain(ctx)
	}
	if n.worker != nil {
		n.worker.cordon(ctx)
		n.worker.notify(ctx)
	}
	if n.edge != nil {
		n.edge.shutdown(ctx)
	}
	if n.hop != nil {
		n.hop.refuse(ctx)
	}
	n.end()
	if n.worker != nil {
		err = n.worker.drain(ctx)
	}
	if n.hop != nil {
		n.hop.shutdown(ctx)
	}
	if n.worker != nil {
		err = errors.Join(err, n.worker.driver.shutdown(ctx))
	}
	if n.edge != nil {
		n.edge.transport.Close()
	}
	if n.peers != nil {
		err = errors.Join(err, n.peers.leave())
	}
	n.report.Log.Close() // ends those who follow the page's events
	return err
}
