// Command fleet runs a fleet of edges and workers, each a process of its own: three regions on this
// host, with links as slow as between real places, and a page that shows who knows what.
//
//	go run -C examples/fleet .
//
// It is also what each of them runs, here and on hosts of their own:
//
//	fleet edge -config edge.yaml
//	fleet worker -config worker.yaml
//
// Run it with -h to see what can be turned, and "fleet chaos -h" for how it is tried.
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
		go func() { io.Copy(io.Discard, os.Stdin); stop() }() // whoever started this has ended
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
