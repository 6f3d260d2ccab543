package node

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange"
	"github.com/ebbkit/ebb/internal/delay"
	"github.com/ebbkit/ebb/internal/nettest"
)

// town is several nodes in a bubble. They publish through an exchange in memory, and send requests
// and orders over connections in memory; both have the delay between regions.
type town struct {
	t      *testing.T
	memory *exchange.Memory
	links  *delay.Links

	mu      sync.Mutex
	regions map[balance.NodeID]string
	members map[balance.NodeID]*member // the node that is reached under that name
	all     []*member
}

// member is a node of the town, and its clients.
type member struct {
	*Node
	town    *town
	id      balance.NodeID
	driver  *shed
	hop     *nettest.Pipes
	clients *nettest.Pipes
	client  *http.Client
	stop    context.CancelFunc
	ended   chan error

	mu    sync.Mutex
	conns []net.Conn // to and from it
	dead  bool
}

func newTown(t *testing.T) *town { return newBadTown(t, exchange.MemoryConfig{}) }

// newBadTown returns a town whose exchange has faults.
func newBadTown(t *testing.T, c exchange.MemoryConfig) *town {
	w := &town{
		t: t, links: delay.NewLinks(), regions: map[balance.NodeID]string{},
		members: map[balance.NodeID]*member{},
	}
	w.links.Set("nrt", "hkg", 46*time.Millisecond)
	w.links.Set("nrt", "nrt", time.Millisecond)
	w.links.Set("hkg", "hkg", time.Millisecond)
	c.Delay = func(from, to balance.NodeID) time.Duration {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.links.RTT(w.regions[from], w.regions[to]) / 2
	}
	w.memory = exchange.NewMemory(c)
	return w
}

// join starts a node.
func (w *town) join(
	id balance.NodeID, region string, role Role, apps []App, edit func(*Config),
) *member {
	w.t.Helper()
	m := &member{
		town: w, id: id, hop: nettest.NewPipes(), clients: nettest.NewPipes(), ended: make(chan error, 1),
	}
	m.driver = newShed(time.Second, nil)
	w.mu.Lock()
	w.regions[id] = region
	w.mu.Unlock()
	c := Config{
		Node: id, Region: region, Role: role, Apps: apps, Driver: m.driver, Listener: m.clients,
		Exchange: w.memory.Connect(id), Hop: m.hop, Keys: []string{"the-key-of-the-whole-town"},
		Link: exchange.Config{Hop: string(id)},
		Dial: func(ctx context.Context, to exchange.Node) (net.Conn, error) { return w.dial(ctx, m, to) },
	}
	c.Starter.Check = machine.Check{Func: m.driver.Check}
	c.Transport.DialMachine = m.driver.dial
	c.Proxy.ErrorHandler = backhaul.ErrorHandler{Details: true}.ServeError
	if edit != nil {
		edit(&c)
	}
	n, err := New(c)
	if err != nil {
		w.t.Fatal(err)
	}
	m.Node = n
	m.client = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return m.clients.Dial(ctx) },
	}}
	w.mu.Lock()
	w.members[id] = m
	w.all = append(w.all, m)
	w.mu.Unlock()
	ctx, stop := context.WithCancel(w.t.Context())
	m.stop = stop
	go func() { m.ended <- n.Run(ctx) }()
	return m
}

// dial connects two nodes over the link between them.
func (w *town) dial(ctx context.Context, from *member, to exchange.Node) (net.Conn, error) {
	w.mu.Lock()
	m := w.members[balance.NodeID(to.Hop)]
	w.mu.Unlock()
	dial := w.links.WrapDial(
		w.regions[from.id], to.Region,
		func(ctx context.Context, _, _ string) (net.Conn, error) {
			return m.hop.Dial(ctx)
		},
	)
	c, err := dial(ctx, "", "")
	if err != nil {
		return nil, err
	}
	for _, end := range []*member{from, m} {
		if !end.keep(c) {
			c.Close()
			return nil, errors.New("connection refused")
		}
	}
	return c, nil
}

func (m *member) keep(c net.Conn) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conns = append(m.conns, c)
	return !m.dead
}

// kill cuts a node off at once and for good, in both directions.
func (m *member) kill() {
	m.town.memory.Cut(m.id)
	m.mu.Lock()
	m.dead = true
	conns := m.conns
	m.mu.Unlock()
	m.hop.Close()
	for _, c := range conns {
		c.Close()
	}
}

// end shuts a node down in order.
func (m *member) end() {
	m.town.t.Helper()
	m.stop()
	if err := <-m.ended; err != nil {
		m.town.t.Errorf("%s: Run: %v, want nil", m.id, err)
	}
	m.ended <- nil
}

// close shuts down the nodes that are left.
func (w *town) close() {
	w.t.Helper()
	over, cancel := context.WithCancel(context.Background())
	cancel()
	for _, m := range w.all {
		m.client.CloseIdleConnections()
		m.Shutdown(over) //nolint:errcheck // it hurries
		<-m.ended
		m.client.CloseIdleConnections()
		m.stop()
	}
	w.links.Close()
}

func (m *member) get(url string) (int, string) { return m.do(http.MethodGet, url) }

func (m *member) do(method, url string) (int, string) {
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		m.town.t.Error(err)
		return 0, ""
	}
	resp, err := m.client.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(body)
}
