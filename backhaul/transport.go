package backhaul

import (
	"context"
	"errors"
	"net/http"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/balance"
)

// Transport is the edge's side of the hop: an [http.RoundTripper] that acquires a machine for each
// request, sends the request to the machine's owner (or to the machine, where this process is the
// owner), and tries elsewhere by the decision table of the package comment. It is safe for
// concurrent use.
//
// The machine's reservation is held until the answer's body has been read to its end or closed; a
// caller that does neither leaks it, as with any RoundTripper. The body of a 101 answer is an
// [io.ReadWriteCloser]; it also has CloseWrite. When it breaks, or the connection that [io.Copy]
// copies from or to, both end in a reset: nobody takes for an end what is none.
type Transport struct {
	picker   Picker
	c        Config
	limits   hop.RetryLimits
	owners   *pool.Pool // by node and incarnation
	machines *pool.Pool // by machine and epoch; only those of this process
	orders   *http.Transport
	kept     pool.Memory
	routes   pool.BulkRoutes
	apps     appRows        // none where the picker does not tell
	node     balance.NodeID // this one, for owners' traces
	sweeper  pool.Sweeper
	services pool.AppTimes
	budget   retryBudget
}

// NewTransport returns a transport that asks p for machines. It starts nothing.
func NewTransport(p Picker, c Config) (*Transport, error) {
	if p == nil {
		return nil, errors.New(
			"backhaul: NewTransport without a Picker: pass an *autostart.Autostart, or NoWait(balancer)",
		)
	}
	if err := c.resolve(); err != nil {
		return nil, err
	}
	t := &Transport{
		picker: p, c: c,
		limits: hop.RetryLimits{
			Bounces: c.bounces, Rounds: c.rounds, Failures: c.failures, Patience: c.patience,
		},
	}
	if f, ok := p.(interface{ Fleet() *balance.Fleet }); ok {
		t.apps.fleet, t.node = f.Fleet(), f.Fleet().Node()
	}
	t.kept.Most = c.replayMemory
	t.budget.budget.Ratio, t.budget.budget.Floor = c.failureRatio, c.failureFloor
	pc := pool.PoolConfig{
		MaxIdle: c.maxIdle, IdleTimeout: c.ownerIdle, DialTimeout: c.dialTimeout,
		HeaderTimeout: c.HeaderTimeout, MaxHeader: c.maxHeader,
	}
	pc.MaxHeader += headerRoom
	pc.Bandwidth, pc.Pressure = c.bandwidth, c.pressure
	pc.Spare, pc.Keys = c.spare, hop.AuthKeys(c.Keys...)
	t.owners = pool.NewPool(pc)
	pc.Spare, pc.Keys = 0, nil
	pc.IdleTimeout, pc.MaxHeader, pc.Near = c.MachineConfig.idleTimeout, c.maxHeader, true
	t.machines = pool.NewPool(pc)
	t.orders = t.newOrders()
	return t, nil
}

// RoundTrip sends a request and returns the answer. The request is not modified and its body is
// closed. The error is a [*UnavailableError] or a [*MachineError], or tells of the request: its
// context has ended, its route is unknown, its body broke off. [ErrorHandler] answers for each.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	return newRoundTrip(t, req).run()
}

// CloseIdleConnections closes the connections that carry no request now.
func (t *Transport) CloseIdleConnections() {
	t.owners.CloseIdle()
	t.machines.CloseIdle()
	t.orders.CloseIdleConnections()
}

// Close closes idle connections and lets those in use end with their requests. Requests may still
// be sent, each over a connection of its own.
func (t *Transport) Close() {
	t.owners.Close()
	t.machines.Close()
	t.orders.CloseIdleConnections()
}

// Picker finds a machine for a request and counts the request in; [*autostart.Autostart] is one,
// and so is what [NoWait] returns. It may wait, until ctx ends or its own patience does. It must be
// safe for concurrent use.
//
// A Picker that waits forgets r.Tried, by setting it to nil, before it does so: once nothing else
// is left, a machine that was tried may be the one that gets free. The Transport takes that for the
// beginning of a new round.
//
// The errors are passed on to the client's side in an [*UnavailableError]. Where they have a method
// RetryAfter() time.Duration it becomes the Retry-After of the answer; where they have a method
// Cause() string, its cause.
//
// A Picker with a method Fleet() *[balance.Fleet], as both have, is asked for it: the fleet tells
// this node's name, for the traces of owners, and what the rows of apps say of their requests, see
// [balance.App].BodyPause and the fields behind it. For others the defaults hold.
type Picker interface {
	Acquire(ctx context.Context, r *balance.Request) (balance.Reservation, error)
}

// NoWait returns a [Picker] that picks and never waits: a fleet without a waiting room and without
// autostart. Its requests insist, see [balance.Request].
func NoWait(b *balance.Balancer) Picker { return noWait{b} }

type noWait struct{ b *balance.Balancer }

func (p noWait) Acquire(_ context.Context, r *balance.Request) (balance.Reservation, error) {
	now := *r
	now.Insist = true
	return p.b.Pick(now)
}

// Fleet returns the fleet that is picked from.
func (p noWait) Fleet() *balance.Fleet { return p.b.Fleet() }

// headerRoom is what an owner may add to a machine's head.
const headerRoom = 4 << 10
