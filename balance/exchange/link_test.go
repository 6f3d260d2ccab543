package exchange

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange/internal/wire"
)

// bubble runs a test in virtual time.
func bubble(t *testing.T, c MemoryConfig, do func(t *testing.T, r *rig)) {
	synctest.Test(t, func(t *testing.T) { do(t, newRig(t, c)) })
}

func TestANodeThatDiesAndComesBack(t *testing.T) {
	bubble(t, late, func(t *testing.T, r *rig) {
		w := r.start("w1", "nrt", 0)
		r.start("w2", "nrt", 0)
		e := r.start("e1", "nrt", 0)
		w.host(t, "web", "m1")
		time.Sleep(10 * time.Second)
		want(t, "row", e.row("web", "m1"), "w1 started none")
		r.memory.Cut("w1")
		time.Sleep(3900 * time.Millisecond) // the last heartbeat may be up to a second old
		want(t, "row of a silent node", e.row("web", "m1"), "w1 started none")
		time.Sleep(1500 * time.Millisecond)
		want(t, "row of a node that is gone", e.row("web", "m1"), "w1 gone none")
		n, _ := e.link.Node("w1")
		want(t, "its state", n.State, "gone")
		r.memory.Join("w1")
		time.Sleep(1500 * time.Millisecond)
		want(t, "row when it is heard again", e.row("web", "m1"), "w1 started none")

		w.stop()
		time.Sleep(60 * time.Millisecond)
		want(t, "row when it has left", e.row("web", "m1"), "w1 gone none")
		w = r.start("w1", "nrt", 0)
		w.host(t, "web", "m2")
		time.Sleep(200 * time.Millisecond)
		want(t, "the machine that it no longer has", e.row("web", "m1"), "none")
		want(t, "the one that it has", e.row("web", "m2"), "w1 started none")
	})
}

// What an edge knows of a machine's load is void soon after its owner has restarted.
func TestReportsOfADeadNodeAreVoid(t *testing.T) {
	bubble(t, late, func(t *testing.T, r *rig) {
		w := r.start("w1", "nrt", 0)
		e := r.start("e1", "nrt", 0)
		b, err := balance.New(e.fleet, balance.Config{})
		if err != nil {
			t.Fatal(err)
		}
		told := func() (n int) {
			for _, c := range b.Loads("web") {
				n += c.Told
			}
			return n
		}
		g := w.host(t, "web", "m1")
		for range 7 {
			g.Enter(0, 1, 0)
		}
		time.Sleep(2 * time.Second)
		want(t, "told", told(), 7)
		w = r.start("w1", "nrt", 0)
		w.host(t, "web", "m1")
		time.Sleep(time.Second)
		want(t, "told after a restart", told(), 0)
	})
}

func TestTheEngineStandsStill(t *testing.T) {
	bubble(t, late, func(t *testing.T, r *rig) {
		w := r.start("w1", "nrt", 0)
		e := r.start("e1", "nrt", 0)
		r.start("e2", "nrt", 0)
		g := w.host(t, "web", "m1")
		time.Sleep(10 * time.Second)
		r.memory.Cut()
		time.Sleep(time.Minute)
		want(t, "row", e.row("web", "m1"), "w1 started none")
		gen, _ := g.Cordon()
		time.Sleep(time.Minute)
		want(t, "acknowledged while nothing is carried", w.link.Acked("web", "m1", gen), false)
		_, fresh := w.link.Parked("web")
		want(t, "fresh demand while nothing is carried", fresh, false)
		r.memory.Join()
		time.Sleep(time.Second)
		want(t, "row a second after the engine is back", e.row("web", "m1"), "w1 started soft")
		time.Sleep(5 * time.Second)
		want(t, "acknowledged", w.link.Acked("web", "m1", gen), true)
		_, fresh = w.link.Parked("web")
		want(t, "fresh demand", fresh, true)
	})
}

// An owner that starts while the engine is down knows of no edge: it must not stop anything.
func TestAnOwnerThatHearsNobodyStopsNothing(t *testing.T) {
	bubble(t, late, func(t *testing.T, r *rig) {
		w := r.start("w1", "nrt", 0)
		r.memory.Cut("w1")
		g := w.host(t, "web", "m1")
		gen, _ := g.Cordon()
		time.Sleep(time.Minute)
		want(t, "acknowledged", w.link.Acked("web", "m1", gen), false)
		r.memory.Join("w1")
		time.Sleep(7 * time.Second)
		want(t, "acknowledged when it is alone for sure", w.link.Acked("web", "m1", gen), true)
	})
}

func TestTwoNodesClaimAMachine(t *testing.T) {
	bubble(t, MemoryConfig{}, func(t *testing.T, r *rig) {
		a, b := r.start("w1", "nrt", 0), r.start("w2", "nrt", 0)
		e := r.start("e1", "nrt", 0)
		a.host(t, "web", "m1")
		time.Sleep(time.Second)
		_, err := b.fleet.Host(balance.Machine{ID: "m1", App: "web", Region: "nrt"})
		want(t, "the second one is refused where the first is known", err != nil, true)

		// Where the first is not known, because both came at once.
		r.memory.Cut("w2")
		c := r.start("w3", "nrt", 0)
		r.memory.Cut("w1", "w3")
		a.host(t, "web", "m2")
		g := c.host(t, "web", "m2")
		r.memory.Join("w1")
		time.Sleep(1500 * time.Millisecond)
		r.memory.Join("w3")
		time.Sleep(time.Second)
		want(t, "the first stands", e.row("web", "m2"), "w1 started none")
		if len(e.bad) != 1 || !strings.Contains(e.bad[0], `w3 web/m2: balance: machine "m2" belongs to node "w1"`) {
			t.Errorf("refused: %q, want the second one, once", e.bad)
		}
		want(t, "own machines are nobody else's", a.row("web", "m2"), "w1 started none")
		c.host(t, "web", "m3")
		time.Sleep(time.Second)
		want(t, "others of the same node", e.row("web", "m3"), "w3 started none")

		// The first owner removes the machine.
		g1 := a.fleet.Gate("web", "m2")
		token, _ := g1.CloseNow()
		g1.Closed(token, false)
		if err := a.fleet.Apply(balance.RemoveMachine{App: "web", ID: "m2"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		want(t, "the second has it", e.row("web", "m2"), "w3 started none")
		g.Cordon()
		time.Sleep(time.Second)
		want(t, "and writes its row", e.row("web", "m2"), "w3 started soft")
	})
}

// send publishes a message that no link would.
func (r *rig) send(from *Conn, kind string, node balance.NodeID, b []byte) {
	from.Publish(Subject{Cluster: "ebb", Kind: kind, Region: "nrt", Node: node}, b)
	time.Sleep(10 * time.Millisecond)
}

func TestBadInput(t *testing.T) {
	bubble(t, MemoryConfig{}, func(t *testing.T, r *rig) {
		w, e := r.start("w1", "nrt", 0), r.start("e1", "nrt", 0)
		w.host(t, "web", "m1")
		time.Sleep(time.Second)
		bad := r.memory.Connect("bad")
		h := wire.Header{Cluster: "ebb", Incarnation: 1, Seq: 1}
		row := func(m balance.Machine) []byte { return wire.EncodeRow(wire.Row{Index: 1, Machine: m}) }
		good := balance.Machine{App: "web", ID: "good", Region: "nrt", State: balance.StateStarted}
		inState, noRegion, limits := good, good, good
		inState.ID, inState.State = "state", 99
		noRegion.ID, noRegion.Region = "noregion", ""
		limits.ID, limits.Limits = "limits", balance.Limits{Soft: 9, Hard: 3}
		foreign := balance.Machine{App: "web", ID: "m1", Region: "nrt"}
		r.send(bad, "row", "bad", wire.EncodeRows(h, [][]byte{row(inState), row(noRegion), row(limits), row(foreign), row(good)}))
		want(t, "the good row among them", e.row("web", "good"), "bad started none")
		want(t, "a row that another owns", e.row("web", "m1"), "w1 started none")
		want(t, "rows refused", e.link.Stats().BadRows, 4)

		h.Seq = 2
		r.send(bad, "row", "bad", wire.EncodeRows(h, [][]byte{row(balance.Machine{App: "web", ID: "good", Region: "nrt", State: 99})}))
		want(t, "a machine whose next row is bad is not used by its old one", e.row("web", "good"), "bad gone none")

		h.Seq = 3
		r.send(bad, "row", "bad", wire.EncodeRows(h, [][]byte{wire.EncodeRow(wire.Row{Removed: true, Machine: balance.Machine{App: "web", ID: "m1"}})}))
		want(t, "a machine that another removes", e.row("web", "m1"), "w1 started none")
		want(t, "at its owner, too", w.row("web", "m1"), "w1 started none")

		before := e.link.Stats().Refused
		other := h
		other.Cluster = "other"
		for _, b := range [][]byte{nil, {9}, []byte("GET / HTTP/1.1"), wire.EncodeRows(other, nil), {1, 0x80}} {
			r.send(bad, "row", "bad", b)
			r.send(bad, "load", "bad", b)
		}
		want(t, "messages refused", e.link.Stats().Refused-before, 10)
		r.send(bad, "new", "bad", []byte("of a later release"))
		want(t, "a kind of a later release is none", e.link.Stats().Refused-before, 10)

		g := w.fleet.Gate("web", "m1")
		g.Cordon()
		time.Sleep(time.Second)
		want(t, "nobody else is disturbed", e.row("web", "m1"), "w1 started soft")
	})
}

func TestAFloodTakesNobodysPlace(t *testing.T) {
	bubble(t, MemoryConfig{}, func(t *testing.T, r *rig) {
		w, e := r.start("w1", "nrt", 0), r.start("e1", "nrt", 0)
		box := &inbox{wake: make(chan struct{}, 1), of: map[balance.NodeID]int{}}
		for i := range 100_000 {
			box.put(Message{Subject: Subject{Node: "bad"}})
			if i%1000 == 0 {
				box.put(Message{Subject: Subject{Node: "good"}})
			}
		}
		items, dropped := box.take(nil)
		want(t, "kept of the flood and of another", len(items), inboxOfNode+100)
		want(t, "dropped", dropped, 100_000-inboxOfNode)

		bad := r.memory.Connect("bad")
		for range 5000 {
			bad.Publish(Subject{Cluster: "ebb", Kind: "load", Node: "bad"}, []byte("x"))
		}
		w.host(t, "web", "m1")
		time.Sleep(time.Second)
		want(t, "row", e.row("web", "m1"), "w1 started none")
	})
}

// Two processes with one ID outdo each other, less and less often, and that is reported.
func TestTwoProcessesOfOneID(t *testing.T) {
	bubble(t, late, func(t *testing.T, r *rig) {
		w := r.start("w1", "nrt", 0)
		delete(r.nodes, "w1")
		defer w.stop()
		time.Sleep(time.Second)
		// A Memory knows one end of each node: the twin has an end of its own, and says that it is
		// w1.
		twin := &twin{Conn: r.memory.Connect("w1-twin")}
		f, err := balance.NewFleet(balance.FleetConfig{Node: "w1", Region: "nrt"})
		if err != nil {
			t.Fatal(err)
		}
		said := 0
		l, err := New(f, twin, Config{Trace: Trace{Refused: func(_ balance.NodeID, _ balance.MachineKey, err error) {
			if errors.Is(err, ErrSameNode) {
				said++
			}
		}}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := newContext()
		done := make(chan struct{})
		go func() { defer close(done); l.Run(ctx) }()
		before := l.Incarnation()
		time.Sleep(10 * time.Minute)
		stop()
		<-done
		if n := l.Incarnation() - before; n > 60_000 { // one each time; the clock adds 600,000
			t.Errorf("it took %d incarnations", n)
		}
		if said == 0 || said > 30 {
			t.Errorf("it was said %d times", said)
		}
	})
}

// An app that is removed and put again gets back the machines that its owners still have.
func TestAnAppThatComesBack(t *testing.T) {
	bubble(t, late, func(t *testing.T, r *rig) {
		w, e := r.start("w1", "nrt", 0), r.start("e1", "nrt", 0)
		w.host(t, "web", "m1")
		w.host(t, "api", "m1")
		time.Sleep(time.Second)
		if err := e.fleet.Apply(balance.RemoveApp{ID: "web"}); err != nil {
			t.Fatal(err)
		}
		want(t, "removed", e.row("web", "m1"), "none")
		want(t, "another app", e.row("api", "m1"), "w1 started none")
		time.Sleep(time.Second)
		want(t, "what its owner has", e.row("web", "m1"), "w1 started none")
		g := w.fleet.Gate("web", "m1")
		token, _ := g.CloseNow()
		g.Closed(token, false)
		if err := w.fleet.Apply(balance.RemoveApp{ID: "web"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		want(t, "when its owner has removed it", e.row("web", "m1"), "none")
	})
}

// An engine may take smaller messages after a reconnect.
func TestTheEngineTakesLess(t *testing.T) {
	bubble(t, late, func(t *testing.T, r *rig) {
		x := &shrinking{most: 1 << 20}
		w := r.startOver("w1", "nrt", 0, func(c *Conn) Exchange { x.Conn = c; return x })
		x.most = 8 << 10
		r.memory.Cut("w1")
		for i := range 300 {
			w.host(t, "web", balance.MachineID(fmt.Sprintf("machine-%03d-%s", i, strings.Repeat("x", 50))))
		}
		r.memory.Join("w1")
		time.Sleep(time.Second)
		e := r.start("e1", "nrt", 0)
		time.Sleep(10 * time.Second)
		s, ok := e.fleet.App("web")
		if !ok || s.Len() != 300 {
			t.Fatal("the edge does not have all machines")
		}
		before := w.link.Stats().Unsent
		time.Sleep(10 * time.Second)
		want(t, "messages that are too large", w.link.Stats().Unsent-before, 0)
	})
}

func TestASnapshotInParts(t *testing.T) {
	bubble(t, late, func(t *testing.T, r *rig) {
		w := r.startOver("w1", "nrt", 0, func(c *Conn) Exchange { return small{c} })
		const machines = 4000
		for i := range machines {
			if _, err := w.fleet.Host(balance.Machine{ID: balance.MachineID(fmt.Sprintf("machine-%05d", i)), App: "web", Region: "nrt", Revision: strings.Repeat("r", 60)}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		e := r.start("e1", "nrt", 0)
		time.Sleep(5 * time.Second)
		s, ok := e.fleet.App("web")
		if !ok || s.Len() != machines {
			t.Fatalf("the edge does not have all %d machines", machines)
		}
		if n := e.link.Stats().Snapshots; n < 5 {
			t.Errorf("it came in %d parts", n)
		}
	})
}

// The suite has two nodes; here each of many hears every other one.
func TestManyNodesAgree(t *testing.T) {
	bubble(t, MemoryConfig{Delay: late.Delay, Jitter: 30 * time.Millisecond, Lose: 0.05, Repeat: 0.05, Seed: 1}, func(t *testing.T, r *rig) {
		const nodes = 12
		var workers []*rigNode
		for i := range nodes {
			w := r.start(balance.NodeID(fmt.Sprintf("w%02d", i)), "nrt", 0)
			for k := range 5 {
				w.host(t, "web", balance.MachineID(fmt.Sprintf("m%d-%d", i, k)))
			}
			workers = append(workers, w)
		}
		e := r.start("e1", "nrt", 0)
		for round := range 10 {
			for i, w := range workers {
				w.fleet.Gate("web", balance.MachineID(fmt.Sprintf("m%d-%d", i, round%5))).Cordon()
			}
			time.Sleep(200 * time.Millisecond)
		}
		time.Sleep(5 * time.Second)
		for i, w := range workers {
			for k := range 5 {
				id := balance.MachineID(fmt.Sprintf("m%d-%d", i, k))
				if got, want := e.row("web", id), w.row("web", id); got != want {
					t.Errorf("%s: the edge has %s, its owner %s", id, got, want)
				}
				other := workers[(i+1)%nodes]
				if got, want := other.row("web", id), w.row("web", id); got != want {
					t.Errorf("%s: another worker has %s, its owner %s", id, got, want)
				}
			}
		}
		ids := []string{}
		for _, n := range e.link.Nodes() {
			ids = append(ids, string(n.ID)+n.State)
		}
		if len(ids) != nodes || slices.ContainsFunc(ids, func(s string) bool { return !strings.HasSuffix(s, "live") }) {
			t.Errorf("nodes: %v", ids)
		}
	})
}

func TestConfig(t *testing.T) {
	f, err := balance.NewFleet(balance.FleetConfig{Node: "n", Region: "nrt"})
	if err != nil {
		t.Fatal(err)
	}
	x := NewMemory(MemoryConfig{}).Connect("n")
	for _, c := range []struct {
		want string
		f    *balance.Fleet
		x    Exchange
		c    Config
	}{
		{"without a fleet", nil, x, Config{}},
		{"without an Exchange", f, nil, Config{}},
		{"Config.Expire 10ms: want 0 (5s) or at least 1s", f, x, Config{Expire: 10 * time.Millisecond}},
		{"Config.Expire -1s: want", f, x, Config{Expire: -time.Second}},
		{"Config.Interval 2s: want 0 (200ms) or 1ms to 1s", f, x, Config{Interval: 2 * time.Second}},
		{"Config.Cluster has 300 bytes", f, x, Config{Cluster: strings.Repeat("x", 300)}},
	} {
		if _, err := New(c.f, c.x, c.c); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
}
