package balance

import (
	"errors"
	"testing"
	"time"
)

// grantedWorld is one owner whose machine takes one request at a time, and an edge. What the owner
// sends is kept.
type grantedWorld struct {
	now     time.Time
	gate    *Gate
	granter *Granter
	edge    *Balancer
	sent    []notice
}

func newGrantedWorld(t *testing.T, lasts time.Duration) *grantedWorld {
	t.Helper()
	w := &grantedWorld{now: time.Unix(1000, 0)}
	owner, edge := newFleet(t, "w", "nrt"), newFleet(t, "edge", "nrt")
	rows := owner.Watch()
	defer rows.Close()
	apply(t, owner, PutApp{App{ID: "web", Limits: Limits{Soft: 1, Hard: 1}}})
	var err error
	if w.gate, err = owner.Host(Machine{ID: "m", App: "web", Region: "nrt"}); err != nil {
		t.Fatal(err)
	}
	start(t, w.gate)
	apply(t, edge, rows.Take()...)
	if w.edge, err = New(edge, Config{}); err != nil {
		t.Fatal(err)
	}
	w.granter, err = NewGranter(owner, GranterConfig{
		For: lasts, Now: func() time.Time { return w.now }, Give: func(n NodeID, g Grant) { w.sent = append(w.sent, notice{n, g}) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// A message about a slot may come twice, and late: it is used once, and not at all once it has been
// taken back.
func TestAGrantedSlotIsUsedOnce(t *testing.T) {
	for _, c := range []struct {
		name    string
		deliver func(take func(Grant), use func() bool, g Grant)
		uses    int
	}{
		{"once", func(take func(Grant), use func() bool, g Grant) { take(g); use() }, 1},
		{"twice before it is used", func(take func(Grant), use func() bool, g Grant) { take(g); take(g); use() }, 1},
		{"again after it was used", func(take func(Grant), use func() bool, g Grant) { take(g); use(); take(g) }, 1},
		{"and again and again", func(take func(Grant), use func() bool, g Grant) { take(g); use(); take(g); use(); take(g) }, 1},
		{"after it was taken back", func(take func(Grant), use func() bool, g Grant) {
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
			r, err := w.edge.Pick(Request{App: "web"})
			if err != nil {
				if !errors.Is(err, ErrFull) {
					t.Fatal(err)
				}
				return false
			}
			if token, ok := r.Grant(); !ok || token != w.sent[0].Token {
				t.Fatalf("%s: token %d, want that of the slot, %d", c.name, token, w.sent[0].Token)
			}
			r.Release(Done)
			used++
			return true
		}
		c.deliver(func(g Grant) { w.edge.Take(g) }, use, w.sent[0].Grant)
		for use() {
		}
		if used != c.uses {
			t.Errorf("%s: used %d times, want %d", c.name, used, c.uses)
		}
	}
}

// An unused slot is the owner's again after twice the time that the node may use it: who uses it in
// the last moment, and is as far away as that, is not bounced.
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
			if x.Revoked {
				t.Errorf("after %v: a message about a slot that has run out", c.after)
			}
		}
	}
}

// A slot is given back by the node that has it, of the machine that it is of, once.
func TestOnlyItsNodeGivesASlotBack(t *testing.T) {
	w := newGrantedWorld(t, 0)
	w.granter.Ask("edge", "web", 1)
	g := w.sent[0].Grant
	of := func(edit func(*Grant)) Grant {
		other := g
		edit(&other)
		return other
	}
	for _, c := range []struct {
		name string
		node NodeID
		back Grant
		held int
	}{
		{"another node", "other", g, 1},
		{"another machine", "edge", of(func(g *Grant) { g.Machine = "n" }), 1},
		{"another app", "edge", of(func(g *Grant) { g.App = "api" }), 1},
		{"another slot", "edge", of(func(g *Grant) { g.Token++ }), 1},
		{"its own", "edge", g, 0},
		{"its own again", "edge", g, 0},
	} {
		w.granter.Back(c.node, c.back)
		if n := w.gate.Granted(); n != c.held || w.gate.InFlight() != c.held {
			t.Errorf("%s: %d granted and %d in flight, want %d", c.name, n, w.gate.InFlight(), c.held)
		}
	}
}

// A node that is not heard of gets no slots, neither for what waited there nor to have one at hand,
// whether it has been forgotten already or not.
func TestSilentNodesGetNoSlots(t *testing.T) {
	for _, parked := range []int{0, 3} {
		var s slots
		s.ask("silent", parked, 10)
		s.ask("heard", 1, 99)
		if n, lacks, ok := s.next(10); !ok || parked > 1 && n != "silent" {
			t.Errorf("%d wait there: in time, the slot is for %q (lacks %v)", parked, n, lacks)
		}
		if n, _, ok := s.next(11); !ok || n != "heard" {
			t.Errorf("%d wait there: the slot is for %q, want the node that is heard of", parked, n)
		}
		s.hold("heard", 1)
		if n, _, ok := s.next(11); ok {
			t.Errorf("%d wait there: a slot for %q", parked, n)
		}
	}
	w := newGrantedWorld(t, time.Hour)
	busy, ok := w.gate.Grant()
	if !ok {
		t.Fatal("no slot")
	}
	w.granter.Ask("edge", "web", 3)
	w.now = w.now.Add(askFor + 1)
	w.gate.Revoke(busy)
	w.granter.Tick()
	if len(w.sent) > 0 {
		t.Errorf("slots for a node that has not been heard of for %v: %v", askFor, w.sent)
	}
}
