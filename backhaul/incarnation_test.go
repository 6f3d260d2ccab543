package backhaul

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/nettest"
)

// An owner that has started again is another process, even where the connections to the old one still look alive.
func TestConnectionsToAnEarlierIncarnationAreNotUsed(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			edge, err := balance.NewFleet(balance.FleetConfig{Node: "edge", Region: "nrt"})
			if err != nil {
				t.Fatal(err)
			}
			b, _ := balance.New(edge, balance.Config{})
			m := balance.Machine{
				ID: "m1", App: "web", Region: "nrt", Owner: "w", State: balance.StateStarted,
			}
			put := func(id balance.MachineID, incarnation uint64) {
				m.ID = id
				if err := edge.Apply(balance.PutMachine{Machine: m, Version: balance.Version{Incarnation: incarnation, Seq: 1}}); err != nil {
					t.Fatal(err)
				}
			}
			var process atomic.Int32 // which one a dial reaches
			var dials atomic.Int32
			var procs [2]*nettest.Pipes
			for i := range procs {
				procs[i] = nettest.NewPipes()
				s, err := NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, i) }), ServerConfig{})
				if err != nil {
					t.Fatal(err)
				}
				go s.Serve(procs[i])
				defer s.Close()
			}
			tr, err := NewTransport(NoWait(b), Config{Dial: func(ctx context.Context, _ balance.NodeID) (net.Conn, error) {
				dials.Add(1)
				return procs[process.Load()].Dial(ctx)
			}})
			if err != nil {
				t.Fatal(err)
			}
			defer tr.Close()
			get := func() string {
				req := request(t, "GET", "http://web/", nil)
				if h2 {
					over2(req)
				}
				resp, err := tr.RoundTrip(req)
				return read(t, resp, err)
			}
			want := func(want string) {
				t.Helper()
				if got := get(); got != want {
					t.Errorf("h2 %v: process %s answered, want %s", h2, got, want)
				}
			}
			put("m1", 1)
			put("m2", 1)
			for range 8 {
				want("0")
			}
			before := dials.Load()
			process.Store(1)
			for range 8 {
				want("0") // its connections are good as long as nobody says otherwise
			}
			put("m1", 2)     // the first row of the new process; m2's is still an old one
			for range 1000 { // until m1 is picked
				if get() == "1" {
					break
				}
			}
			for range 20 {
				want("1")
			}
			put("m2", 2)
			for range 20 {
				want("1")
			}
			if n := dials.Load() - before; n > 2 {
				t.Errorf("h2 %v: dialled %d times for the new process", h2, n)
			}
		})
	}
}
