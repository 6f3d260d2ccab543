package embedded_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/autostart/process"
	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale"
)

// A proxy in front of an app that sleeps until somebody asks for it.
func Example() {
	fleet, _ := balance.NewFleet(balance.FleetConfig{Node: "here", Region: "home"})
	fleet.Apply(balance.PutApp{App: balance.App{ID: "web", Autostart: true, Autostop: balance.AutostopStop}})
	fleet.Host(balance.Machine{ID: "web-1", App: "web", Region: "home", Limits: balance.Limits{Soft: 20, Hard: 50}})

	driver, _ := process.New(process.Config{Command: command}) // such as "python3 -m http.server $PORT --bind 127.0.0.1"
	balancer, _ := balance.New(fleet, balance.Config{})
	starter, _ := autostart.NewStarter(fleet, driver, autostart.StarterConfig{})
	waiting, _ := autostart.New(balancer, starter, autostart.Config{})
	scaler, _ := downscale.New(fleet, driver, downscale.Config{})
	transport, _ := backhaul.NewTransport(waiting, backhaul.Config{})

	ctx, stop := context.WithCancel(context.Background())
	var running errgroup.Group
	for _, run := range []func(context.Context) error{balancer.Run, starter.Run, waiting.Run, scaler.Run} {
		running.Go(func() error { return run(ctx) })
	}
	rewrite := func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "web" }
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: rewrite, Transport: transport})

	fmt.Println(get(proxy.URL)) // starts web-1 and is answered as soon as it is up

	proxy.Close()
	scaler.Drain(ctx)
	stop()
	fmt.Println(running.Wait())
	// Output:
	// 200 hello from web-1
	// <nil>
}

func get(url string) string {
	resp, err := http.Get(url)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return fmt.Sprint(resp.StatusCode, " ", string(body))
}

// command is this test binary again, which then is the app.
var command = "'" + os.Args[0] + "'"

func TestMain(m *testing.M) {
	if port := os.Getenv("PORT"); port != "" && os.Getenv("MACHINE") != "" {
		http.ListenAndServe("127.0.0.1:"+port, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "hello from ", os.Getenv("MACHINE"))
		}))
	}
	os.Exit(m.Run())
}
