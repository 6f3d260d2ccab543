package world

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/autostart/machinetest"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/delay"
	"github.com/ebbkit/ebb/internal/demoapp"
	"github.com/ebbkit/ebb/internal/nettest"
)

// virtual runs a test with a world in virtual time: its network and its machines are in memory.
func virtual(t *testing.T, change func(*Config), f func(t *testing.T, p *play)) {
	t.Helper()
	nettest.Virtual(t, func(t *testing.T) {
		m := &memory{regions: map[netip.AddrPort]string{}}
		m.packet = nettest.NewDatagrams(nil)
		p := newPlay(t, func(c *Config) {
			c.net = m
			c.dialMachine = func(ctx context.Context, m2 balance.Machine) (net.Conn, error) {
				return m.dial(ctx, "tcp", m2.Addr)
			}
			c.look = func(ctx context.Context, m2 balance.Machine) error {
				c, err := m.dial(ctx, "tcp", m2.Addr)
				if err == nil {
					c.Close()
				}
				return err
			}
			c.Driver = func(region string) (Driver, error) {
				return newApps(&m.host, demoapp.Config{Region: region}), nil
			}
			if change != nil {
				change(c)
			}
		})
		f(t, p)
		p.end()
		m.packet.Wait()
	})
}

// memory is a network in memory.
type memory struct {
	host    nettest.Host
	packet  *nettest.Datagrams
	mu      sync.Mutex
	regions map[netip.AddrPort]string // of the sockets for probes
}

func (m *memory) listen(addr string) (net.Listener, error) { return m.host.Listen(addr) }

func (m *memory) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return m.host.Dial(ctx, network, addr)
}

func (m *memory) packets(region string) net.PacketConn {
	m.mu.Lock()
	defer m.mu.Unlock()
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(7000+len(m.regions)))
	m.regions[addr] = region
	return m.packet.Listen(addr)
}

func (m *memory) relay(
	_ context.Context, links *delay.Links, _, _ string, addr netip.AddrPort,
) (netip.AddrPort, error) {
	m.packet.SetLink(func(from, to netip.AddrPort, _ []byte) []time.Duration {
		m.mu.Lock()
		defer m.mu.Unlock()
		return []time.Duration{links.RTT(m.regions[from], m.regions[to]) / 2}
	})
	return netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()), nil
}

// apps is a driver whose machines are demo apps of this process.
type apps struct {
	machinetest.Fake
	host   *nettest.Host
	config demoapp.Config
	mu     sync.Mutex
	runs   map[balance.MachineKey]*app
}

// app is one that is running.
type app struct {
	listener *tracked
	stop     context.CancelFunc
	done     chan struct{}
}

func newApps(host *nettest.Host, c demoapp.Config) *apps {
	a := &apps{host: host, config: c, runs: map[balance.MachineKey]*app{}}
	a.OnStop = func(_ context.Context, m balance.Machine) error {
		a.end(m.Key(), (*app).shutdown)
		return nil
	}
	return a
}

// Start implements machine.Driver.
func (a *apps) Start(ctx context.Context, m balance.Machine) (machine.Booting, error) {
	b, err := a.Fake.Start(ctx, m)
	if err != nil || b.Resumed {
		return b, err
	}
	l, err := a.host.Listen(b.Addr)
	if err != nil {
		return b, err
	}
	c := a.config
	c.Machine, c.Epoch, c.ReadyAt = string(m.ID), m.Epoch, time.Now()
	c.Crash = func() {
		a.end(m.Key(), (*app).kill)
		a.Exit(machine.Exit{App: m.App, ID: m.ID, Code: 3, Reason: "exit status 3"})
		panic(http.ErrAbortHandler)
	}
	running, stop := context.WithCancel(context.Background())
	r := &app{listener: &tracked{Listener: l}, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		demoapp.Serve(running, r.listener, c) //nolint:errcheck // the listener was closed
	}()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.runs[m.Key()] = r
	return b, nil
}

func (a *apps) end(key balance.MachineKey, how func(*app)) {
	a.mu.Lock()
	r := a.runs[key]
	delete(a.runs, key)
	a.mu.Unlock()
	if r != nil {
		how(r)
	}
}

// Shutdown implements Driver.
func (a *apps) Shutdown(context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.runs {
		r.shutdown()
	}
	return nil
}

func (r *app) shutdown() { r.stop(); <-r.done }

// kill ends it in the middle of its work.
func (r *app) kill() {
	r.listener.Close()
	r.listener.reset()
	r.stop()
}

// tracked is a listener that can end what it has accepted.
type tracked struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

func (l *tracked) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.conns = append(l.conns, c)
	}
	return c, err
}

func (l *tracked) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		c.Close()
	}
}
