package grants

import (
	"cmp"
	"errors"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/grants/internal/deal"
)

// grantedWorld is one owner whose machine takes one request at a time, and an edge. The owner's
// messages are kept.
type grantedWorld struct {
	now     time.Time
	gate    *balance.Gate
	granter *Granter
	edge    *balance.Balancer
	sent    []deal.Notice
}

func newGrantedWorld(t *testing.T, lasts time.Duration) *grantedWorld {
	t.Helper()
	w := &grantedWorld{now: time.Unix(1000, 0)}
	owner, edge := newFleet(t, "w", "nrt"), newFleet(t, "edge", "nrt")
	rows := owner.Watch()
	defer rows.Close()
	apply(
		t, owner, balance.PutApp{App: balance.App{ID: "web", Limits: balance.Limits{Soft: 1, Hard: 1}}},
	)
	var err error
	if w.gate, err = owner.Host(balance.Machine{ID: "m", App: "web", Region: "nrt"}); err != nil {
		t.Fatal(err)
	}
	start(t, w.gate)
	apply(t, edge, rows.Take()...)
	if w.edge, err = balance.New(edge, balance.Config{}); err != nil {
		t.Fatal(err)
	}
	w.granter, err = New(owner, Config{
		Now: func() time.Time { return w.now }, Give: func(n balance.NodeID, g balance.Grant) {
			w.sent = append(w.sent, deal.Notice{Node: n, Grant: g})
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.granter.lasts = cmp.Or(lasts, w.granter.lasts)
	return w
}

// A message about a slot may come twice, and late: the slot is used once, and not at all after it
// was revoked.
func TestAGrantedSlotIsUsedOnce(t *testing.T) {
	for _, c := range []struct {
		name    string
		deliver func(take func(balance.Grant), use func() bool, g balance.Grant)
		uses    int
	}{
		{"once", func(take func(balance.Grant), use func() bool, g balance.Grant) { take(g); use() }, 1},
		{"twice before it is used", func(take func(balance.Grant), use func() bool, g balance.Grant) { take(g); take(g); use() }, 1},
		{"again after it was used", func(take func(balance.Grant), use func() bool, g balance.Grant) { take(g); use(); take(g) }, 1},
		{"and again and again", func(take func(balance.Grant), use func() bool, g balance.Grant) {
			take(g)
			use()
			take(g)
			use()
			take(g)
		}, 1},
		{"after it was taken back", func(take func(balance.Grant), use func() bool, g balance.Grant) {
			back := g
			back.Revoked = true
			take(back)
			take(g)
		}, 0},
	} {
		w := newGrantedWorld(t, 0)
		w.granter.Ask("edge", "web", 1)
		if len(w.sent) != 1 {
			t.Fatalf("%d messages for one slot", len(w.sent))
		}
		used := 0
		use := func() bool {
			r, err := w.edge.Pick(balance.Request{App: "web"})
			if err != nil {
				if !errors.Is(err, balance.ErrFull) {
					t.Fatal(err)
				}
				return false
			}
			if token, ok := r.GrantToken(); !ok || token != w.sent[0].Grant.Token {
				t.Fatalf("%s: token %d, want that of the slot, %d", c.name, token, w.sent[0].Grant.Token)
			}
			r.Release(balance.OutcomeDone)
			used++
			return true
		}
		c.deliver(func(g balance.Grant) { w.edge.AcceptGrant(g) }, use, w.sent[0].Grant)
		for use() {
		}
		if used != c.uses {
			t.Errorf("%s: used %d times, want %d", c.name, used, c.uses)
		}
	}
}

// An unused slot returns to the owner after twice the time for which the node may use it: a node
// that uses it at the last moment, and is as far away as that, is not bounced.
func TestUnusedSlotsReturnAfterTwiceTheirTime(t *testing.T) {
	for _, c := range []struct {
		after time.Duration
		held  int
	}{{0, 1}, {3 * time.Second, 1}, {5 * time.Second, 1}, {6 * time.Second, 1}, {6*time.Second + 1, 0}} {
		w := newGrantedWorld(t, 3*time.Second)
		w.granter.Ask("edge", "web", 1)
		w.granter.Ask("edge", "web", -1) // it has been served elsewhere, and wants no other
		w.now = w.now.Add(c.after)
		w.granter.Tick()
		if n := w.gate.Granted(); n != c.held {
			t.Errorf("after %v of a grant for 3s: %d granted, want %d", c.after, n, c.held)
		}
		for _, x := range w.sent {
			if x.Grant.Revoked {
				t.Errorf("after %v: a message about a slot that has run out", c.after)
			}
		}
	}
}

// A slot is given back only by the node that has it, for its machine, and once.
func TestOnlyItsNodeGivesASlotBack(t *testing.T) {
	w := newGrantedWorld(t, 0)
	w.granter.Ask("edge", "web", 1)
	g := w.sent[0].Grant
	of := func(edit func(*balance.Grant)) balance.Grant {
		other := g
		edit(&other)
		return other
	}
	for _, c := range []struct {
		name string
		node balance.NodeID
		back balance.Grant
		held int
	}{
		{"another node", "other", g, 1},
		{"another machine", "edge", of(func(g *balance.Grant) { g.Machine = "n" }), 1},
		{"another app", "edge", of(func(g *balance.Grant) { g.App = "api" }), 1},
		{"another slot", "edge", of(func(g *balance.Grant) { g.Token++ }), 1},
		{"its own", "edge", g, 0},
		{"its own again", "edge", g, 0},
	} {
		w.granter.Back(c.node, c.back)
		if n := w.gate.Granted(); n != c.held || w.gate.InFlight() != c.held {
			t.Errorf("%s: %d granted and %d in flight, want %d", c.name, n, w.gate.InFlight(), c.held)
		}
	}
}

// A node that sends nothing gets no slots.
func TestSilentNodesGetNoSlots(t *testing.T) {
	w := newGrantedWorld(t, time.Hour)
	busy, ok := w.gate.Grant()
	if !ok {
		t.Fatal("no slot")
	}
	w.granter.Ask("edge", "web", 3)
	w.now = w.now.Add(deal.AskFor + 1)
	w.gate.Revoke(busy)
	w.granter.Tick()
	if len(w.sent) > 0 {
		t.Errorf("slots for a node that has not been heard of for %v: %v", deal.AskFor, w.sent)
	}
}
