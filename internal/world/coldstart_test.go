package world

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/autostart/process"
	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/demoapp"
)

// BenchmarkFirstRequest compares what proxies in one process add to the boot of a machine, from the
// request to the first byte of its answer. There is a bare one, which holds the request, starts the
// machine, is told when it listens, and sends the request there; and ebb, told in the same way, and
// with its own prober. They take turns, so that a disturbance affects all of them. Run it with
// -benchtime 300x; the ratios are to the bare one.
func BenchmarkFirstRequest(b *testing.B) {
	told := newListening(b)
	forms := []struct {
		name string
		make func(testing.TB, *process.Driver, *listening) (http.Handler, func())
	}{{"bare", bareProxy}, {"ebb-told", ebbTold}, {"ebb", ebbProbes}}
	took := make([][]time.Duration, len(forms))
	for b.Loop() {
		for i, form := range forms {
			took[i] = append(took[i], firstRequest(b, told, form.make))
		}
	}
	median := func(i int) float64 { return float64(took[i][len(took[i])/2]) / 1e6 }
	p99 := func(i int) float64 { return float64(took[i][len(took[i])*99/100]) / 1e6 }
	for i, form := range forms {
		slices.Sort(took[i])
		b.ReportMetric(median(i), form.name+"-p50-ms")
		b.ReportMetric(p99(i), form.name+"-p99-ms")
	}
	for i, form := range forms[1:] {
		b.ReportMetric(median(i+1)/median(0), form.name+"-p50-x")
		b.ReportMetric(p99(i+1)/p99(0), form.name+"-p99-x")
	}
}

// firstRequest sends the first request through a new proxy and returns the time beyond the
// machine's boot, which lasts from the creation of the process to the moment at which it listens.
func firstRequest(b testing.TB, told *listening, make func(testing.TB, *process.Driver, *listening) (http.Handler, func())) time.Duration {
	const boot = 50 * time.Millisecond
	driver, err := process.New(process.Config{Argv: []string{os.Args[0]}, Env: append(demoapp.Env(boot), demoapp.Notify(told.addr))})
	if err != nil {
		b.Fatal(err)
	}
	handler, end := make(b, driver, told)
	front := httptest.NewServer(handler)
	defer front.Close()
	start := time.Now()
	resp, err := front.Client().Get(front.URL)
	if err != nil {
		b.Fatal(err)
	}
	took := time.Since(start)
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	ready, err1 := strconv.ParseInt(resp.Header.Get("X-Ready-At"), 10, 64)
	if resp.StatusCode != http.StatusOK || err1 != nil {
		b.Fatal(resp.Status, err1)
	}
	listened := time.Unix(0, ready).Sub(start)
	end()
	if err := driver.Close(); err != nil {
		b.Fatal(err)
	}
	return took - listened + orderedAfter(start)
}

// ordered is when the last machine was ordered.
var ordered atomic.Int64

func orderedAfter(start time.Time) time.Duration { return time.Unix(0, ordered.Load()).Sub(start) }

// orders records when a machine is ordered.
type orders struct{ *process.Driver }

func (d orders) Start(ctx context.Context, m balance.Machine) (machine.Booting, error) {
	ordered.Store(time.Now().UnixNano())
	return d.Driver.Start(ctx, m)
}

// listening is told of machines that listen.
type listening struct {
	addr string
	mu   sync.Mutex
	f    func()
}

func newListening(b testing.TB) *listening {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	t := &listening{addr: l.Addr().String()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
			t.mu.Lock()
			f := t.f
			t.mu.Unlock()
			f()
		}
	}()
	b.Cleanup(func() { l.Close(); <-done })
	return t
}

func (t *listening) tell(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.f = f
}

// bareProxy is the minimum that can hold a request for a machine.
func bareProxy(b testing.TB, d *process.Driver, told *listening) (http.Handler, func()) {
	up := make(chan struct{})
	told.tell(func() { close(up) })
	var once sync.Once
	var addr string
	m := balance.Machine{ID: "m", App: "web", Region: "here", Epoch: 1}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", addr }}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		once.Do(func() {
			booting, err := orders{d}.Start(r.Context(), m)
			if err != nil {
				b.Error(err)
			}
			addr = booting.Addr
			<-up
		})
		proxy.ServeHTTP(w, r)
	}), func() {}
}

func ebbProbes(b testing.TB, d *process.Driver, told *listening) (http.Handler, func()) {
	told.tell(func() {})
	return ebbProxy(b, d, machine.Config{})
}

func ebbTold(b testing.TB, d *process.Driver, told *listening) (http.Handler, func()) {
	push := new(machine.Push)
	told.tell(func() { push.Ready("web", "m", 1) })
	return ebbProxy(b, d, machine.Config{Readiness: push})
}

// ebbProxy is ebb in one process, as the README has it.
func ebbProxy(b testing.TB, d *process.Driver, c machine.Config) (http.Handler, func()) {
	must := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	fleet, err := balance.NewFleet(balance.FleetConfig{Node: "here", Region: "here"})
	must(err)
	must(fleet.Apply(balance.PutApp{App: balance.App{ID: "web", Autostart: true}}))
	_, err = fleet.Host(balance.Machine{ID: "m", App: "web", Region: "here"})
	must(err)
	balancer, err := balance.New(fleet, balance.Config{})
	must(err)
	starter, err := machine.NewStarter(fleet, orders{d}, c)
	must(err)
	waiting, err := autostart.New(balancer, starter, autostart.Config{})
	must(err)
	transport, err := backhaul.NewTransport(waiting, backhaul.Config{})
	must(err)
	ctx, stop := context.WithCancel(context.Background())
	var running errgroup.Group
	for _, run := range []func(context.Context) error{balancer.Run, starter.Run, waiting.Run} {
		running.Go(func() error { return run(ctx) })
	}
	proxy := &httputil.ReverseProxy{
		Transport: transport, ErrorHandler: backhaul.ErrorHandler{}.ServeError,
		Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "web" },
	}
	return proxy, func() {
		transport.Close()
		stop()
		if err := running.Wait(); err != nil {
			b.Error(fmt.Errorf("running: %w", err))
		}
	}
}
