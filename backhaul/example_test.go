package backhaul_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"slices"
	"strings"
	"time"

	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/balance"
)

// host starts an HTTP server as a machine of the fleet's node; package autostart starts real ones.
func host(f *balance.Fleet, id balance.MachineID) (*balance.Gate, *httptest.Server) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s says hello", id)
	}))
	gate, err := f.Host(
		balance.Machine{ID: id, App: "web", Region: "nrt", Addr: app.Listener.Addr().String()},
	)
	if err != nil {
		panic(err)
	}
	token, _ := gate.Start(0)
	gate.Ready(token)
	return gate, app
}

func get(url string) string {
	resp, err := http.Get(url)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return fmt.Sprint(
		resp.StatusCode, " ", strings.ReplaceAll(strings.TrimSpace(string(body)), "\n", ": "),
	)
}

// One process that is edge and owner: the Transport enters the machine's gate and dials the machine.
func Example() {
	fleet, _ := balance.NewFleet(balance.FleetConfig{Node: "n1", Region: "nrt"})
	fleet.Apply(
		balance.PutApp{App: balance.App{ID: "web", Limits: balance.Limits{Soft: 10, Hard: 20}}},
	)
	_, app := host(fleet, "m1")
	defer app.Close()

	b, _ := balance.New(fleet, balance.Config{})
	transport, _ := backhaul.NewTransport(backhaul.NoWait(b), backhaul.Config{}) // with autostart: an *autostart.Autostart
	defer transport.Close()
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:      func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "web" },
		Transport:    transport,
		ErrorHandler: backhaul.ErrorHandler{}.ServeError,
	})
	defer proxy.Close()
	fmt.Println(get(proxy.URL))
	// Output: 200 m1 says hello
}

// An edge and the owner of the machines are two nodes. The edge believes that m1 has room; its owner knows better.
func ExampleHandler() {
	worker, _ := balance.NewFleet(balance.FleetConfig{Node: "worker-1", Region: "nrt"})
	worker.Apply(balance.PutApp{App: balance.App{ID: "web", Limits: balance.Limits{Hard: 1}}})
	gate, app1 := host(worker, "m1")
	defer app1.Close()
	handler, _ := backhaul.NewHandler(
		worker, backhaul.HandlerConfig{Keys: []string{"secret-of-the-fleet"}},
	)
	hop, _ := backhaul.NewServer(handler, backhaul.ServerConfig{})
	defer hop.Close()
	listener, _ := net.Listen("tcp", "127.0.0.1:0")
	go hop.Serve(listener)

	edge, _ := balance.NewFleet(balance.FleetConfig{Node: "edge-1", Region: "nrt"})
	rows := worker.Watch()
	edge.Apply(rows.Take()...) // however rows travel
	b, _ := balance.New(edge, balance.Config{})
	transport, _ := backhaul.NewTransport(backhaul.NoWait(b), backhaul.Config{
		Keys: []string{"secret-of-the-fleet"},
		Dial: func(ctx context.Context, owner balance.NodeID) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", listener.Addr().String())
		},
		Trace: backhaul.Trace{
			Event: func(e backhaul.Event) {
				if e.Kind == backhaul.EventBounce {
					fmt.Printf(
						"%s bounced: %s, %d of %d in flight\n", e.Machine, e.Bounce, e.Load.InFlight,
						e.Load.Limits.Hard,
					)
				}
			},
			Done: func(d backhaul.Done) { fmt.Printf("%s: status %d, %d bytes\n", d.Machine, d.Status, d.Received) },
		},
	})
	defer transport.Close()
	client := &http.Client{Transport: transport}

	resp, _ := client.Get("http://web/")
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()

	gate.Enter(0, 0, 0) // another edge is faster
	_, err := client.Get("http://web/")
	var u *backhaul.UnavailableError
	fmt.Println(errors.As(err, &u), u.Cause(), u.RetryAfter() > 0)
	// Output:
	// m1: status 200, 13 bytes
	// m1 bounced: full, 1 of 1 in flight
	// m1: status 503, 0 bytes
	// true full true
}

// Clients learn when to come back, and scripts why.
func ExampleErrorHandler() {
	answer := backhaul.ErrorHandler{CauseHeader: "X-Cause"}
	w := httptest.NewRecorder()
	answer.ServeError(w, httptest.NewRequest("GET", "/", nil), &backhaul.UnavailableError{
		App: "web", Err: &balance.NoMachineError{App: "web", Seen: 2, Full: 2},
	})
	fmt.Println(w.Code, w.Header().Get("Retry-After"), w.Header().Get("X-Cause"))
	fmt.Print(w.Body)
	// Output:
	// 503 1 full
	// Service Unavailable: the request was not served; try again in 1 s
}

// Metrics from Done alone: requests by app and status, why some were not served, and which machines failed.
func ExampleTrace_metrics() {
	count := map[string]int{} // counters of a metrics library
	transportOf := func(f *balance.Fleet) *backhaul.Transport {
		b, _ := balance.New(f, balance.Config{})
		t, _ := backhaul.NewTransport(backhaul.NoWait(b), backhaul.Config{Trace: backhaul.Trace{Done: func(d backhaul.Done) {
			app := string(d.App)
			if d.Cause == "no-app" {
				app = "unknown" // else anybody can make labels
			}
			count[fmt.Sprintf("requests{app=%s,method=%s,status=%d}", app, d.Method, d.Status)]++
			if d.Cause != "" {
				count[fmt.Sprintf("unserved{app=%s,cause=%s}", app, d.Cause)]++
			}
			if d.Outcome == balance.OutcomeError {
				count[fmt.Sprintf("failures{machine=%s}", d.Machine)]++
			}
		}}})
		return t
	}
	fleet, _ := balance.NewFleet(balance.FleetConfig{Node: "n1", Region: "nrt"})
	fleet.Apply(
		balance.PutApp{App: balance.App{ID: "web"}}, balance.PutApp{App: balance.App{ID: "asleep"}},
	)
	_, app := host(fleet, "m1")
	defer app.Close()
	transport := transportOf(fleet)
	defer transport.Close()
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", strings.Trim(r.In.URL.Path, "/")
		},
		Transport:    transport,
		ErrorHandler: backhaul.ErrorHandler{}.ServeError,
	})
	defer proxy.Close()
	for _, name := range []string{"web", "web", "asleep", "no-such-app"} {
		get(proxy.URL + "/" + name)
	}
	for _, line := range slices.Sorted(maps.Keys(count)) {
		fmt.Println(line, count[line])
	}
	// Output:
	// requests{app=asleep,method=GET,status=503} 1
	// requests{app=unknown,method=GET,status=404} 1
	// requests{app=web,method=GET,status=200} 2
	// unserved{app=asleep,cause=no-machine} 1
	// unserved{app=unknown,cause=no-app} 1
}

// The app is the first label of the host name, and a header asks for affinity.
func ExampleConfig() {
	route := func(r *http.Request) (balance.Request, error) {
		app, _, _ := strings.Cut(r.Host, ".")
		return balance.Request{App: balance.AppID(app), Key: r.Header.Get("X-Room")}, nil
	}
	fleet, _ := balance.NewFleet(balance.FleetConfig{Node: "n1", Region: "nrt"})
	b, _ := balance.New(fleet, balance.Config{})
	t, _ := backhaul.NewTransport(backhaul.NoWait(b), backhaul.Config{Route: route})
	defer t.Close()
	_, err := t.RoundTrip(httptest.NewRequest("GET", "http://chat.example.net/", nil))
	fmt.Println(errors.Is(err, balance.ErrNoApp))
	// Output: true
}

// One register of long connections, for what sends requests to the node's machines and for what puts those to sleep. An
// event stream is told to end before its machine is suspended.
func ExampleConnections() {
	fleet, _ := balance.NewFleet(balance.FleetConfig{Node: "n1", Region: "nrt"})
	fleet.Apply(
		balance.PutApp{App: balance.App{ID: "web", Limits: balance.Limits{Soft: 10, Hard: 20}}},
	)
	feed := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "data: hello\n")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	defer feed.Close()
	gate, _ := fleet.Host(
		balance.Machine{ID: "m1", App: "web", Region: "nrt", Addr: feed.Listener.Addr().String()},
	)
	token, _ := gate.Start(0)
	gate.Ready(token)

	conns := new(backhaul.Connections) // goes into downscale.Config too, beside Notify
	b, _ := balance.New(fleet, balance.Config{})
	transport, _ := backhaul.NewTransport(backhaul.NoWait(b), backhaul.Config{Connections: conns})
	defer transport.Close()
	resp, err := (&http.Client{Transport: transport}).Get("http://web/")
	if err != nil {
		panic(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	first, _ := lines.ReadString('\n')
	fmt.Print(first)

	m1 := balance.Machine{App: "web", ID: "m1"}
	fmt.Println(conns.Long(m1, balance.ClassEvents), "event stream")
	conns.Notify(m1, balance.ClassEvents|balance.ClassWebSocket, 5*time.Second) // downscale does this
	rest, err := io.ReadAll(lines)
	fmt.Printf("%q, %v\n", rest, err)
	fmt.Println(conns.Long(m1, balance.ClassAll), "connections,", gate.InFlight(), "in flight")
	// Output:
	// data: hello
	// 1 event stream
	// "", <nil>
	// 0 connections, 0 in flight
}

// A caller that may send its request again asks whether it may have been executed.
func ExampleMachineError_MaybeExecuted() {
	for _, name := range []string{"dial", "unread", "reset", "answer"} {
		var f backhaul.Failure
		f.UnmarshalText([]byte(name))
		err := &backhaul.MachineError{App: "web", Machine: "m1", Failure: f}
		fmt.Printf("%s: %v\n", f, err.MaybeExecuted())
	}
	// Output:
	// dial: false
	// unread: false
	// reset: true
	// answer: true
}
