// Command proxy runs a whole fleet on one machine: an edge that takes requests, workers in several
// regions behind links that are as slow as the real ones, and machines that are child processes,
// started by requests and stopped when idle.
//
//	go run ./examples/proxy
//
// Run it with -h to see the flags.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/ebbkit/ebb/internal/demoapp"
	"github.com/ebbkit/ebb/internal/world"
)

// The exit statuses besides 0.
const (
	exitRuntime = 1
	exitUsage   = 2
)

func main() {
	if demoapp.IsChild() {
		os.Exit(demoapp.Main())
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is the command: it returns the exit status.
func run(args []string, stdout, stderr io.Writer) int {
	s, err := parse(args, stdout)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err == nil {
		ctx, hurry, stop := signals(stderr)
		defer stop()
		err = serve(ctx, hurry, s, stdout)
	}
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "proxy: %v\n", err)
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	return exitRuntime
}

// signals ends ctx at the first signal to stop, and hurry at the second.
func signals(stderr io.Writer) (ctx, hurry context.Context, stop func()) {
	ctx, first := context.WithCancel(context.Background())
	hurry, second := context.WithCancel(context.Background())
	c := make(chan os.Signal, 2)
	signal.Notify(c, os.Interrupt, syscall.SIGTERM)
	go func() {
		for end := range c {
			if ctx.Err() == nil {
				fmt.Fprintf(stderr, "proxy: %v: letting requests end, then stopping all machines; once more to hurry\n", end)
				first()
				continue
			}
			second()
		}
	}()
	return ctx, hurry, func() { signal.Stop(c); close(c); first(); second() }
}

func serve(ctx, hurry context.Context, s settings, out io.Writer) error {
	driver, err := s.driver(out)
	if err != nil {
		return err
	}
	s.world.Driver = driver
	s.world.Title = cmp.Or(s.app, "the built-in app")
	w, err := world.New(s.world)
	if err != nil {
		return err
	}
	w.Describe(out)
	return w.Run(ctx, hurry)
}
