// Sleeps here are virtual: nettest.Virtual is a bubble of testing/synctest.

package node

import (
	"net/http"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/nettest"
)

// A node that shuts down keeps its machines cordoned while requests end, and starts none.
func TestANodeThatEndsStaysCordoned(t *testing.T) {
	nettest.Virtual(t, func(t *testing.T) {
		w := newTown(t)
		w1 := w.join("w1", "nrt", RoleWorker, []App{{App: web, Machines: 2}}, nil)
		w.join("w2", "hkg", RoleWorker, []App{{App: web, Machines: 2}}, nil)
		e := w.join("e1", "nrt", RoleEdge, []App{{App: web}}, nil)
		w1.driver.handle = func(balance.Machine) http.Handler {
			return http.HandlerFunc(
				func(rw http.ResponseWriter, r *http.Request) { time.Sleep(5 * time.Second) },
			)
		}
		slow := make(chan int)
		go func() { status, _ := e.get("http://web/"); slow <- status }()
		time.Sleep(3 * time.Second)
		ended := make(chan struct{})
		go func() { defer close(ended); w1.end() }()
		time.Sleep(time.Second)
		for range 8 {
			for m, gate := range w1.Fleet().Owned("web") {
				if l := gate.Load(); l.State == balance.StateStarted && l.Cordon == balance.CordonNone {
					t.Errorf("%s is %v and not cordoned any more", m.ID, l.State)
				}
			}
			if a, err := e.edge.owners.Start(t.Context(), balance.Machine{App: "web", ID: "web-w1-2", Owner: "w1"}); err == nil {
				t.Errorf("a start at a node that ends is %v", a)
			}
			time.Sleep(200 * time.Millisecond)
		}
		if status := <-slow; status != http.StatusOK {
			t.Errorf("the request that was in flight: %d", status)
		}
		<-ended
		w.close()
	})
}
