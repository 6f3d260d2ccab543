package node

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/autostart/machinetest"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/nettest"
)

// shed is a driver of machines in memory, each an HTTP server, with a configured boot time.
type shed struct {
	machinetest.Fake
	handle func(m balance.Machine) http.Handler

	mu      sync.Mutex
	servers map[balance.MachineKey]*server // of machines that have been dialled
	closed  bool
}

// server is what listens in a machine.
type server struct {
	http.Server
	at   *nettest.Pipes
	done chan struct{}
}

func newShed(boot time.Duration, handle func(m balance.Machine) http.Handler) *shed {
	if handle == nil {
		handle = func(m balance.Machine) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprintf(w, "%s says %s", m.ID, r.URL.Path)
			})
		}
	}
	s := &shed{handle: handle, servers: map[balance.MachineKey]*server{}}
	s.OnStart = func(context.Context, balance.Machine) (time.Duration, error) { return boot, nil }
	return s
}

// Stop also ends the machine's server.
func (s *shed) Stop(ctx context.Context, m balance.Machine) error {
	s.mu.Lock()
	in := s.servers[m.Key()]
	delete(s.servers, m.Key())
	s.mu.Unlock()
	if in != nil {
		in.Close()
		<-in.done
	}
	return s.Fake.Stop(ctx, m)
}

func (s *shed) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	if left, _ := s.List(ctx); len(left) > 0 {
		return fmt.Errorf("%d machines are left", len(left))
	}
	return nil
}

// dial connects to a machine; it is for DialMachine of package backhaul.
func (s *shed) dial(ctx context.Context, m balance.Machine) (net.Conn, error) {
	if err := s.Check(ctx, m); err != nil {
		return nil, err
	}
	s.mu.Lock()
	in := s.servers[m.Key()]
	if in == nil {
		in = &server{
			Server: http.Server{Handler: s.handle(m)}, at: nettest.NewPipes(), done: make(chan struct{}),
		}
		s.servers[m.Key()] = in
		go func() { defer close(in.done); in.Serve(in.at) }()
	}
	s.mu.Unlock()
	return in.at.Dial(ctx)
}

// wasClosed reports whether Shutdown was called.
func (s *shed) wasClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// web is an app that sleeps.
var web = balance.App{
	ID: "web", Autostart: true, Autostop: balance.AutostopStop, KeepAlive: time.Minute,
	Limits: balance.Limits{Soft: 20, Hard: 50},
}

// alone is the only node, with its clients, in a bubble.
type alone struct {
	*Node
	t       *testing.T
	clients *nettest.Pipes
	client  *http.Client
	ended   chan error
	stop    context.CancelFunc
}

func run(t *testing.T, d *shed, edit func(*Config)) *alone {
	t.Helper()
	a := &alone{t: t, clients: nettest.NewPipes(), ended: make(chan error, 1)}
	c := Config{Apps: []App{{App: web, Machines: 2}}, Driver: d, Listener: a.clients}
	c.Starter.Check = machine.Check{Func: d.Check}
	c.Transport.DialMachine = d.dial
	if edit != nil {
		edit(&c)
	}
	n, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	a.Node = n
	a.client = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return a.clients.Dial(ctx) },
	}}
	ctx, stop := context.WithCancel(t.Context())
	a.stop = stop
	go func() { a.ended <- n.Run(ctx) }()
	return a
}

func (a *alone) get(url string) (int, string) {
	a.t.Helper()
	resp, err := a.client.Get(url)
	if err != nil {
		a.t.Error(err)
		return 0, ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		a.t.Error(err)
	}
	return resp.StatusCode, string(body)
}

// end shuts the node down as an operator does.
func (a *alone) end() {
	a.t.Helper()
	a.stop()
	if err := <-a.ended; err != nil {
		a.t.Errorf("Run: %v, want nil", err)
	}
	a.client.CloseIdleConnections()
}

// statusJSON returns a node's /status.json.
func (n *Node) statusJSON() string {
	w := httptest.NewRecorder()
	n.StatusHandler().ServeHTTP(w, httptest.NewRequest("GET", "http://localhost/status.json", nil))
	return w.Body.String()
}
