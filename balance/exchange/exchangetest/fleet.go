package exchangetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange"
	"github.com/google/go-cmp/cmp"
)

// worse is an engine that degrades one node's messages.
type worse struct {
	exchange.Exchange
	mu   sync.Mutex
	bend func(m exchange.Message, send func(exchange.Message)) // nil: messages pass unchanged
	sent []exchange.Message
}

// Publish implements exchange.Exchange.
func (w *worse) Publish(s exchange.Subject, payload []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := exchange.Message{Subject: s, Payload: payload}
	w.sent = append(w.sent, m)
	if w.bend == nil {
		return w.Exchange.Publish(s, payload)
	}
	w.bend(m, func(m exchange.Message) { w.Exchange.Publish(m.Subject, m.Payload) })
	return nil
}

// passing sets how messages are bent from now on; nil ends that.
func (w *worse) passing(bend func(m exchange.Message, send func(exchange.Message))) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bend = bend
}

// replay sends every message again that was ever sent, in that order.
func (w *worse) replay() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.sent {
		w.Exchange.Publish(m.Subject, m.Payload)
	}
}

// node is a fleet with its link.
type node struct {
	fleet *balance.Fleet
	x     *worse
	link  *exchange.Link
	stop  func()

	mu     sync.Mutex
	parked int
	gens   map[balance.MachineKey]uint64 // of the cordons seen; reset when the worker restarts
	back   string                        // a machine whose row went back to an earlier one
}

// fleets are an edge, "edge", and a worker, "worker".
type fleets struct {
	t    *testing.T
	net  Net
	edge *node
	work *node
	turn int // counts changes
}

func newFleets(t *testing.T, n Net) *fleets {
	f := &fleets{t: t, net: n}
	f.edge = f.start("edge", 0)
	f.work = f.start("worker", 0)
	for i := range 5 {
		f.host(fmt.Sprint("m", i))
	}
	t.Cleanup(func() { f.edge.stop(); f.work.stop() })
	return f
}

func (f *fleets) start(id balance.NodeID, incarnation uint64) *node {
	f.t.Helper()
	n := &node{x: &worse{Exchange: f.net.Connect(id)}}
	var err error
	if n.fleet, err = balance.NewFleet(balance.FleetConfig{Node: id, Region: "nrt", Incarnation: incarnation}); err != nil {
		f.t.Fatal(err)
	}
	if err := n.fleet.Apply(balance.PutApp{App: balance.App{ID: "web"}}); err != nil {
		f.t.Fatal(err)
	}
	n.link, err = exchange.New(n.fleet, n.x, exchange.Config{
		Cluster: "test", Edge: id == "edge", Worker: id == "worker", Expire: 2 * time.Second,
		Demand: func(balance.AppID) (string, int, int) {
			n.mu.Lock()
			defer n.mu.Unlock()
			return "nrt", 0, n.parked
		},
		Trace: exchange.Trace{Refused: func(of balance.NodeID, m balance.MachineKey, err error) {
			f.t.Errorf("%s refused %v of %s: %v", id, m, of, err)
		}},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	n.gens = map[balance.MachineKey]uint64{}
	n.fleet.OnChange(func(app balance.AppID) {
		s, _ := n.fleet.App(app)
		n.mu.Lock()
		defer n.mu.Unlock()
		for m := range s.All() {
			if m.State == balance.StateGone {
				continue // of a worker that has ended
			}
			if m.CordonGen < n.gens[m.Key()] {
				n.back = string(m.ID)
			}
			n.gens[m.Key()] = m.CordonGen
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := n.link.Run(ctx); err != nil {
			f.t.Errorf("Run: %v", err)
		}
	}()
	n.stop = sync.OnceFunc(func() { cancel(); <-done })
	return n
}

// restart ends the worker and starts it again, without machines.
func (f *fleets) restart(incarnation uint64) {
	f.t.Helper()
	f.work.stop()
	f.edge.mu.Lock()
	clear(f.edge.gens)
	f.edge.mu.Unlock()
	f.work = f.start("worker", incarnation)
}

// host gives the worker a running machine.
func (f *fleets) host(id string) {
	f.t.Helper()
	g, err := f.work.fleet.Host(balance.Machine{ID: balance.MachineID(id), App: "web", Region: "nrt", Revision: "v1"})
	if err != nil {
		f.t.Fatal(err)
	}
	token, _ := g.Start(0)
	g.Ready(token)
}

// change changes one of the worker's rows: each time its cordon's generation grows.
func (f *fleets) change() {
	f.turn++
	g := f.work.fleet.Gate("web", balance.MachineID(fmt.Sprint("m", f.turn%5)))
	if gen, ok := g.Cordon(); ok {
		g.Uncordon(gen)
	}
	time.Sleep(2 * time.Millisecond) // one message for each change, as far as possible
}

// table returns the worker's rows as a node sees them.
func (f *fleets) table(n *node) map[balance.MachineID]balance.Machine {
	t := map[balance.MachineID]balance.Machine{}
	s, ok := n.fleet.App("web")
	if !ok {
		return t
	}
	for m := range s.All() {
		if m.Owner == "worker" {
			t[m.ID] = *m
		}
	}
	return t
}

// agree waits until the edge sees what the worker has.
func (f *fleets) agree(when string) {
	f.t.Helper()
	var diff string
	for until := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if diff = cmp.Diff(f.table(f.work), f.table(f.edge)); diff == "" {
			break
		}
		if time.Now().After(until) {
			f.t.Fatalf("%s: the edge sees other rows than the worker has (-worker +edge)\n%s", when, diff)
		}
	}
	f.edge.mu.Lock()
	defer f.edge.mu.Unlock()
	if f.edge.back != "" {
		f.t.Errorf("%s: the row of machine %s went back to an earlier one", when, f.edge.back)
	}
}

// within fails if do takes longer than most.
func (f *fleets) within(most time.Duration, what string, do func()) {
	f.t.Helper()
	at := time.Now()
	do()
	if took := time.Since(at); took > most {
		f.t.Errorf("%s took %v: want at most %v", what, took, most)
	}
}

// following are the clauses that fleets over the engine must satisfy, whatever the engine does.
var following = []clause{
	{"rows, demand and acknowledgements reach the other nodes", func(t *testing.T, n Net) {
		f := newFleets(t, n)
		f.agree("at first")
		f.edge.mu.Lock()
		f.edge.parked = 3
		f.edge.mu.Unlock()
		eventually(
			t, "the worker does not know what waits at the edge",
			func() bool { n, fresh := f.work.link.Parked("web"); return n == 3 && fresh },
		)
		gen, _ := f.work.fleet.Gate("web", "m1").Cordon()
		eventually(
			t, "the edge has not acknowledged", func() bool { return f.work.link.Acked("web", "m1", gen) },
		)
		if got := f.table(f.edge)["m1"]; got.CordonGen < gen {
			t.Errorf("acknowledged, and the edge knows generation %d of %d", got.CordonGen, gen)
		}
	}},
	{"each pair of messages is swapped", func(t *testing.T, n Net) {
		f := newFleets(t, n)
		f.agree("at first")
		var held *exchange.Message
		f.work.x.passing(func(m exchange.Message, send func(exchange.Message)) {
			if held == nil {
				held = &m
				return
			}
			send(m)
			send(*held)
			held = nil
		})
		for range 20 {
			f.change()
		}
		f.agree("swapped")
	}},
	{"only the last message of rows is lost", func(t *testing.T, n Net) {
		f := newFleets(t, n)
		f.agree("at first")
		f.work.x.passing(func(m exchange.Message, send func(exchange.Message)) {
			if m.Subject.Kind != "row" {
				send(m)
			}
		})
		f.change()
		f.within(2*time.Second, "noticing it by the heartbeat", func() { f.agree("lost") })
	}},
	{"only the last acknowledgement is lost", func(t *testing.T, n Net) {
		f := newFleets(t, n)
		f.agree("at first")
		lost := false
		f.edge.x.passing(func(m exchange.Message, send func(exchange.Message)) {
			if m.Subject.Kind == "ack" && !lost {
				lost = true
				return
			}
			send(m)
		})
		gen, _ := f.work.fleet.Gate("web", "m1").Cordon()
		eventually(
			t, "it is never said again", func() bool { return f.work.link.Acked("web", "m1", gen) },
		)
	}},
	{"a snapshot overtakes updates", func(t *testing.T, n Net) {
		f := newFleets(t, n)
		f.agree("at first")
		var late sync.WaitGroup
		f.work.x.passing(func(m exchange.Message, send func(exchange.Message)) {
			if m.Subject.Kind != "row" {
				send(m)
				return
			}
			late.Go(func() { time.Sleep(400 * time.Millisecond); send(m) })
		})
		for range 10 {
			f.change()
			time.Sleep(50 * time.Millisecond)
		}
		f.agree("overtaken")
		late.Wait()
		f.agree("when they have arrived")
	}},
	{"old messages come again, of an earlier incarnation too", func(t *testing.T, n Net) {
		f := newFleets(t, n)
		for range 10 {
			f.change()
		}
		f.agree("at first")
		f.work.x.replay()
		time.Sleep(quiet)
		f.agree("after a replay")

		old := f.work
		f.restart(old.link.Incarnation() + 1)
		f.host("m1") // the others no longer exist
		f.agree("after a restart")
		for _, m := range old.x.sent {
			f.work.x.Exchange.Publish(m.Subject, m.Payload)
		}
		time.Sleep(quiet)
		f.agree("after a replay of what it said before its restart")
	}},
	{"a third of all messages is lost, and half of the others come twice", func(t *testing.T, n Net) {
		f := newFleets(t, n)
		for _, x := range []*worse{f.work.x, f.edge.x} {
			draw := rand.New(rand.NewPCG(1, 2))
			x.passing(func(m exchange.Message, send func(exchange.Message)) {
				if draw.IntN(3) == 0 {
					return
				}
				if send(m); draw.IntN(2) == 0 {
					send(m)
				}
			})
		}
		for range 30 {
			f.change()
		}
		f.agree("lossy")
		gen, _ := f.work.fleet.Gate("web", "m1").Cordon()
		eventually(
			t, "the edge has not acknowledged", func() bool { return f.work.link.Acked("web", "m1", gen) },
		)
	}},
	{"a node whose clock was set back is heard all the same", func(t *testing.T, n Net) {
		f := newFleets(t, n)
		f.restart(uint64(time.Now().Add(time.Hour).UnixMilli()))
		f.host("m1")
		f.agree("an hour ahead")
		f.restart(0)
		f.host("m2")
		f.agree("set back")
	}},
	{"after an interruption of half a second all agree within a second", func(t *testing.T, n Net) {
		if n.Interrupt == nil {
			t.Skip("the engine is never away")
		}
		f := newFleets(t, n)
		f.agree("at first")
		gone := make(chan struct{})
		go func() { defer close(gone); n.Interrupt(500 * time.Millisecond) }()
		time.Sleep(100 * time.Millisecond)
		f.change()
		<-gone
		f.within(time.Second, "agreeing", func() { f.agree("after the interruption") })
	}},
}
