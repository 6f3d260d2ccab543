package contract

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/autostart/process"
	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale"
)

// childEnv makes this binary an app that listens on PORT.
const childEnv = "CONTRACT_APP"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		err := http.ListenAndServe(
			"127.0.0.1:"+os.Getenv("PORT"),
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if io.WriteString(w, "hello"); r.URL.Path == "/long" {
					w.(http.Flusher).Flush()
					<-r.Context().Done()
				}
			}),
		)
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// host is one process with everything in it: what removes apps must leave nothing of them in any
// part.
type host struct {
	*testing.T
	fleet   *balance.Fleet
	waiting *autostart.Autostart
	scaler  *downscale.Downscaler
	front   *httptest.Server
	long    backhaul.Connections
}

func newHost(t *testing.T) *host {
	h := &host{T: t}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	h.fleet, err = balance.NewFleet(balance.FleetConfig{Node: "here", Region: "home"})
	must(err)
	driver, err := process.New(process.Config{
		Argv: []string{os.Args[0]}, Env: append(os.Environ(), childEnv+"=1"),
	})
	must(err)
	balancer, err := balance.New(h.fleet, balance.Config{})
	must(err)
	starter, err := machine.NewStarter(h.fleet, driver, machine.Config{})
	must(err)
	h.waiting, err = autostart.New(balancer, starter, autostart.Config{})
	must(err)
	h.scaler, err = downscale.New(h.fleet, driver, downscale.Config{Connections: &h.long})
	must(err)
	transport, err := backhaul.NewTransport(h.waiting, backhaul.Config{Connections: &h.long})
	must(err)
	ctx, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for _, run := range []func(context.Context) error{balancer.Run, starter.Run, h.waiting.Run, h.scaler.Run} {
		all.Go(func() {
			if err := run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	h.front = httptest.NewServer(
		&httputil.ReverseProxy{
			Transport: transport, ErrorHandler: backhaul.ErrorHandler{}.ServeError,
			ErrorLog: log.New(io.Discard, "", 0),
			Rewrite: func(r *httputil.ProxyRequest) {
				r.Out.URL.Scheme, r.Out.URL.Host = "http", strings.Trim(r.In.Host, "/")
			},
		},
	)
	t.Cleanup(func() {
		h.front.CloseClientConnections()
		h.front.Close()
		stop()
		all.Wait()
		transport.Close()
		driver.Close()
	})
	return h
}

// children counts the processes that are this one's.
func children(t *testing.T) int {
	out, err := exec.Command("pgrep", "-c", "-P", fmt.Sprint(os.Getpid())).Output()
	if err != nil && len(out) == 0 {
		t.Skip("pgrep is not there")
	}
	n := 0
	fmt.Sscan(string(out), &n)
	return n // pgrep does not count itself
}

func (h *host) get(app, path string) (int, string) {
	req, err := http.NewRequest("GET", h.front.URL+path, nil)
	if err != nil {
		h.Fatal(err)
	}
	req.Host = app
	resp, err := h.front.Client().Do(req)
	if err != nil {
		h.Error(err)
		return 0, ""
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body) // a long one breaks off
	return resp.StatusCode, string(body)
}

// Apps come and go while requests come: what is removed leaves no process, no goroutine and nobody
// who waits.
func TestWhatIsRemovedLeavesNothing(t *testing.T) {
	h := newHost(t)
	guards := 0
	round := func(n int) {
		app := balance.AppID(fmt.Sprint("app-", n))
		if err := h.fleet.Apply(balance.PutApp{App: balance.App{ID: app, Autostart: true, Limits: balance.Limits{Soft: 2, Hard: 2}, Max: 1}}); err != nil {
			t.Fatal(err)
		}
		row := balance.Machine{ID: "m", App: app, Region: "home"}
		if _, err := h.fleet.Host(row); err != nil {
			t.Fatal(err)
		}
		if status, body := h.get(string(app), "/"); status != 200 || body != "hello" {
			t.Fatalf("%s: %d %q", app, status, body)
		}
		var all sync.WaitGroup
		for range 5 { // two stay for ever, three wait
			all.Go(func() { h.get(string(app), "/long") })
		}
		if !eventually(func() bool { return h.waiting.Parked(app) == 3 }) {
			t.Errorf("%s: %d wait, want 3", app, h.waiting.Parked(app))
		}
		if more := children(t) - guards; more < 1 {
			t.Errorf("%s serves, and no process of it is counted", app)
		}
		if n%2 == 0 {
			if err := h.scaler.RemoveMachine(t.Context(), row, downscale.Order{Drain: 10 * time.Millisecond}); err != nil {
				t.Errorf("%s: %v", app, err)
			}
		}
		if err := h.scaler.RemoveApp(t.Context(), app, downscale.Order{Drain: 10 * time.Millisecond}); err != nil {
			t.Errorf("%s: %v", app, err)
		}
		all.Wait()
		if n := h.waiting.Parked(app); n > 0 {
			t.Errorf("%s: %d still wait", app, n)
		}
		if !eventually(func() bool { _, ok := h.waiting.Histories()[app]; return !ok }) {
			t.Errorf("%s: its queue is still there", app)
		}
		if status, _ := h.get(string(app), "/"); status != http.StatusNotFound {
			t.Errorf("%s: %d after it was removed, want 404", app, status)
		}
	}
	round(0)
	round(1) // whatever is made once has been made
	h.front.Client().CloseIdleConnections()
	goroutines := runtime.NumGoroutine() + 4 // less than one for each app that follows
	// one of the driver, which sees to it that none survives this process
	guards = children(t)
	for n := range 8 {
		round(2 + n)
	}
	if more := children(t) - guards; more > 0 {
		t.Errorf("%d processes run after all apps were removed", more)
	}
	h.front.Client().CloseIdleConnections()
	if now := 0; !eventually(func() bool { now = runtime.NumGoroutine(); return now <= goroutines }) {
		stacks := make([]byte, 1<<20)
		t.Errorf("%d goroutines, %d before eight apps came and went:\n%s", now, goroutines,
			stacks[:runtime.Stack(stacks, true)])
	}
}

// eventually looks until it is so: the ends of connections and goroutines are no events here.
func eventually(is func() bool) bool {
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for deadline := time.Now().Add(30 * time.Second); !is(); <-look.C {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}
