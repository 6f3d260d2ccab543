package backhaul_test

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/balance"
)

// A retry storm: several edges, far more clients than slots, and hard limits that every edge guesses at. Every request is
// answered, and bounces stay few, because edges hear of load in every reply and wait instead of trying on.
func TestAFullFleetIsNotStormed(t *testing.T) {
	const machines, hard, edges, each = 4, 5, 2, 10
	clients := 60
	if flag.Lookup("huge").Value.String() == "true" {
		clients = 500
	}
	worker, err := balance.NewFleet(balance.FleetConfig{Node: "worker", Region: "nrt"})
	if err != nil {
		t.Fatal(err)
	}
	if err := worker.Apply(balance.PutApp{App: balance.App{ID: "web", Limits: balance.Limits{Soft: hard - 1, Hard: hard}}}); err != nil {
		t.Fatal(err)
	}
	var most, now [machines]atomic.Int32
	for i := range machines {
		app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n := now[i].Add(1)
			defer now[i].Add(-1)
			for m := most[i].Load(); n > m && !most[i].CompareAndSwap(m, n); m = most[i].Load() {
			}
			size, _ := io.Copy(io.Discard, r.Body)
			select { // a machine takes its time
			case <-time.After(5 * time.Millisecond):
			case <-r.Context().Done():
			}
			fmt.Fprint(w, size)
		}))
		t.Cleanup(app.Close)
		g, err := worker.Host(balance.Machine{ID: balance.MachineID(fmt.Sprint("m", i)), App: "web", Region: "nrt", Addr: app.Listener.Addr().String()})
		if err != nil {
			t.Fatal(err)
		}
		token, _ := g.Start(0)
		g.Ready(token)
	}
	handler, err := backhaul.NewHandler(worker, backhaul.HandlerConfig{Keys: []string{"k"}})
	if err != nil {
		t.Fatal(err)
	}
	hop := httptest.NewUnstartedServer(handler)
	hop.Listener = handler.Listener(hop.Listener)
	hop.Config.ConnContext = handler.ConnContext
	hop.Start()
	t.Cleanup(hop.Close)

	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	var tries, bounces, answered atomic.Int64
	var wg sync.WaitGroup
	for e := range edges {
		fleet, err := balance.NewFleet(balance.FleetConfig{Node: balance.NodeID(fmt.Sprint("edge", e)), Region: "nrt"})
		if err != nil {
			t.Fatal(err)
		}
		w := worker.Watch()
		if err := fleet.Apply(w.Take()...); err != nil {
			t.Fatal(err)
		}
		w.Close()
		b, err := balance.New(fleet, balance.Config{})
		if err != nil {
			t.Fatal(err)
		}
		a, err := autostart.New(b, nil, autostart.Config{MaxWait: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		running.Go(func() { b.Run(ctx) })
		running.Go(func() { a.Run(ctx) })
		config := backhaul.Config{
			Keys: []string{"k"},
			Dial: func(ctx context.Context, _ balance.NodeID) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "tcp", hop.Listener.Addr().String())
			},
			Trace: backhaul.Trace{
				Event: func(e backhaul.Event) {
					if e.Kind == backhaul.EventBounce {
						bounces.Add(1)
					}
				},
				Done: func(d backhaul.Done) { tries.Add(int64(d.Tries)) },
			},
		}
		config.SetPatience(time.Minute)
		tr, err := backhaul.NewTransport(a, config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(tr.Close)
		for range clients {
			wg.Go(func() {
				for i := range each {
					size := []int{0, 100, 200 << 10}[i%3] // without a body, kept, asked for
					req := httptest.NewRequest("POST", "http://web/", strings.NewReader(strings.Repeat("x", size)))
					resp, err := tr.RoundTrip(req)
					if err != nil {
						t.Error(err)
						return
					}
					got, _ := io.ReadAll(resp.Body)
					resp.Body.Close()
					if string(got) != fmt.Sprint(size) {
						t.Errorf("got %q for a body of %d bytes", got, size)
					}
					answered.Add(1)
				}
			})
		}
	}
	wg.Wait()
	n := float64(answered.Load())
	t.Logf("%v answered, %.2f tries and %.2f bounces each", n, float64(tries.Load())/n, float64(bounces.Load())/n)
	if n != float64(edges*clients*each) {
		t.Errorf("%v answered, want %d", n, edges*clients*each)
	}
	if tries.Load() > 3*answered.Load() {
		t.Errorf("%d tries for %v answers", tries.Load(), n)
	}
	for i := range most {
		if most[i].Load() > hard {
			t.Errorf("machine %d had %d at once, above its hard limit of %d", i, most[i].Load(), hard)
		}
	}
}
