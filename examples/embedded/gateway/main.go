// Command gateway serves two apps, each a folder of files, which sleep until a request comes.
//
//	mkdir -p blog shop && go run ./examples/embedded/gateway
package main

import (
	"cmp"
	"context"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/ebbkit/ebb/autostart/process"
	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/backhaul/node"
	"github.com/ebbkit/ebb/balance"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	files := process.Config{Command: "python3 -m http.server $PORT --bind 127.0.0.1 --directory $APP"}
	listener := must(backhaul.Listen(cmp.Or(os.Getenv("LISTEN"), "127.0.0.1:8080")))
	app := balance.App{Autostart: true, Autostop: balance.AutostopStop, Limits: balance.Limits{Soft: 20}}
	blog, shop := app, app
	blog.ID, shop.ID = "blog.localhost", "shop.localhost"
	gateway := must(node.New(node.Config{
		Apps:   []node.App{{App: blog, Machines: 1}, {App: shop, Machines: 2}},
		Driver: must(process.New(files)), Listener: listener, Logger: slog.Default(),
	}))
	check(gateway.Run(ctx))
}

func must[T any](v T, err error) T { check(err); return v }

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
