package backhaul

import (
	"context"
	"net"
	"strings"
	"testing"

	"github.com/ebbkit/ebb/balance"
)

// An owner that does not accept this node is a matter of its set-up or ours, and says nothing about
// the health of its machines. But they must not attract requests by looking idle: what the owner
// refuses goes to others, and soon nothing is sent there for a while.
func TestAnOwnerThatDeniesThisNodeAttractsNobody(t *testing.T) {
	app := balance.App{ID: "web", Limits: balance.Limits{Hard: 50}}
	var other *hopServer
	var good string
	var l log
	r := newRig(
		t,
		rigConfig{
			app: app,
			config: Config{
				Trace: l.trace(),
				Dial: func(ctx context.Context, owner balance.NodeID) (net.Conn, error) {
					addr := good
					if owner == "other" {
						addr = other.Listener.Addr().String()
					}
					var d net.Dialer
					return d.DialContext(ctx, "tcp", addr)
				},
			},
		},
	)
	good = r.hop.Listener.Addr().String()
	r.serve("m1", says("one"))
	worker, err := balance.NewFleet(balance.FleetConfig{Node: "other", Region: "nrt"})
	if err != nil {
		t.Fatal(err)
	}
	watch := worker.Watch()
	if err := worker.Apply(balance.PutApp{App: app}); err != nil {
		t.Fatal(err)
	}
	h, err := NewHandler(worker, HandlerConfig{Keys: []string{"a-key-of-somebody-else"}})
	if err != nil {
		t.Fatal(err)
	}
	other = newHop(t, h, ServerConfig{})
	g, err := worker.Host(balance.Machine{ID: "m2", App: "web", Region: "nrt", Addr: "127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	token, _ := g.Start(0)
	g.Ready(token)
	if err := r.edge.Apply(watch.Take()...); err != nil {
		t.Fatal(err)
	}
	const n = 200
	for range n {
		resp, err := r.transport.RoundTrip(request(t, "POST", "http://web/", strings.NewReader("x")))
		if got := read(t, resp, err); got != "one" {
			t.Fatalf("got %q", got)
		}
	}
	denied := strings.Count(l.String(), "denied")
	if denied == 0 || denied > n/10 {
		t.Errorf("%d of %d requests were sent to the owner that denies this node; want some, and few",
			denied, n)
	}
	rows, _ := worker.App("web")
	if row, _ := rows.Machine("m2"); row.Health != balance.HealthUnknown ||
		row.State != balance.StateStarted {
		t.Errorf("its owner has the machine as %+v", row)
	}
	r.quiet()
}
