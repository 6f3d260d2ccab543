package contract

import (
	"context"
	"strings"
	"testing"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/autostart/machinetest"
	"github.com/ebbkit/ebb/backhaul/node"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange"
	"github.com/ebbkit/ebb/balance/grants"
	"github.com/ebbkit/ebb/downscale"
	"github.com/ebbkit/ebb/rtt"
)

// runners makes one of everything that has a Run method for users to call.
func runners(t *testing.T) map[string]func(context.Context) error {
	f, err := balance.NewFleet(balance.FleetConfig{Node: "n", Region: "nrt"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := balance.New(f, balance.Config{})
	if err != nil {
		t.Fatal(err)
	}
	g, err := grants.New(f, grants.Config{Give: func(balance.NodeID, balance.Grant) {}})
	if err != nil {
		t.Fatal(err)
	}
	a, err := autostart.New(b, nil, autostart.Config{})
	if err != nil {
		t.Fatal(err)
	}
	s, err := machine.NewStarter(f, &machinetest.Fake{}, machine.Config{})
	if err != nil {
		t.Fatal(err)
	}
	d, err := downscale.New(f, &machinetest.Fake{}, downscale.Config{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := rtt.New(rtt.Config{ID: "n", Key: []byte("0123456789abcdef"), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := exchange.New(f, newMemory(), exchange.Config{})
	if err != nil {
		t.Fatal(err)
	}
	n, err := node.New(node.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return map[string]func(context.Context) error{
		"balance: Balancer":     b.Run,
		"grants: Granter":       g.Run,
		"exchange: Link":        l.Run,
		"autostart: Autostart":  a.Run,
		"machine: Starter":      s.Run,
		"downscale: Downscaler": d.Run,
		"node: Node":            n.Run,
		"rtt: Mesh":             m.Run,
	}
}

// Every Run returns nil when its context ends, so that an errgroup of them fails only when
// something did. It runs once: another call returns an error that says so.
func TestRunReturnsNilWhenItsContextEndsAndRunsOnce(t *testing.T) {
	for name, run := range runners(t) {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- run(ctx) }()
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("Run returned %v when its context ended, want nil", err)
			}
			want := name + ".Run was called before"
			if err := run(t.Context()); err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("a second Run: %v, want %q", err, want)
			}
		})
	}
	for name, run := range runners(t) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := run(ctx); err != nil {
			t.Errorf("%s: Run with a context that has ended: %v, want nil", name, err)
		}
	}
}
