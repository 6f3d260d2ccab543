package backhaul

import (
	"net/http/httptest"
	"testing"

	"github.com/ebbkit/ebb/balance"
)

// Two apps may each have a machine of the same ID, at the same epoch: the pooled connection to one
// never carries the other's requests. It holds at the edge that owns the machines and at an owner.
func TestConnectionsBelongToOneAppsMachine(t *testing.T) {
	for name, c := range map[string]rigConfig{
		"local":          {local: true},
		"hop":            {},
		"local, HTTP/2":  {local: true, h2: true},
		"hop over HTTP2": {h2: true},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, c)
			r.serve("m1", says("web"))
			other := httptest.NewUnstartedServer(says("shop"))
			if r.h2 != nil {
				h2c(other)
			}
			other.Start()
			t.Cleanup(other.Close)
			if r.h2 != nil {
				r.h2[other.Listener.Addr().String()] = true
			}
			if err := r.worker.Apply(balance.PutApp{App: balance.App{ID: "shop"}}); err != nil {
				t.Fatal(err)
			}
			g, err := r.worker.Host(
				balance.Machine{ID: "m1", App: "shop", Region: "nrt", Addr: other.Listener.Addr().String()},
			)
			if err != nil {
				t.Fatal(err)
			}
			token, _ := g.Start(0)
			g.Ready(token)
			r.sync()
			for range 3 {
				for _, app := range []string{"web", "shop"} {
					resp, err := r.transport.RoundTrip(request(t, "GET", "http://"+app+"/", nil))
					if got := read(t, resp, err); got != app {
						t.Fatalf("a request to app %q was answered by a machine of app %q", app, got)
					}
				}
			}
		})
	}
}
