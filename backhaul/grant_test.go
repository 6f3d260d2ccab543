package backhaul

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// grant reserves a slot and hands it to the edge.
func (r *rig) grant(id balance.MachineID) uint64 {
	r.t.Helper()
	token, ok := r.gates[id].Grant()
	if !ok {
		r.t.Fatal("no slot to grant")
	}
	if !r.b.AcceptGrant(
		balance.Grant{App: "web", Machine: id, Epoch: 1, Token: token, For: time.Minute},
	) {
		r.t.Fatal("the edge does not take the grant")
	}
	return token
}

func (r *rig) get() (status int, body string) {
	r.t.Helper()
	resp, err := r.front.Client().Get(r.front.URL)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

var one = balance.App{Limits: balance.Limits{Soft: 1, Hard: 1}}

// A request brings the token of its slot to the gate, over the hop and in one process, and is let in although the gate is
// full; the slot is free again when it has been answered.
func TestGrantedSlotIsTheRequests(t *testing.T) {
	for name, local := range map[string]bool{"hop": false, "one process": true} {
		for proto, h2 := range map[string]bool{"1.1": false, "2": true} {
			t.Run(name+"/"+proto, func(t *testing.T) {
				r := newRig(t, rigConfig{app: one, local: local, h2: h2})
				g := r.serve("m", says("ok"))
				for range 3 {
					r.grant("m")
					if _, b := g.Enter(0, 0, 0); b != balance.BounceFull {
						t.Fatalf("somebody without the slot gets in: %v", b)
					}
					if status, body := r.get(); status != http.StatusOK || body != "ok" {
						t.Fatalf("with the slot: %d %q", status, body)
					}
					r.quiet()
				}
			})
		}
	}
}

// What was taken back, or never was, is no worse than nothing: a slot that is really free is taken, a full machine bounces.
func TestVoidGrantIsAnOrdinaryTry(t *testing.T) {
	bounced := make(chan balance.Bounce, 10)
	r := newRig(t, rigConfig{app: one, config: Config{tuning: tuning{rounds: 1, bounces: 1}, Trace: Trace{Event: on(EventBounce, func(e Event) { bounced <- e.Bounce })}}})
	g := r.serve("m", says("ok"))

	g.Revoke(r.grant("m"))
	if status, _ := r.get(); status != http.StatusOK || len(bounced) != 0 {
		t.Errorf("a free machine: %d, %d bounces", status, len(bounced))
	}
	r.quiet()

	g.Revoke(r.grant("m"))
	other, _ := g.Grant()
	if status, _ := r.get(); status != http.StatusServiceUnavailable ||
		<-bounced != balance.BounceFull {
		t.Errorf("a machine whose slot is somebody else's: %d", status)
	}
	if g.InFlight() != 1 || !g.Revoke(other) {
		t.Error("the other node's slot was taken")
	}
	r.quiet()
}

// An owner that cannot be reached gets its slot back by another way; a request that ended before it left keeps nothing.
func TestUnusedGrantsReturn(t *testing.T) {
	var back []balance.Grant
	down := errors.New("down")
	c := rigConfig{app: one}
	c.balance.GiveBack = func(owner balance.NodeID, g balance.Grant) {
		if owner != "worker" {
			t.Errorf("given back to %q", owner)
		}
		back = append(back, g)
	}
	c.config.Dial = func(context.Context, balance.NodeID) (net.Conn, error) { return nil, down }
	r := newRig(t, c)
	g := r.serve("m", says("ok"))
	token := r.grant("m")

	slot, err := r.b.Pick(balance.Request{App: "web"})
	if err != nil {
		t.Fatal(err)
	}
	slot.Release(
		balance.OutcomeCanceled,
	) // the client has left: the next request of this node has the slot
	if status, _ := r.get(); status != http.StatusServiceUnavailable {
		t.Errorf("an owner that is down: %d", status)
	}
	if len(back) != 1 || back[0].Token != token || back[0].Machine != "m" || back[0].App != "web" ||
		!g.Revoke(token) {
		t.Errorf("given back: %+v", back)
	}
	r.quiet()
}
