// Package command reads the command line of the fleet and does what it says.
package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/ebbkit/ebb/examples/fleet/internal/chaos"
	"github.com/ebbkit/ebb/examples/fleet/internal/config"
	"github.com/ebbkit/ebb/examples/fleet/internal/engine"
	"github.com/ebbkit/ebb/examples/fleet/internal/member"
	"github.com/ebbkit/ebb/examples/fleet/internal/town"
)

// ErrUsage says that the command line is wrong.
var ErrUsage = errors.New("see fleet -h")

// Run carries out args, until that is done or ctx ends.
func Run(ctx context.Context, args []string, out, errs io.Writer) error {
	what := ""
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		what, args = args[0], args[1:]
	}
	switch what {
	case "":
		return runTown(ctx, args, out, errs)
	case string(config.RoleEdge), string(config.RoleWorker), string(config.RoleBoth):
		return runNode(ctx, config.Role(what), args, out, errs)
	case "chaos":
		return runChaos(ctx, args, out, errs)
	case "engine":
		return runEngine(ctx, args, errs)
	}
	return fmt.Errorf(
		"%q: want edge, worker, node, engine, chaos, or nothing for a fleet on this host; %w", what,
		ErrUsage,
	)
}

// flags are those of one of the commands.
func flags(name, text string, errs io.Writer) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(errs)
	f.Usage = func() { fmt.Fprintf(errs, "%s\n\n", text); f.PrintDefaults() }
	return f
}

func parse(f *flag.FlagSet, args []string) error {
	f.SetOutput(io.Discard)
	usage := f.Usage
	f.Usage = func() {}
	err := f.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		usage()
		return err
	case err != nil:
		return fmt.Errorf("%w; %w", err, ErrUsage)
	case f.NArg() > 0:
		return fmt.Errorf("%q is one word too many; %w", f.Arg(0), ErrUsage)
	}
	return nil
}

func runNode(ctx context.Context, role config.Role, args []string, out, errs io.Writer) error {
	f := flags("fleet "+string(role), "fleet "+string(role)+" -config FILE runs a node.", errs)
	c := member.Config{
		Role: role, Engine: engine.Open, Output: out, Logger: slog.New(slog.NewTextHandler(errs, nil)),
	}
	f.StringVar(&c.File, "config", "", "the configuration, a YAML `file`")
	check := f.Bool("check", false, "only say whether the configuration is right")
	if err := parse(f, args); err != nil {
		return err
	}
	if c.File == "" {
		return fmt.Errorf("-config is missing: want a file; %w", ErrUsage)
	}
	if *check {
		_, err := config.Read(c.File, role)
		return err
	}
	again := make(chan os.Signal, 1)
	signal.Notify(again, syscall.SIGHUP)
	defer signal.Stop(again)
	c.Again = again
	return member.Run(ctx, c)
}

func runEngine(ctx context.Context, args []string, errs io.Writer) error {
	f := flags("fleet engine", "fleet engine runs a NATS server.", errs)
	listen := f.String("listen", "127.0.0.1:4222", "the `address` where nodes come")
	dir := f.String("dir", "", "the `folder` of what it keeps")
	if err := parse(f, args); err != nil {
		return err
	}
	if *dir == "" {
		return fmt.Errorf("-dir is missing: want a folder; %w", ErrUsage)
	}
	return engine.Serve(ctx, *listen, *dir)
}

// townFlags adds the flags of a town.
func townFlags(f *flag.FlagSet, c *town.Config) {
	f.IntVar(&c.Edges, "edges", 1, "edges in each region")
	f.IntVar(&c.Workers, "workers", 1, "workers in each region")
	f.IntVar(&c.Machines, "machines", 3, "machines of each worker")
	f.IntVar(&c.Soft, "soft", 8, "requests at which a machine is full, if others are not")
	f.IntVar(&c.Hard, "hard", 16, "requests that a machine takes at most")
	f.DurationVar(
		&c.KeepAlive, "keepalive", 30*time.Second, "how long machines that nobody needs run on",
	)
	f.StringVar(&c.Engine, "nats", "", "the `URL` of a NATS server; none: one is started")
	f.StringVar(
		&c.App, "app", "", "the `command` of a machine, which listens on $PORT; none: a built-in one",
	)
	f.DurationVar(
		&c.Restart, "restart", 3*time.Second,
		"after which time a process that has ended is started again",
	)
}

// prepare makes a folder for a town; clear removes it.
func prepare(c *town.Config) (clear func(), err error) {
	for _, n := range []struct {
		name        string
		value, most int
	}{{"edges", c.Edges, 20}, {"workers", c.Workers, 20}, {"machines", c.Machines, 100}} {
		if n.value < 1 || n.value > n.most {
			return nil, fmt.Errorf("-%s %d: want 1 to %d; %w", n.name, n.value, n.most, ErrUsage)
		}
	}
	if c.Self, err = os.Executable(); err != nil {
		return nil, err
	}
	if c.Dir, err = os.MkdirTemp("", "fleet-"); err != nil {
		return nil, err
	}
	return func() { os.RemoveAll(c.Dir) }, nil
}

func runTown(ctx context.Context, args []string, out, errs io.Writer) error {
	f := flags(
		"fleet",
		"fleet runs three regions on this host; fleet edge|worker|node -config FILE runs a node.", errs,
	)
	c := town.Config{Out: out}
	townFlags(f, &c)
	f.IntVar(
		&c.Port, "port", 8100, "where the page is, on 127.0.0.1; the edges have the ports after it",
	)
	if err := parse(f, args); err != nil {
		return err
	}
	clear, err := prepare(&c)
	if err != nil {
		return err
	}
	defer clear()
	t, err := town.New(c)
	if err != nil {
		return err
	}
	t.Describe(out)
	return t.Run(ctx)
}

func runChaos(ctx context.Context, args []string, out, errs io.Writer) error {
	f := flags("fleet chaos", "fleet chaos kills, pauses, cuts off and restarts what a fleet consists of, under load,\n"+
		"and accounts for each request.", errs)
	c := chaos.Config{Out: out, Town: town.Config{Out: io.Discard}}
	townFlags(f, &c.Town)
	f.DurationVar(&c.For, "for", 30*time.Second, "how long")
	f.Uint64Var(&c.Seed, "seed", uint64(time.Now().UnixNano()%1e6), "what happens, and in which order")
	f.IntVar(&c.Rate, "rate", 100, "requests in a second")
	f.DurationVar(&c.Pace, "pace", 2*time.Second, "the time between two faults, on average")
	f.BoolVar(
		&c.Lossy, "lossy", false,
		"does not fail for requests that were lost at an edge that lived; tells them",
	)
	verbose := f.Bool("v", false, "shows what the processes say")
	if err := parse(f, args); err != nil {
		return err
	}
	if c.For <= 0 || c.Rate < 1 || c.Rate > 10_000 || c.Pace <= 0 {
		return fmt.Errorf(
			"-for %v -rate %d -pace %v: want more than 0; %w", c.For, c.Rate, c.Pace, ErrUsage,
		)
	}
	if *verbose {
		c.Town.Out = errs
	}
	clear, err := prepare(&c.Town)
	if err != nil {
		return err
	}
	defer clear()
	return chaos.Run(ctx, c)
}
