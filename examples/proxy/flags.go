package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/world"
)

// settings are the values of the flags.
type settings struct {
	world world.Config
	app   string        // command of the app; empty means the built-in one
	boot  time.Duration // of the built-in app
	print bool          // print the machines' output
}

// usageError is a mistake on the command line. It leads to exit status 2.
type usageError struct{ error }

// parse reads the flags. The error is a usageError, or flag.ErrHelp after help was printed to out.
func parse(args []string, out io.Writer) (settings, error) {
	s := settings{world: world.Config{App: balance.App{ID: "web", Autostart: true}}}
	app := &s.world.App
	fs := flag.NewFlagSet("proxy", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // run prints the errors itself, see below
	fs.StringVar(&s.world.Listen, "listen", "127.0.0.1:8080", "`address` of the edge, for clients")
	fs.StringVar(
		&s.world.Status, "status", "127.0.0.1:8081", "`address` of the status page; empty for none",
	)
	regions := fs.String(
		"regions", "nrt=2,hkg=2,fra=2",
		"`regions` by airport code and machines in each; the edges sit in the first",
	)
	fs.IntVar(&s.world.Edges, "edges", 1, "`edges`, between which clients are shared in turn")
	grants := fs.String(
		"grants", "on",
		"whether owners grant the slots of machines with -hard 1 to 3, or edges guess: `on|off`",
	)
	fs.StringVar(
		&s.app, "app", "",
		"`command` that runs a machine, with $PORT for the port to listen on; empty for the built-in app",
	)
	fs.BoolVar(
		&s.print, "output", false, "print what the machines print, each line after its app and machine",
	)
	fs.StringVar(
		&s.world.Check, "check", "",
		"`path` that answers 2xx or 3xx when a machine is ready; empty for a TCP connect",
	)
	fs.IntVar(
		&app.Limits.Soft, "soft", 20,
		"soft limit in `requests` in flight per machine: above it another is started; 0 for none",
	)
	fs.IntVar(
		&app.Limits.Hard, "hard", 0,
		"hard limit in `requests` in flight per machine: never more; 0 for none",
	)
	fs.IntVar(&app.Min, "min", 0, "`machines` kept running over all regions")
	fs.IntVar(
		&app.Max, "max", 0, "most `machines` running over all regions; 0 for as many as there are",
	)
	strategy := fs.String("strategy", "closest", "how machines are picked: `closest|leastload|pack`")
	fs.DurationVar(&s.boot, "boot", 300*time.Millisecond,
		"how long the built-in app takes to boot, as a `duration`; 2s or more are taken for -boot-hint where that is 0")
	fs.DurationVar(&app.BootHint, "boot-hint", 0,
		"how long a boot is expected to take, as a `duration`; 0 to learn it")
	autostart := fs.String("autostart", "on", "whether requests start machines: `on|off`")
	autostop := fs.String("autostop", "stop",
		"what becomes of machines that are not needed: `stop|suspend|off`")
	abandoned := fs.String("abandoned", "tell",
		"what becomes of requests whose clients have left: machines are told, or finish them: `tell|finish`")
	fs.DurationVar(&app.KeepAlive, "keepalive", 30*time.Second,
		"how long an idle app keeps its machines, as a `duration`")
	fs.DurationVar(&app.IdleAfter, "idle", time.Minute,
		"how long a WebSocket or stream may carry no data until it no longer keeps its machine, as a `duration`; 0 for never")
	fs.DurationVar(&s.world.Window, "window", time.Minute,
		"how long load must have been low before one machine of several is stopped, as a `duration`")
	notify := fs.String("notify", "",
		"`classes` of long connections (stream,events,websocket,tcp) that are told to end when their machine is not needed; others keep it")
	rtt := fs.String("rtt", "on",
		"whether links between regions take the time that light and routers need: `on|off`")
	fs.DurationVar(&s.world.Grace, "grace", 5*time.Second,
		"how long connections of clients stay open after a signal to stop, so that answers can say that they end, as a `duration`; negative for none")
	fs.IntVar(&s.world.Limit.Total, "conns", 0,
		"most `connections` of all clients; 0 for 16384, or an eighth of the files that the process may open; negative for no bound")
	fs.IntVar(&s.world.Limit.PerClient, "conns-per-client", 0,
		"most `connections` of one client (an IPv4 address, or an IPv6 /64); 0 for 256; negative for no bound")
	names := fs.String("status-names", "",
		"`names`, with commas, under which the status page may be asked for besides localhost and addresses")
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		help(fs, out)
		return s, err
	} else if err != nil {
		return s, usageError{fmt.Errorf("%w: run with -h to see the flags", err)}
	}
	if fs.NArg() > 0 {
		return s, usageError{
			fmt.Errorf("unexpected argument %q: put a command with blanks in quotes after -app", fs.Arg(0)),
		}
	}
	if s.app == "" && app.BootHint == 0 && s.boot >= 2*time.Second {
		app.BootHint = s.boot // it does nothing while it boots, like one that hangs
	}
	if *names != "" {
		s.world.StatusName = strings.Split(*names, ",")
	}
	var err error
	s.world.Regions, err = parseRegions(*regions)
	switch {
	case err != nil:
	case s.world.Listen == "":
		err = errors.New(`-listen "": want an address such as 127.0.0.1:8080`)
	case app.Limits.Soft < 0:
		err = fmt.Errorf("-soft %d: want 0 (none) or more", app.Limits.Soft)
	case app.Limits.Hard < 0:
		err = fmt.Errorf("-hard %d: want 0 (none) or more", app.Limits.Hard)
	case app.Limits.Hard > 0 && app.Limits.Soft > app.Limits.Hard:
		err = fmt.Errorf(
			"-soft %d is above -hard %d: lower -soft or raise -hard", app.Limits.Soft, app.Limits.Hard,
		)
	case app.Min < 0:
		err = fmt.Errorf("-min %d: want 0 or more", app.Min)
	case app.Max < 0:
		err = fmt.Errorf("-max %d: want 0 (no bound) or more", app.Max)
	case app.Max > 0 && app.Min > app.Max:
		err = fmt.Errorf("-min %d is above -max %d: lower -min or raise -max", app.Min, app.Max)
	case s.world.Edges < 1:
		err = fmt.Errorf("-edges %d: want 1 or more", s.world.Edges)
	case s.boot < 0:
		err = fmt.Errorf("-boot %v: want 0s or more", s.boot)
	case app.BootHint < 0:
		err = fmt.Errorf("-boot-hint %v: want 0s (unknown) or more", app.BootHint)
	case app.IdleAfter < 0:
		err = fmt.Errorf("-idle %v: want 0s (never) or more", app.IdleAfter)
	case app.KeepAlive <= 0:
		err = fmt.Errorf(
			"-keepalive %v: want more than 0s; -autostop off keeps machines running for ever", app.KeepAlive,
		)
	case s.world.Window <= 0:
		err = fmt.Errorf("-window %v: want more than 0s", s.world.Window)
	case s.world.Check != "" && !strings.HasPrefix(s.world.Check, "/"):
		err = fmt.Errorf("-check %q: want a path that begins with /", s.world.Check)
	}
	if err == nil {
		app.Strategy, err = choose(
			"strategy", *strategy,
			map[string]balance.Strategy{
				"closest": balance.Closest{}, "leastload": balance.LeastLoad{}, "pack": balance.Pack{},
			},
		)
	}
	if err == nil {
		app.Autostart, err = choose("autostart", *autostart, map[string]bool{"on": true, "off": false})
	}
	if err == nil {
		app.Autostop, err = choose(
			"autostop", *autostop,
			map[string]balance.Autostop{
				"off": balance.AutostopOff, "stop": balance.AutostopStop,
				"suspend": balance.AutostopSuspend,
			},
		)
	}
	if err == nil {
		app.FinishAbandoned, err = choose(
			"abandoned", *abandoned, map[string]bool{"tell": false, "finish": true},
		)
	}
	if err == nil {
		s.world.Notify, err = parseClasses(*notify)
	}
	if err == nil {
		s.world.Near, err = choose("rtt", *rtt, map[string]bool{"on": false, "off": true})
	}
	if err == nil {
		s.world.Guess, err = choose("grants", *grants, map[string]bool{"on": false, "off": true})
	}
	if err != nil {
		return s, usageError{err}
	}
	return s, nil
}

// help explains every flag with its default, zero or not.
func help(fs *flag.FlagSet, out io.Writer) {
	fmt.Fprint(
		out, "proxy: a fleet on this machine, which starts, balances and sleeps with its load.\n\n",
	)
	fs.VisitAll(func(f *flag.Flag) {
		unit, usage := flag.UnquoteUsage(f)
		fmt.Fprintf(
			out, "  -%s %s\n    \t%s (default %s)\n", f.Name, unit, usage, cmp.Or(f.DefValue, `""`),
		)
	})
}

func choose[T any](flag, value string, of map[string]T) (T, error) {
	v, ok := of[value]
	if !ok {
		names := make([]string, 0, len(of))
		for n := range of {
			names = append(names, n)
		}
		return v, fmt.Errorf(
			"-%s %q: want one of %s", flag, value, strings.Join(slices.Sorted(slices.Values(names)), ", "),
		)
	}
	return v, nil
}

// parseClasses reads the classes of long connections.
func parseClasses(s string) (of balance.Class, err error) {
	if s == "" {
		return 0, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		name := strings.TrimSpace(part)
		c := balance.Class(1)
		for c.String() != name && c < balance.ClassAll {
			c <<= 1
		}
		switch {
		case c > balance.ClassAll:
			return 0, fmt.Errorf(
				"-notify %q: %q is no class of long connections; want some of stream, events, websocket, tcp",
				s, name,
			)
		case of&c != 0:
			return 0, fmt.Errorf("-notify %q: %q stands there twice: give it once", s, name)
		}
		of |= c
	}
	return of, nil
}

// maxMachines bounds what a typing error can start.
const maxMachines = 1000

func parseRegions(s string) (rs []world.Region, err error) {
	seen := map[string]bool{}
	total := 0
	for part := range strings.SplitSeq(s, ",") {
		name, count, ok := strings.Cut(strings.TrimSpace(part), "=")
		n, convErr := strconv.Atoi(count)
		total += max(0, n)
		switch {
		case !ok || name == "" || convErr != nil || n < 1:
			return nil, fmt.Errorf(
				"-regions %q: %q is not a region and its machines; want something like nrt=2,hkg=2", s, part,
			)
		case strings.ContainsFunc(name, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' }):
			return nil, fmt.Errorf(
				"-regions %q: region %q: want lower-case letters, digits and dashes", s, name,
			)
		case seen[name]:
			return nil, fmt.Errorf(
				"-regions %q: region %q stands there twice: give it once, with all its machines", s, name,
			)
		case total > maxMachines:
			return nil, fmt.Errorf(
				"-regions %q: more than %d machines in all: each is a process", s, maxMachines,
			)
		}
		seen[name] = true
		rs = append(rs, world.Region{Name: name, Machines: n})
	}
	return rs, nil
}
