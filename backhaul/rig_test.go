package backhaul

import (
	"cmp"
	"context"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/auth"
	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/balance"
)

const testKey = "s3cret-of-the-hop"

// rig is an edge, a worker and their machines, joined by real sockets.
type rig struct {
	t      testing.TB
	edge   *balance.Fleet
	b      *balance.Balancer
	worker *balance.Fleet
	watch  *balance.Watcher

	handler   *Handler
	hop       *hopServer
	transport *Transport
	front     *httptest.Server // a Proxy over transport
	gates     map[balance.MachineID]*balance.Gate
	h2        map[string]bool // machines that speak it, by address; nil: none
}

type rigConfig struct {
	app     balance.App
	balance balance.Config
	config  Config
	handler HandlerConfig
	server  ServerConfig
	picker  func(*balance.Balancer) Picker // nil: NoWait
	local   bool                           // one process: no hop
	wrapHop func(http.Handler) http.Handler
	h2      bool // everything speaks HTTP/2: client, front, hop and the machines that serve adds
}

// overHTTP2 reports whether the rigs of a test are h2: those of a subtest of that name, see [both].
func overHTTP2(t testing.TB) bool { return slices.Contains(strings.Split(t.Name(), "/"), "h2") }

// shortHold is for how long a rig holds slots of requests whose client has left.
const shortHold = 10 * time.Millisecond

// hopServer is the server of an owner.
type hopServer struct {
	URL      string
	Listener net.Listener
	server   *Server
}

// newHop serves h, or what is wrapped around an owner's handler, which is then named besides.
func newHop(t testing.TB, h http.Handler, c ServerConfig, inside ...*Handler) *hopServer {
	t.Helper()
	s, err := NewServer(h, c)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := l
	for _, in := range inside {
		served = in.Listener(l)
	}
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(served) }()
	t.Cleanup(func() { s.Close(); <-done })
	return &hopServer{"http://" + l.Addr().String(), l, s}
}

// keysOf are the keys that are set.
func keysOf(keys ...string) []string {
	return slices.DeleteFunc(keys, func(k string) bool { return k == "" })
}

// dialHop connects to an owner and authenticates by that key.
func dialHop(ctx context.Context, addr, key string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return auth.Authenticate(ctx, c, "worker", hop.AuthKeys(key), false)
}

// h2c makes an unstarted server speak HTTP/2 without TLS, and its client nothing else.
func h2c(s *httptest.Server) {
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
}

func newRig(t testing.TB, c rigConfig) *rig {
	t.Helper()
	c.h2 = c.h2 || overHTTP2(t)
	r := &rig{t: t, gates: map[balance.MachineID]*balance.Gate{}}
	var err error
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	r.edge, err = balance.NewFleet(balance.FleetConfig{Node: "edge", Region: "nrt"})
	must(err)
	r.worker = r.edge
	if !c.local {
		r.worker, err = balance.NewFleet(balance.FleetConfig{Node: "worker", Region: "nrt"})
		must(err)
		r.watch = r.worker.Watch()
	}
	r.b, err = balance.New(r.edge, c.balance)
	must(err)
	c.app.ID = cmp.Or(c.app.ID, "web")
	c.app.AbandonedHold = cmp.Or(c.app.AbandonedHold, shortHold)
	must(r.worker.Apply(balance.PutApp{App: c.app}))
	r.sync()
	if c.h2 {
		r.h2 = map[string]bool{}
		speaks := func(m balance.Machine) bool { return r.h2[m.Addr] }
		c.config.H2, c.handler.H2 = speaks, speaks
	}
	if c.handler.Keys == nil {
		c.handler.Keys = []string{testKey}
	}
	r.handler, err = NewHandler(r.worker, c.handler)
	must(err)
	if c.wrapHop != nil {
		r.hop = newHop(t, c.wrapHop(r.handler), c.server, r.handler)
	} else {
		r.hop = newHop(t, r.handler, c.server)
	}
	if c.config.Keys == nil {
		c.config.Keys = []string{testKey}
	}
	if c.config.Dial == nil {
		c.config.Dial = func(ctx context.Context, owner balance.NodeID) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", r.hop.Listener.Addr().String())
		}
	}
	var p Picker = NoWait(r.b)
	if c.picker != nil {
		p = c.picker(r.b)
	}
	r.transport, err = NewTransport(p, c.config)
	must(err)
	t.Cleanup(r.transport.Close)
	proxy, err := NewProxy(
		r.transport, ProxyConfig{App: c.app.ID, ErrorHandler: ErrorHandler{Details: true}.ServeError},
	)
	must(err)
	r.front = httptest.NewUnstartedServer(proxy)
	r.front.Config.ErrorLog = quietLog
	if c.h2 {
		h2c(r.front)
	}
	r.front.Start()
	if c.h2 {
		only := new(http.Protocols)
		only.SetUnencryptedHTTP2(true)
		r.front.Client().Transport.(*http.Transport).Protocols = only
	}
	t.Cleanup(r.front.Close)
	return r
}

// sync carries rows from the worker to the edge. Tests that want a late edge do not call it.
func (r *rig) sync() {
	if r.watch != nil {
		if err := r.edge.Apply(r.watch.Take()...); err != nil {
			r.t.Fatal(err)
		}
	}
}

// host adds a started machine that listens at addr.
func (r *rig) host(id balance.MachineID, addr string) *balance.Gate {
	r.t.Helper()
	g, err := r.worker.Host(balance.Machine{ID: id, App: "web", Region: "nrt", Addr: addr})
	if err != nil {
		r.t.Fatal(err)
	}
	token, _ := g.Start(0)
	g.Ready(token)
	r.gates[id] = g
	r.sync()
	return g
}

// serve adds a started machine with a handler.
func (r *rig) serve(id balance.MachineID, h http.Handler) *balance.Gate {
	s := httptest.NewUnstartedServer(h)
	if r.h2 != nil {
		h2c(s)
	}
	s.Config.ErrorLog = quietLog
	s.Start()
	if r.h2 != nil {
		r.h2[s.Listener.Addr().String()] = true
	}
	r.t.Cleanup(s.Close)
	return r.host(id, s.Listener.Addr().String())
}

func says(s string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, s) })
}

// quiet waits until nothing is in flight anywhere, and fails if that does not come.
func (r *rig) quiet() {
	r.t.Helper()
	poll := time.NewTicker(time.Millisecond) // the end of a connection is no event on this side of it
	defer poll.Stop()
	for deadline := time.Now().Add(30 * time.Second); ; <-poll.C {
		n := r.b.InFlight("web") + r.handler.InFlight()
		for _, g := range r.gates {
			n += g.InFlight()
		}
		if n == 0 && r.transport.kept.Used() == 0 {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%d still in flight, %d bytes kept", n, r.transport.kept.Used())
		}
	}
}

// quietLog drops what net/http says about connections that the tests cut.
var quietLog = stdlog.New(io.Discard, "", 0)
