package backhaul

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/nettest"
)

// newPair joins an edge and a worker with two machines, in memory, for a synctest bubble.
func newPair(
	t *testing.T, c Config, hc HandlerConfig, machine http.Handler,
) (*Transport, *balance.Fleet) {
	t.Helper()
	return newPairServed(t, c, hc, ServerConfig{}, machine)
}

func newPairServed(
	t *testing.T, c Config, hc HandlerConfig, sc ServerConfig, machine http.Handler,
) (*Transport, *balance.Fleet) {
	t.Helper()
	worker, err := balance.NewFleet(balance.FleetConfig{Node: "worker", Region: "nrt"})
	if err != nil {
		t.Fatal(err)
	}
	edge, err := balance.NewFleet(balance.FleetConfig{Node: "edge", Region: "nrt"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		g, err := worker.Host(balance.Machine{ID: balance.MachineID(fmt.Sprint("m", i)), App: "web", Region: "nrt"})
		if err != nil {
			t.Fatal(err)
		}
		token, _ := g.Start(0)
		g.Ready(token)
	}
	w := worker.Watch()
	if err := edge.Apply(w.Take()...); err != nil {
		t.Fatal(err)
	}
	machines, hop := nettest.NewPipes(), nettest.NewPipes()
	hc.AnyNode = true
	if hc.DialMachine == nil {
		hc.DialMachine = func(ctx context.Context, _ balance.Machine) (net.Conn, error) { return machines.Dial(ctx) }
	}
	h, err := NewHandler(worker, hc)
	if err != nil {
		t.Fatal(err)
	}
	b, err := balance.New(edge, balance.Config{})
	if err != nil {
		t.Fatal(err)
	}
	c.Dial = func(ctx context.Context, _ balance.NodeID) (net.Conn, error) { return hop.Dial(ctx) }
	tr, err := NewTransport(NoWait(b), c)
	if err != nil {
		t.Fatal(err)
	}
	app := &http.Server{Handler: machine, ErrorLog: quietLog}
	owner, err := NewServer(h, sc)
	if err != nil {
		t.Fatal(err)
	}
	go app.Serve(machines)
	go owner.Serve(hop)
	t.Cleanup(func() {
		tr.Close()
		h.machines.Close()
		owner.Close()
		app.Close()
	})
	return tr, worker
}

func TestNoAnswerInTime(t *testing.T) {
	for _, tt := range []struct {
		method string
		times  int32
	}{{"GET", 2}, {"POST", 1}} { // a POST may have been executed
		t.Run(tt.method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var l log
				var n atomic.Int32
				stuck := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					n.Add(1)
					io.Copy(io.Discard, r.Body)
					<-r.Context().Done()
				})
				tr, worker := newPair(
					t, Config{tuning: tuning{failures: 1}, Trace: l.trace()},
					HandlerConfig{MachineConfig: MachineConfig{HeaderTimeout: 7 * time.Second}}, stuck,
				)
				began := time.Now()
				_, err := tr.RoundTrip(request(t, tt.method, "http://web/", strings.NewReader("x")))
				if e, ok := err.(*MachineError); !ok || !e.Timeout() || e.Cause() != causeTimeout {
					t.Errorf("got %v", err)
				}
				if took := time.Since(began); n.Load() != tt.times ||
					took != time.Duration(tt.times)*7*time.Second {
					t.Errorf("%d times in %v, want %d", n.Load(), took, tt.times)
				}
				if d := l.last(t, 1); d.Outcome != balance.OutcomeError {
					t.Errorf("done: %+v", d)
				}
				synctest.Wait()
				for _, id := range []balance.MachineID{"m0", "m1"} {
					if k := worker.Gate("web", id).InFlight(); k != 0 {
						t.Errorf("%s: %d in flight", id, k)
					}
				}
			})
		})
	}
}

// The owner's own wait is longer than the edge's: the edge gives up first, and the owner notices.
func TestTheEdgeMayBeTheImpatientOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr, worker := newPair(
			t,
			Config{MachineConfig: MachineConfig{HeaderTimeout: time.Second}, tuning: tuning{failures: -1}},
			HandlerConfig{},
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }),
		)
		_, err := tr.RoundTrip(request(t, "GET", "http://web/", nil))
		if e, ok := err.(*MachineError); !ok || !e.Timeout() {
			t.Errorf("got %v", err)
		}
		synctest.Wait()
		for _, id := range []balance.MachineID{"m0", "m1"} {
			if k := worker.Gate("web", id).InFlight(); k != 0 {
				t.Errorf("%s: %d in flight", id, k)
			}
		}
	})
}

// Answers that take long are no failure: there is no timeout by default.
func TestALongPollIsLegal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr, _ := newPair(
			t, Config{}, HandlerConfig{},
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(time.Hour)
				io.WriteString(w, "at last")
			}),
		)
		resp, err := tr.RoundTrip(request(t, "POST", "http://web/", strings.NewReader("x")))
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(b) != "at last" {
			t.Errorf("got %q", b)
		}
	})
}
