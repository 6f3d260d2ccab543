package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/nettest"
)

// shed is a driver of machines in memory, each an HTTP server.
type shed struct {
	t      testing.TB
	boot   time.Duration
	handle func(m balance.Machine) http.Handler

	mu      sync.Mutex
	running map[balance.MachineKey]*kept
	exited  []func(machine.Exit)
	starts  int
	told    []string // what was called, in order
	closed  bool
}

// kept is a machine that runs.
type kept struct {
	epoch   uint64
	at      *nettest.Pipes
	server  *http.Server
	up      *time.Timer
	listens bool // under shed.mu
	done    chan struct{}
}

func newShed(t testing.TB, boot time.Duration, handle func(m balance.Machine) http.Handler) *shed {
	if handle == nil {
		handle = func(m balance.Machine) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprintf(w, "%s says %s", m.ID, r.URL.Path)
			})
		}
	}
	return &shed{t: t, boot: boot, handle: handle, running: map[balance.MachineKey]*kept{}}
}

func (s *shed) Start(_ context.Context, m balance.Machine) (machine.Booting, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running[m.Key()] != nil || s.closed {
		return machine.Booting{}, errors.New("it runs already, or the driver is closed")
	}
	k := &kept{epoch: m.Epoch, at: nettest.NewPipes(), server: &http.Server{Handler: s.handle(m)}, done: make(chan struct{})}
	k.up = time.AfterFunc(s.boot, func() {
		defer close(k.done)
		s.mu.Lock()
		k.listens = true
		s.mu.Unlock()
		k.server.Serve(k.at)
	})
	s.running[m.Key()] = k
	s.starts++
	s.told = append(s.told, "start "+m.Key().String())
	return machine.Booting{Addr: string(m.ID) + ":80"}, nil
}

func (s *shed) Stop(_ context.Context, m balance.Machine) error {
	if s.end(m.Key(), "stop ") {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, f := range s.exited {
			f(machine.Exit{App: m.App, ID: m.ID, Epoch: m.Epoch, Reason: "stopped"})
		}
	}
	return nil
}

// end ends a machine.
func (s *shed) end(m balance.MachineKey, why string) bool {
	s.mu.Lock()
	k := s.running[m]
	delete(s.running, m)
	if k != nil {
		s.told = append(s.told, why+m.String())
	}
	s.mu.Unlock()
	if k == nil {
		return false
	}
	if k.up.Stop() {
		close(k.done)
	}
	k.server.Close()
	k.at.Close()
	<-k.done
	return true
}

func (s *shed) Suspend(context.Context, balance.Machine) error { return errors.ErrUnsupported }

func (s *shed) Watch(ctx context.Context, exited func(machine.Exit)) error {
	s.mu.Lock()
	s.exited = append(s.exited, exited)
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	s.exited = nil
	s.mu.Unlock()
	return nil
}

func (s *shed) Shutdown(context.Context) error {
	s.mu.Lock()
	s.closed = true
	left := len(s.running)
	s.told = append(s.told, "shutdown")
	s.mu.Unlock()
	if left > 0 {
		return fmt.Errorf("%d machines are left", left)
	}
	return nil
}

// dial connects to a machine; it is for backhaul's DialMachine and for checks.
func (s *shed) dial(ctx context.Context, m balance.Machine) (net.Conn, error) {
	s.mu.Lock()
	k := s.running[m.Key()]
	up := k != nil && k.listens
	s.mu.Unlock()
	if !up {
		return nil, errors.New("connection refused")
	}
	return k.at.Dial(ctx)
}

// check is a look at a machine.
func (s *shed) check() machine.Check {
	return machine.Check{Func: func(ctx context.Context, m balance.Machine) error {
		c, err := s.dial(ctx, m)
		if err == nil {
			c.Close()
		}
		return err
	}}
}

func (s *shed) log() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.told...)
}

// web is an app that sleeps.
var web = balance.App{
	ID: "web", Autostart: true, Autostop: balance.AutostopStop, KeepAlive: time.Minute,
	Limits: balance.Limits{Soft: 20, Hard: 50},
}

// alone is a node of one process with its clients, in a bubble.
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
	c.Starter.Check = d.check()
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

// end ends the node as an operator does.
func (a *alone) end() {
	a.t.Helper()
	a.stop()
	if err := <-a.ended; err != nil {
		a.t.Errorf("Run: %v, want nil", err)
	}
	a.client.CloseIdleConnections()
}
