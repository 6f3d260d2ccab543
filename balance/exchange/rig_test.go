package exchange

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// rig is a few nodes over one Memory, in a synctest bubble.
type rig struct {
	t      *testing.T
	memory *Memory
	nodes  map[balance.NodeID]*rigNode
}

type rigNode struct {
	fleet  *balance.Fleet
	conn   *Conn
	link   *Link
	stop   func() // ends Run and waits
	demand map[balance.AppID][2]int
	bad    []string
}

func newRig(t *testing.T, c MemoryConfig) *rig {
	r := &rig{t: t, memory: NewMemory(c), nodes: map[balance.NodeID]*rigNode{}}
	t.Cleanup(func() {
		for _, n := range r.nodes {
			n.stop()
		}
	})
	return r
}

// start starts a node: an edge if its ID begins with "e". A running one is killed first.
func (r *rig) start(id balance.NodeID, region string, incarnation uint64) *rigNode {
	r.t.Helper()
	return r.startOver(id, region, incarnation, func(c *Conn) Exchange { return c })
}

// startOver starts a node over a wrapped end.
func (r *rig) startOver(
	id balance.NodeID, region string, incarnation uint64, wrap func(*Conn) Exchange,
) *rigNode {
	r.t.Helper()
	if old := r.nodes[id]; old != nil {
		r.memory.Cut(id)
		old.stop()
	}
	n := &rigNode{demand: map[balance.AppID][2]int{}}
	var err error
	if n.fleet, err = balance.NewFleet(balance.FleetConfig{Node: id, Region: region, Incarnation: incarnation}); err != nil {
		r.t.Fatal(err)
	}
	n.conn = r.memory.Connect(id)
	n.link, err = New(n.fleet, wrap(n.conn), Config{
		Edge: id[0] == 'e', Worker: id[0] == 'w', Hop: string(id) + ":1", Probe: string(id) + ":2",
		Demand: func(app balance.AppID) (string, int, int) {
			d := n.demand[app]
			return region, d[0], d[1]
		},
		Trace: Trace{Refused: func(node balance.NodeID, m balance.MachineKey, err error) {
			n.bad = append(n.bad, fmt.Sprintf("%s %v: %v", node, m, err))
		}},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := n.link.Run(ctx); err != nil {
			r.t.Error(err)
		}
	}()
	n.stop = func() { cancel(); <-done }
	r.nodes[id] = n
	synctest.Wait() // it has subscribed
	return n
}

// host gives a node a running machine.
func (n *rigNode) host(t *testing.T, app balance.AppID, id balance.MachineID) *balance.Gate {
	t.Helper()
	g, err := n.fleet.Host(balance.Machine{ID: id, App: app, Region: n.fleet.Region(), Limits: balance.Limits{Soft: 10, Hard: 20}})
	if err != nil {
		t.Fatal(err)
	}
	token, _ := g.Start(0)
	g.Ready(token)
	return g
}

// row returns a machine as a node sees it: owner, state and cordon, or "none".
func (n *rigNode) row(app balance.AppID, id balance.MachineID) string {
	s, ok := n.fleet.App(app)
	if !ok {
		return "none"
	}
	m, ok := s.Machine(id)
	if !ok {
		return "none"
	}
	return fmt.Sprintf("%s %v %v", m.Owner, m.State, m.Cordon)
}

func want[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// late makes messages take 50 ms.
var late = MemoryConfig{
	Delay: func(_, _ balance.NodeID) time.Duration { return 50 * time.Millisecond },
}

func TestTwoFleets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, late)
		w := r.start("w1", "nrt", 0)
		e := r.start("e1", "nrt", 0)
		g := w.host(t, "web", "m1")
		synctest.Wait()
		want(t, "row before it can have arrived", e.row("web", "m1"), "none")
		time.Sleep(60 * time.Millisecond)
		synctest.Wait()
		want(t, "row", e.row("web", "m1"), "w1 started none")

		// Loads.
		g.Enter(0, 1, 0)
		time.Sleep(300 * time.Millisecond)
		b, err := balance.New(e.fleet, balance.Config{})
		if err != nil {
			t.Fatal(err)
		}
		for m, c := range b.Loads("web") {
			want(t, "told load of "+string(m.ID), c.Told, 1)
		}

		// Acknowledgements.
		time.Sleep(5 * time.Second) // by then all live nodes must have been heard
		g.Leave()
		gen, ok := g.Cordon()
		want(t, "cordoned", ok, true)
		synctest.Wait()
		want(t, "acknowledged before anybody can know", w.link.Acked("web", "m1", gen), false)
		time.Sleep(110 * time.Millisecond)
		want(t, "row", e.row("web", "m1"), "w1 started soft")
		want(t, "acknowledged", w.link.Acked("web", "m1", gen), true)
		want(t, "a later generation", w.link.Acked("web", "m1", gen+1), false)

		// Demand.
		e.demand["web"] = [2]int{3, 4}
		e.fleet.Apply(balance.PutApp{App: balance.App{ID: "web"}})
		time.Sleep(300 * time.Millisecond)
		parked, fresh := w.link.Parked("web")
		want(t, "parked", parked, 4)
		want(t, "fresh", fresh, true)
		want(t, "demand of others at home", w.link.Others("web", "nrt"), 7)
		want(t, "demand of others elsewhere", w.link.Others("web", "fra"), 0)
		want(t, "an edge does not count its own", e.link.Others("web", "nrt"), 0)

		// Who is there.
		n, ok := e.link.Node("w1")
		want(t, "known", ok, true)
		n.Heard, n.Incarnation = time.Time{}, 0
		want(
			t, "node", n,
			Node{
				ID: "w1", Region: "nrt", Hop: "w1:1", Probe: "w1:2", Worker: true, State: "live", Machines: 1,
			},
		)
	})
}

func newContext() (context.Context, context.CancelFunc) {
	return context.WithCancel(context.Background())
}

// small is an engine that takes only small messages.
type small struct{ *Conn }

func (small) MaxPayload() int { return 64 << 10 }

// twin is the end of a process that has taken another one's ID.
type twin struct{ *Conn }

// shrinking is an engine that takes no more than most.
type shrinking struct {
	*Conn
	most int
}

func (s *shrinking) MaxPayload() int { return s.most }

func (s *shrinking) Publish(to Subject, payload []byte) error {
	if len(payload) > s.most {
		return errors.New("too large")
	}
	return s.Conn.Publish(to, payload)
}

func (s *shrinking) Serve(at Subject, answer func([]byte) []byte) (func(), error) {
	return s.Conn.Serve(at, func(q []byte) []byte {
		if a := answer(q); len(a) <= s.most {
			return a
		}
		return nil
	})
}
