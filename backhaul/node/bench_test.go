package node

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"slices"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale"
)

// BenchmarkWarmRequest compares a warm request through a node with one through the parts wired by
// hand, over the same app in this process. The two take turns in rounds of 200; ratio is the median
// of the rounds' ratios. Run it with -benchtime 50x.
func BenchmarkWarmRequest(b *testing.B) {
	app := httptest.NewServer(
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") }),
	)
	defer app.Close()
	forms := []func(*testing.B, string) http.Handler{wiredByHand, wiredByNode}
	var clients []func()
	for _, form := range forms {
		front := httptest.NewServer(form(b, app.Listener.Addr().String()))
		defer front.Close()
		clients = append(clients, func() {
			resp, err := front.Client().Get(front.URL)
			if err != nil {
				b.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				b.Fatal(resp.Status)
			}
		})
	}
	const round = 200
	var ratios []float64
	var sum [2]time.Duration
	n := 0
	for b.Loop() {
		var took [2]time.Duration
		for i := range forms {
			which := (i + n) % 2 // they take turns at being first, too
			began := time.Now()
			for range round {
				clients[which]()
			}
			took[which] = time.Since(began)
			sum[which] += took[which]
		}
		n++
		ratios = append(ratios, float64(took[1])/float64(took[0]))
	}
	slices.Sort(ratios)
	b.ReportMetric(ratios[len(ratios)/2], "ratio")
	b.ReportMetric(float64(sum[0].Microseconds())/float64(n*round), "hand-us/request")
	b.ReportMetric(float64(sum[1].Microseconds())/float64(n*round), "node-us/request")
}

// elsewhere is a driver of machines that always listen at one address.
type elsewhere struct{ addr string }

func (e elsewhere) Start(context.Context, balance.Machine) (machine.Booting, error) {
	return machine.Booting{Addr: e.addr}, nil
}
func (elsewhere) Stop(context.Context, balance.Machine) error    { return nil }
func (elsewhere) Suspend(context.Context, balance.Machine) error { return nil }
func (elsewhere) Watch(ctx context.Context, _ func(machine.Exit)) error {
	<-ctx.Done()
	return nil
}
func (elsewhere) Shutdown(context.Context) error { return nil }

func wiredByNode(b *testing.B, addr string) http.Handler {
	n, err := New(Config{
		Apps: []App{
			{App: web, Machines: 1},
		}, Driver: elsewhere{addr}, Proxy: backhaul.ProxyConfig{App: "web"},
	})
	if err != nil {
		b.Fatal(err)
	}
	running(b, n.Run)
	return n.Handler()
}

func wiredByHand(b *testing.B, addr string) http.Handler {
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	fleet, err := balance.NewFleet(balance.FleetConfig{Node: "here", Region: "home"})
	must(err)
	must(fleet.Apply(balance.PutApp{App: web}))
	_, err = fleet.Host(balance.Machine{ID: "web-1", App: "web", Region: "home"})
	must(err)
	balancer, err := balance.New(fleet, balance.Config{})
	must(err)
	starter, err := machine.NewStarter(fleet, elsewhere{addr}, machine.Config{})
	must(err)
	waiting, err := autostart.New(balancer, starter, autostart.Config{})
	must(err)
	conns := new(backhaul.Connections)
	scaler, err := downscale.New(fleet, elsewhere{addr}, downscale.Config{Connections: conns})
	must(err)
	transport, err := backhaul.NewTransport(waiting, backhaul.Config{Connections: conns})
	must(err)
	running(b, balancer.Run, starter.Run, waiting.Run, scaler.Run)
	return &httputil.ReverseProxy{
		Transport: transport, ErrorHandler: backhaul.ErrorHandler{}.ServeError, FlushInterval: -1,
		Rewrite: func(r *httputil.ProxyRequest) { backhaul.Rewrite(r); r.Out.URL.Host = "web" },
	}
}

// running runs the Run methods until the benchmark ends.
func running(b testing.TB, runs ...func(context.Context) error) {
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, len(runs))
	for _, run := range runs {
		go func() { ended <- run(ctx) }()
	}
	b.Cleanup(func() {
		stop()
		for range runs {
			if err := <-ended; err != nil {
				b.Error(err)
			}
		}
	})
}
