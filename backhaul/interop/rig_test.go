package interop

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/balance"
)

// listen opens a port and serves it until the test ends.
func listen(t testing.TB, serve func(net.Listener) error, stop func()) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { serve(l) })
	t.Cleanup(func() { stop(); wg.Wait() })
	return l.Addr().String()
}

func serveHTTP(t testing.TB, h http.Handler) string {
	s := &http.Server{Handler: h, Protocols: new(http.Protocols), ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: 10 * time.Second}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	return listen(t, s.Serve, func() { s.Close() })
}

// path is the whole way: a front door, an edge, the hop, an owner and its machine at addr. It returns the front's address.
func path(t testing.TB, addr string, h2 bool) string {
	t.Helper()
	return pathKnowing(t, addr, h2, new(backhaul.Connections))
}

// near is the same without the hop: the edge is the machine's owner.
func near(t testing.TB, addr string, h2 bool) string {
	t.Helper()
	fleet, err := balance.NewFleet(balance.FleetConfig{Node: "here", Region: "nrt"})
	if err != nil {
		t.Fatal(err)
	}
	host(t, fleet, addr)
	return front(t, fleet, backhaul.Config{MachineConfig: backhaul.MachineConfig{H2: func(balance.Machine) bool { return h2 }}})
}

// host adds the app and its one machine, which runs.
func host(t testing.TB, fleet *balance.Fleet, addr string) {
	t.Helper()
	if err := fleet.Apply(balance.PutApp{App: balance.App{ID: "web", Limits: balance.Limits{Hard: 1000}}}); err != nil {
		t.Fatal(err)
	}
	g, err := fleet.Host(balance.Machine{ID: "m1", App: "web", Region: "nrt", Addr: addr})
	if err != nil {
		t.Fatal(err)
	}
	token, _ := g.Start(0)
	g.Ready(token)
}

// front serves clients of the one app.
func front(t testing.TB, fleet *balance.Fleet, c backhaul.Config) string {
	t.Helper()
	b, err := balance.New(fleet, balance.Config{})
	if err != nil {
		t.Fatal(err)
	}
	transport, err := backhaul.NewTransport(backhaul.NoWait(b), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(transport.Close)
	proxy, err := backhaul.NewProxy(transport, backhaul.ProxyConfig{App: "web"})
	if err != nil {
		t.Fatal(err)
	}
	server, err := backhaul.NewFront(proxy,
		backhaul.FrontConfig{Limit: backhaul.LimitConfig{PerClient: -1}})
	if err != nil {
		t.Fatal(err)
	}
	return listen(t, server.Serve, func() { server.Close() })
}

// pathKnowing is path where the owner knows its long connections.
func pathKnowing(t testing.TB, addr string, h2 bool, conns *backhaul.Connections) string {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	worker, err := balance.NewFleet(balance.FleetConfig{Node: "worker", Region: "nrt"})
	must(err)
	host(t, worker, addr)
	w := worker.Watch()
	edge, err := balance.NewFleet(balance.FleetConfig{Node: "edge", Region: "nrt"})
	must(err)
	must(edge.Apply(w.Take()...))
	w.Close()
	handler, err := backhaul.NewHandler(worker, backhaul.HandlerConfig{MachineConfig: backhaul.MachineConfig{H2: func(balance.Machine) bool { return h2 }}, Keys: []string{"k"}, Connections: conns})
	must(err)
	server, err := backhaul.NewServer(handler, backhaul.ServerConfig{})
	must(err)
	hop := listen(t, server.Serve, func() { server.Close() })
	return front(t, edge, backhaul.Config{
		Keys: []string{"k"},
		Dial: func(ctx context.Context, _ balance.NodeID) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", hop)
		},
	})
}
