// Command split is two edges and two workers, in one process for as long as their exchange is: what
// comes to either edge is served by machines of either worker. Usage: split ADDR ADDR COMMAND
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ebbkit/ebb/autostart/process"
	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/backhaul/node"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange"
)

var app = balance.App{
	ID: "web", Autostart: true, Autostop: balance.AutostopStop, KeepAlive: 4 * time.Second,
	Limits: balance.Limits{Soft: 4, Hard: 8},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	engine := exchange.NewMemory(exchange.MemoryConfig{})
	g, ctx := errgroup.WithContext(ctx)
	for i := range 2 {
		config := node.Config{
			Role: node.RoleWorker, Hop: must(backhaul.Listen("127.0.0.1:0")),
			Driver: must(process.New(process.Config{Command: os.Args[len(os.Args)-1]})),
			Apps:   []node.App{{App: app, Machines: 2}},
		}
		run(ctx, g, engine, fmt.Sprint("worker-", i+1), config)
		edge := node.Config{Role: node.RoleEdge, Apps: []node.App{{App: app}}}
		edge.Listener = must(backhaul.Listen(os.Args[1+i]))
		edge.Proxy.App = app.ID
		run(ctx, g, engine, fmt.Sprint("edge-", i+1), edge)
	}
	must(0, g.Wait())
}

func run(ctx context.Context, g *errgroup.Group, engine *exchange.Memory, id string, c node.Config) {
	c.Node, c.Exchange = balance.NodeID(id), engine.Connect(balance.NodeID(id))
	c.Keys = []string{"a-secret-that-all-nodes-share"}
	n := must(node.New(c))
	g.Go(func() error { return n.Run(ctx) })
}

func must[T any](v T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return v
}
