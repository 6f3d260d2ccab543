// Command fleet runs a fleet of edges and workers, each a separate process: three regions on this
// host, with links as slow as between real places, and a page that shows what each node knows.
//
//	go run -C examples/fleet .
//
// Each of those processes runs this command too, here and on separate hosts:
//
//	fleet edge -config edge.yaml
//	fleet worker -config worker.yaml
//
// Run it with -h to see the flags, and "fleet chaos -h" to see how it is tested.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/ebbkit/ebb/examples/fleet/internal/app"
	"github.com/ebbkit/ebb/examples/fleet/internal/command"
	"github.com/ebbkit/ebb/examples/fleet/internal/town"
)

func main() {
	if app.IsApp() {
		os.Exit(app.Main())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	if os.Getenv(town.EnvChild) != "" {
		go func() { io.Copy(io.Discard, os.Stdin); stop() }() // the parent process has ended
	}
	err := command.Run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, command.ErrUsage):
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(1)
	}
}
