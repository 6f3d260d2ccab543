// Command embedded is a proxy in front of one app, which sleeps until a request comes. It wires the
// parts by hand, around httputil.ReverseProxy; examples/embedded/gateway has package node do that.
//
//	go run ./examples/embedded 'python3 -m http.server $PORT --bind 127.0.0.1'
package main

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"net/http/httputil"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/autostart/process"
	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale"
)

func main() {
	fleet := must(balance.NewFleet(balance.FleetConfig{Node: "here", Region: "home"}))
	app := balance.App{
		ID: "web", Autostart: true, Autostop: balance.AutostopStop,
		Limits: balance.Limits{Soft: 20, Hard: 50},
	}
	check(fleet.Apply(balance.PutApp{App: app}))
	must(fleet.Host(balance.Machine{ID: "web-1", App: "web", Region: "home"}))

	driver := must(process.New(process.Config{Command: os.Args[len(os.Args)-1]}))
	balancer := must(balance.New(fleet, balance.Config{}))
	told := machine.Trace{Failed: func(m balance.Machine) { log.Print(m.Key(), ": ", m.Fault) }}
	starter := must(machine.NewStarter(fleet, driver, machine.Config{Trace: told}))
	waiting := must(autostart.New(balancer, starter, autostart.Config{}))
	conns := new(backhaul.Connections)
	scaler := must(downscale.New(fleet, driver, downscale.Config{Connections: conns}))
	transport := must(backhaul.NewTransport(waiting, backhaul.Config{Connections: conns}))
	rewrite := func(r *httputil.ProxyRequest) { backhaul.Rewrite(r); r.Out.URL.Host = "web" }
	proxy := &httputil.ReverseProxy{
		Transport: transport, Rewrite: rewrite, ErrorHandler: backhaul.ErrorHandler{}.ServeError, FlushInterval: -1,
	}
	front := must(backhaul.NewFront(proxy, backhaul.FrontConfig{ConnContext: autostart.ConnContext}))
	listener := must(backhaul.Listen(cmp.Or(os.Getenv("LISTEN"), "127.0.0.1:8080")))

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	work, end := context.WithCancel(context.Background())
	var running errgroup.Group
	for _, run := range []func(context.Context) error{balancer.Run, starter.Run, waiting.Run, scaler.Run} {
		running.Go(func() error { return run(work) })
	}
	go func() { fmt.Println(front.Serve(listener)); stop() }()

	<-ctx.Done() // then shut down clients first, and machines last
	last, done := context.WithTimeout(context.Background(), 20*time.Second)
	defer done()
	check(front.Shutdown(last))
	end()
	check(running.Wait())
	check(scaler.Drain(last))
	check(driver.Shutdown(last))
}

func must[T any](v T, err error) T { check(err); return v }

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
