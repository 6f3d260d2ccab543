package backhaul

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"

	"github.com/ebbkit/ebb/balance"
)

// An owner that cannot be connected to costs a request one try, however many machines it has.
func TestAnOwnerThatIsAwayCostsOneTry(t *testing.T) {
	var dials atomic.Int32
	var r *rig
	r = newRig(
		t,
		rigConfig{config: Config{Dial: func(ctx context.Context, owner balance.NodeID) (net.Conn, error) {
			if owner == "away" {
				dials.Add(1)
				return nil, errors.New("connection refused")
			}
			var d net.Dialer
			return d.DialContext(ctx, "tcp", r.hop.Listener.Addr().String())
		}}},
	)
	r.serve("m1", says("here"))
	for i := range 8 {
		m := balance.Machine{
			App: "web", ID: balance.MachineID(fmt.Sprintf("a%d", i)), Owner: "away", Region: "nrt",
			State: balance.StateStarted, Epoch: 1,
		}
		v := balance.Version{Incarnation: 1, Seq: uint64(i + 1)}
		if err := r.edge.Apply(balance.PutMachine{Machine: m, Version: v}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		before := dials.Load()
		if status, body := fetch(t, r.front.Client(), request(t, "GET", r.front.URL, nil)); body != "here" {
			t.Errorf("request %d: %v %q", i, status, body)
		}
		if n := dials.Load() - before; n > 1 {
			t.Errorf("request %d: %d tries to connect to the same owner", i, n)
		}
	}
	r.quiet()
}
