package main

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/world"
)

func TestFlags(t *testing.T) {
	s, err := parse(
		strings.Fields(
			"-regions nrt=4,hkg=1 -edges 3 -grants off -soft 10 -hard 20 -min 1 -max 3 -strategy leastload -boot 8s -boot-hint 9s -autostart off -autostop suspend -abandoned finish -keepalive 2s -idle 3s -window 10s -rtt off -notify websocket,events -check /up -output -listen :0 -status :1 -grace 1s -conns 9 -conns-per-client 3 -status-names a,b",
		),
		io.Discard,
	)
	if err != nil {
		t.Fatal(err)
	}
	want := settings{boot: 8 * time.Second, print: true, world: world.Config{
		Listen: ":0", Status: ":1", Grace: time.Second, Limit: backhaul.LimitConfig{Total: 9, PerClient: 3}, StatusName: []string{"a", "b"}, Check: "/up", Window: 10 * time.Second, Near: true, Notify: balance.ClassWebSocket | balance.ClassEvents, Edges: 3, Guess: true,
		Regions: []world.Region{{Name: "nrt", Machines: 4}, {Name: "hkg", Machines: 1}},
		App: balance.App{
			ID: "web", Autostop: balance.AutostopSuspend, Min: 1, Max: 3,
			Limits: balance.Limits{Soft: 10, Hard: 20}, BootHint: 9 * time.Second,
			FinishAbandoned: true, KeepAlive: 2 * time.Second, IdleAfter: 3 * time.Second,
			Strategy: balance.LeastLoad{},
		},
	}}
	if d := cmp.Diff(want, s, cmp.AllowUnexported(settings{}), cmpopts.IgnoreUnexported(world.Config{})); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestBadFlagsAreNamed(t *testing.T) {
	for _, c := range []struct{ args, flag, remedy string }{
		{"-nope 1", "-nope", "-h"},
		{"-soft x", "-soft", "-h"},
		{"-soft 30 -hard 20", "-soft 30", "raise -hard"},
		{"-soft -1", "-soft -1", "0 (none) or more"},
		{"-hard -1", "-hard -1", "0 (none) or more"},
		{"-min 3 -max 2", "-min 3", "raise -max"},
		{"-min -3", "-min -3", "0 or more"},
		{"-max -3", "-max -3", "0 (no bound) or more"},
		{"-keepalive -2s", "-keepalive -2s", "more than 0s"},
		{"-keepalive 0s", "-keepalive 0s", "-autostop off"},
		{"-idle -1s", "-idle -1s", "0s (never)"},
		{"-window -1m", "-window -1m", "more than 0s"},
		{"-boot -1s", "-boot -1s", "0s or more"},
		{"-boot-hint -1s", "-boot-hint -1s", "0s (unknown) or more"},
		{"-edges 0", "-edges 0", "1 or more"},
		{"-grants maybe", `-grants "maybe"`, "off, on"},
		{"-strategy random", `-strategy "random"`, "closest, leastload, pack"},
		{"-autostart maybe", `-autostart "maybe"`, "off, on"},
		{"-autostop pause", `-autostop "pause"`, "off, stop, suspend"},
		{"-rtt yes", `-rtt "yes"`, "off, on"},
		{"-notify websockets", `-notify "websockets"`, "stream, events, websocket, tcp"},
		{"-notify tcp,", `"" is no class`, "stream, events, websocket, tcp"},
		{"-notify tcp,events,tcp", `-notify "tcp,events,tcp"`, "give it once"},
		{"-notify none", `"none"`, "stream, events, websocket, tcp"},
		{"-check up", `-check "up"`, "begins with /"},
		{"-regions nrt", `-regions "nrt"`, "nrt=2,hkg=2"},
		{"-regions nrt=0", `-regions "nrt=0"`, "nrt=2,hkg=2"},
		{"-regions nrt=2,nrt=3", `-regions "nrt=2,nrt=3"`, "give it once"},
		{"-regions NRT=2", `-regions "NRT=2"`, "lower-case"},
		{"-regions nrt=2000", `-regions "nrt=2000"`, "each is a process"},
		{"serve", `"serve"`, "quotes"},
	} {
		_, err := parse(strings.Fields(c.args), io.Discard)
		if _, ok := errors.AsType[usageError](err); !ok {
			t.Errorf("%s: %v, want a usage error", c.args, err)
			continue
		}
		if m := err.Error(); !strings.Contains(m, c.flag) || !strings.Contains(m, c.remedy) ||
			strings.Contains(m, "\n") {
			t.Errorf("%s: %q, want one line that names %q and the remedy %q", c.args, m, c.flag, c.remedy)
		}
	}
}

func TestHelpNamesEveryFlag(t *testing.T) {
	var out bytes.Buffer
	if _, err := parse([]string{"-h"}, &out); !errors.Is(err, flag.ErrHelp) {
		t.Fatal(err)
	}
	for f := range strings.FieldsSeq("-listen -status -regions -edges -grants -soft -hard -min -max -strategy -boot -boot-hint -autostart -autostop -abandoned -keepalive -idle -window -notify -rtt -app -check -output") {
		if !strings.Contains(out.String(), "  "+f+" ") {
			t.Errorf("-h does not explain %s", f)
		}
	}
	if flags, defaults := strings.Count(out.String(), "\n  -"), strings.Count(out.String(), "(default "); flags != defaults {
		t.Errorf("-h explains %d flags and %d defaults", flags, defaults)
	}
}

func TestExitStatus(t *testing.T) {
	for _, c := range []struct {
		args   string
		status int
		says   string
	}{
		{"-soft 2 -hard 1", exitUsage, "-soft 2"},
		{"-listen 256.0.0.1:1", exitRuntime, "-listen 256.0.0.1:1"},
		{"-listen 127.0.0.1:0 -status 127.0.0.1:0 -app /nowhere/to/be/found", exitRuntime, `-app "/nowhere/to/be/found"`},
	} {
		var stderr bytes.Buffer
		if got := run(strings.Fields(c.args), io.Discard, &stderr); got != c.status ||
			!strings.Contains(stderr.String(), c.says) ||
			strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf(
				"%s: status %d and %q, want %d and one line with %q", c.args, got, stderr.String(), c.status,
				c.says,
			)
		}
	}
}

// The built-in app's boot hint is its -boot, where that is long; an explicit -boot-hint wins.
func TestSlowBootsOfTheBuiltInAppAreKnown(t *testing.T) {
	for args, want := range map[string]time.Duration{
		"":                        0,
		"-boot 8s":                8 * time.Second,
		"-boot 8s -boot-hint 9s":  9 * time.Second,
		"-boot 1s":                0,
		"-boot 8s -app something": 0,
	} {
		if s, err := parse(strings.Fields(args), io.Discard); err != nil || s.world.App.BootHint != want {
			t.Errorf("%q: %v, %v; want %v", args, s.world.App.BootHint, err, want)
		}
	}
}
