package orders

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale"
)

// Client sends orders to other nodes. Make one with [NewClient]; all methods are safe for
// concurrent use. Its Start and Recall have the signatures of autostart.Owner.
type Client struct {
	send func(balance.NodeID, *http.Request) (*http.Response, error)
	rows func(Row)
	ctx  context.Context // of what outlasts a call
	all  *Tasks

	mu     sync.Mutex
	follow map[balance.MachineKey]*following // the last start of each
}

// following is a start whose rows are still being read.
type following struct{ end context.CancelFunc }

// NewClient returns a client that sends orders with send. It calls rows with each row in an answer
// that is of a machine of the node that answers. What outlasts a call ends with ctx and is one of
// the tasks in all.
func NewClient(
	ctx context.Context, all *Tasks,
	send func(balance.NodeID, *http.Request) (*http.Response, error), rows func(Row),
) *Client {
	return &Client{
		send: send, rows: rows, ctx: ctx, all: all,
		follow: map[balance.MachineKey]*following{},
	}
}

// Start has m's owner start it, and returns the result. Rows are read afterwards, until m is ready
// or has failed.
func (c *Client) Start(ctx context.Context, m balance.Machine) (balance.StartAnswer, error) {
	lasting, cancel := context.WithTimeout(c.ctx, followFor)
	release := context.AfterFunc(ctx, cancel)
	a, err := c.ask(lasting, m.Owner, KindStart, Order{Token: rand.Text(), Machine: &m})
	if err == nil {
		var r Reply
		if r, err = a.next(); err == nil && r.Answer == nil {
			err = fmt.Errorf("orders: node %q does not say what came of the start of %v", m.Owner, m.Key())
		}
		if err == nil && release() {
			c.followed(m.Key(), a, cancel)
			return *r.Answer, nil
		}
		a.Close()
	}
	cancel()
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return balance.StartRefused, err
}

// followed reads the rows of a machine that starts.
func (c *Client) followed(m balance.MachineKey, a *answer, cancel context.CancelFunc) {
	f := &following{cancel}
	c.mu.Lock()
	defer c.mu.Unlock()
	if before := c.follow[m]; before != nil {
		before.end()
	}
	c.follow[m] = f
	if !c.all.Go(func() {
		defer cancel()
		defer a.Close()
		a.rest(c.rows) //nolint:errcheck // whoever waits for the machine sees an answer that breaks off
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.follow[m] == f {
			delete(c.follow, m)
		}
	}) {
		cancel()
		a.Close()
	}
}

// Recall has m's owner end the soft cordon that has m's cordon generation.
func (c *Client) Recall(ctx context.Context, m balance.Machine) error {
	return c.do(ctx, m.Owner, KindRecall, Order{Token: rand.Text(), Machine: &m}, c.rows)
}

// Stop has m's owner stop it, and returns when that is done or has failed.
func (c *Client) Stop(ctx context.Context, m balance.Machine, o downscale.Order) error {
	return c.do(ctx, m.Owner, KindStop, Order{Token: rand.Text(), Machine: &m, Stop: &o}, c.rows)
}

// Ready reads m's rows until it is ready or does not start.
func (c *Client) Ready(ctx context.Context, m balance.Machine) error {
	return c.do(ctx, m.Owner, KindReady, Order{Machine: &m}, c.rows)
}

// App asks a node for an app: its settings, and the rows of the node's machines. The error matches
// [balance.ErrNoApp] where the node does not know it.
func (c *Client) App(
	ctx context.Context, node balance.NodeID, id balance.AppID,
) (app balance.App, rows []Row, err error) {
	a, err := c.ask(ctx, node, KindApp, Order{App: id})
	if err != nil {
		return app, nil, err
	}
	defer a.Close()
	r, err := a.next()
	if err != nil {
		return app, nil, err
	}
	if r.App == nil {
		return app, nil, fmt.Errorf("orders: node %q answers without the app %q", node, id)
	}
	err = a.rest(func(row Row) { rows = append(rows, row) })
	return *r.App, rows, err
}

// do sends an order and reads the answer to its end.
func (c *Client) do(
	ctx context.Context, node balance.NodeID, kind Kind, o Order, rows func(Row),
) error {
	a, err := c.ask(ctx, node, kind, o)
	if err != nil {
		return err
	}
	defer a.Close()
	return a.rest(rows)
}

// answer is a node's answer to one order.
type answer struct {
	io.Closer
	node balance.NodeID
	in   *bufio.Reader
	held *Reply // read already
}

// ask sends an order and waits for the first line of the answer. An order that fails before that is
// retried once, unless the node answered with an error. Where it matters, the order has a token, so
// it is carried out once.
func (c *Client) ask(
	ctx context.Context, node balance.NodeID, kind Kind, o Order,
) (*answer, error) {
	a, err := c.once(ctx, node, kind, o)
	if err != nil && ctx.Err() == nil {
		if _, said := errors.AsType[*Error](err); !said {
			a, err = c.once(ctx, node, kind, o)
		}
	}
	return a, err
}

func (c *Client) once(
	ctx context.Context, node balance.NodeID, kind Kind, o Order,
) (*answer, error) {
	body, err := line(o)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "/"+string(kind), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := c.send(node, req)
	if err != nil {
		return nil, fmt.Errorf("orders: %s at node %q: %w", kind, node, err)
	}
	if err := refused(resp); err != nil {
		resp.Body.Close()
		return nil, fmt.Errorf("orders: %s at node %q: %w", kind, node, err)
	}
	a := &answer{Closer: resp.Body, node: node, in: bufio.NewReaderSize(resp.Body, 4<<10)}
	first, err := a.next()
	if err != nil {
		resp.Body.Close()
		return nil, err
	}
	a.held = &first
	return a, nil
}

// refused returns why a node did not take an order, or nil.
func refused(resp *http.Response) error {
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	return fmt.Errorf("it answers %s %s", resp.Status, resp.Header.Get("Ebb-Fault"))
}

// next returns the next line. The error is the node's own, or says that the answer broke off.
func (a *answer) next() (Reply, error) {
	if r := a.held; r != nil {
		a.held = nil
		return *r, nil
	}
	r, err := read[Reply](a.in)
	switch {
	case err != nil:
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return r, fmt.Errorf("orders: the answer of node %q breaks off: %w", a.node, err)
	case r.Err != nil:
		return r, r.Err.err()
	}
	return r, nil
}

// rest reads an answer to its end.
func (a *answer) rest(rows func(Row)) error {
	for {
		r, err := a.next()
		if err != nil {
			return err
		}
		if r.Row != nil && r.Row.Machine.Owner == a.node {
			rows(*r.Row)
		}
		if r.Done {
			return nil
		}
	}
}
