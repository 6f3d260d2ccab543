// Package exchangetest holds the contract of package exchange as a test suite for engines of your
// own: one subtest for each clause, whose name quotes it.
//
//	func TestMyEngine(t *testing.T) {
//		exchangetest.Test(t, exchangetest.Engine{New: newNet}) // func newNet(*testing.T) exchangetest.Net
//	}
//
// The second half of the suite runs fleets over the engine and degrades it: it swaps messages,
// loses the last one, replays old ones, and lets snapshots overtake updates.
package exchangetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange"
)

// Engine says how the suite makes an engine.
type Engine struct {
	// New returns a new engine, which ends with the test.
	New func(t *testing.T) Net
	// Bubble runs each clause in a synctest bubble: for engines within one process.
	Bubble bool
}

// Net is a running engine.
type Net struct {
	// Connect returns a node's end. The suite connects each node once, and again after its end has
	// ended.
	Connect func(node balance.NodeID) exchange.Exchange
	// Store returns a node's store; nil when the engine has none.
	Store func(node balance.NodeID) exchange.Store
	// Interrupt takes the engine down for that long and returns when it is back; nil if that cannot
	// be done. Nodes reconnect by themselves.
	Interrupt func(time.Duration)
}

// Test runs the suite.
func Test(t *testing.T, e Engine) {
	for _, c := range slices.Concat(carrying, following, storing) {
		t.Run(c.quote, func(t *testing.T) {
			if !e.Bubble {
				c.check(t, e.New(t))
				return
			}
			synctest.Test(t, func(t *testing.T) { c.check(t, e.New(t)) })
		})
	}
}

type clause struct {
	quote string
	check func(*testing.T, Net)
}

// patience is how long the suite waits for what must happen, and quiet for what must not.
const patience, quiet = 15 * time.Second, 100 * time.Millisecond

// eventually waits until ok reports true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for until := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%v have passed: %s", patience, what)
		}
	}
}

// mailbox collects what a subscriber receives.
type mailbox struct {
	mu   sync.Mutex
	got  []exchange.Message
	busy int
	most int
}

func (m *mailbox) receive(msg exchange.Message) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.got = append(m.got, msg)
}

func (m *mailbox) texts() (texts []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, g := range m.got {
		texts = append(texts, string(g.Payload))
	}
	return texts
}

func (m *mailbox) has(text string) bool { return slices.Contains(m.texts(), text) }

func subscribe(t *testing.T, x exchange.Exchange, filter exchange.Subject) *mailbox {
	t.Helper()
	m := &mailbox{}
	cancel, err := x.Subscribe(filter, m.receive)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cancel)
	return m
}

func publish(t *testing.T, x exchange.Exchange, s exchange.Subject, text string) {
	t.Helper()
	if err := x.Publish(s, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

var (
	all  = exchange.Subject{Cluster: "test", Kind: "row"}
	ofA  = exchange.Subject{Cluster: "test", Kind: "row", Region: "nrt", Node: "a"}
	snap = exchange.Subject{Cluster: "test", Kind: "snap", Node: "a"}
)

// carrying are the clauses of an Exchange.
var carrying = []clause{
	{"a message reaches all who subscribe before it is published, its publisher included", func(t *testing.T, n Net) {
		a, b := n.Connect("a"), n.Connect("b")
		boxes := []*mailbox{subscribe(t, a, all), subscribe(t, b, all), subscribe(t, b, all)}
		publish(t, a, ofA, "hello")
		for i, m := range boxes {
			eventually(t, fmt.Sprintf("subscriber %d has not received it", i), func() bool { return m.has("hello") })
			if got := m.got[0].Subject; got != ofA {
				t.Errorf("subscriber %d received subject %+v, want %+v", i, got, ofA)
			}
		}
	}},
	{"a filter matches by each of its parts that is not empty", func(t *testing.T, n Net) {
		a := n.Connect("a")
		for _, c := range []struct {
			f    exchange.Subject
			want bool
		}{
			{exchange.Subject{Cluster: "test", Kind: "row"}, true},
			{exchange.Subject{Cluster: "test", Kind: "row", Region: "nrt"}, true},
			{exchange.Subject{Cluster: "test", Kind: "row", Node: "a"}, true},
			{exchange.Subject{Cluster: "test", Region: "nrt"}, true},
			{ofA, true},
			{exchange.Subject{Cluster: "test", Kind: "load"}, false},
			{exchange.Subject{Cluster: "test", Kind: "row", Region: "fra"}, false},
			{exchange.Subject{Cluster: "test", Kind: "row", Node: "b"}, false},
			{exchange.Subject{Cluster: "other", Kind: "row"}, false},
		} {
			m, last := subscribe(t, a, c.f), subscribe(t, a, ofA)
			text := fmt.Sprintf("to %+v", c.f)
			publish(t, a, ofA, text)
			eventually(t, "the message has not come back", func() bool { return last.has(text) })
			if c.want {
				eventually(t, "it does not match "+text, func() bool { return m.has(text) })
				continue
			}
			time.Sleep(quiet)
			if m.has(text) {
				t.Errorf("it matches %s", text)
			}
		}
	}},
	{"names may have any characters", func(t *testing.T, n Net) {
		a := n.Connect("a")
		for _, name := range []string{"a.b", "*", ">", "a b", "ä/ü", "%2E", "a\nb", "-_"} {
			s := exchange.Subject{Cluster: "test", Kind: "load", Region: name, Node: balance.NodeID(name)}
			m := subscribe(t, a, s)
			other := subscribe(
				t, a,
				exchange.Subject{Cluster: "test", Kind: "load", Region: "nrt", Node: balance.NodeID(name)},
			)
			publish(t, a, s, name)
			eventually(t, fmt.Sprintf("the name %q is lost", name), func() bool { return m.has(name) })
			if m.got[0].Subject != s {
				t.Errorf("subject %+v arrived as %+v", s, m.got[0].Subject)
			}
			if other.has(name) {
				t.Errorf("region %q matches \"nrt\"", name)
			}
		}
	}},
	{"nothing is received after a subscription was canceled", func(t *testing.T, n Net) {
		a, m := n.Connect("a"), &mailbox{}
		cancel, err := a.Subscribe(all, m.receive)
		if err != nil {
			t.Fatal(err)
		}
		last := subscribe(t, a, all)
		cancel()
		publish(t, a, ofA, "late")
		eventually(t, "the other subscriber has not received it", func() bool { return last.has("late") })
		time.Sleep(quiet)
		if m.has("late") {
			t.Error("it was received")
		}
	}},
	{"a subscriber is called one call at a time", func(t *testing.T, n Net) {
		a, m := n.Connect("a"), &mailbox{}
		cancel, err := a.Subscribe(all, func(msg exchange.Message) {
			m.mu.Lock()
			m.busy++
			m.most = max(m.most, m.busy)
			m.mu.Unlock()
			time.Sleep(time.Millisecond)
			m.receive(msg)
			m.mu.Lock()
			m.busy--
			m.mu.Unlock()
		})
		if err != nil {
			t.Fatal(err)
		}
		defer cancel()
		for range 20 {
			publish(t, a, ofA, "x")
		}
		eventually(t, "not all have come", func() bool { return len(m.texts()) == 20 })
		if m.most != 1 {
			t.Errorf("%d calls at once", m.most)
		}
	}},
	{"publishing does not wait for a subscriber", func(t *testing.T, n Net) {
		a, gate := n.Connect("a"), make(chan struct{})
		defer close(gate)
		cancel, err := a.Subscribe(all, func(exchange.Message) { <-gate })
		if err != nil {
			t.Fatal(err)
		}
		defer cancel()
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range 2000 {
				a.Publish(ofA, make([]byte, 1000))
			}
		}()
		select {
		case <-done:
		case <-time.After(patience):
			t.Error("it waits")
			<-done
		}
	}},
	{"the publisher may reuse the payload, and the subscriber may keep it", func(t *testing.T, n Net) {
		a := n.Connect("a")
		m, b := subscribe(t, a, all), []byte("1")
		for i := range 9 {
			b[0] = byte('1' + i)
			if err := a.Publish(ofA, b); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "not all have come", func() bool { return len(m.texts()) == 9 })
		for i := range 9 {
			if want := string(rune('1' + i)); !m.has(want) {
				t.Errorf("%q is missing: %v", want, m.texts())
			}
		}
	}},
	{"a payload of MaxPayload bytes passes, and a larger one is an error", func(t *testing.T, n Net) {
		a := n.Connect("a")
		most := a.MaxPayload()
		if most < 64<<10 {
			t.Fatalf("MaxPayload is %d: want 65536 or more", most)
		}
		m := subscribe(t, a, all)
		large := bytes.Repeat([]byte{'x'}, most)
		publish(t, a, ofA, string(large))
		eventually(t, "it has not arrived", func() bool { return m.has(string(large)) })
		if err := a.Publish(ofA, append(large, 'x')); err == nil {
			t.Error("a larger one is no error")
		}
	}},
	{"a request is answered by who serves its subject", func(t *testing.T, n Net) {
		a, b := n.Connect("a"), n.Connect("b")
		stop, err := a.Serve(snap, func(q []byte) []byte { return append([]byte("answer to "), q...) })
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range []exchange.Exchange{a, b} {
			if got, err := ask(x, snap, "x", patience); err != nil || got != "answer to x" {
				t.Errorf("got %q, %v", got, err)
			}
		}
		stop()
		if got, err := ask(b, snap, "x", time.Second); err == nil {
			t.Errorf("after it was canceled: got %q", got)
		}
	}},
	{"an answer may have MaxPayload bytes", func(t *testing.T, n Net) {
		a, b := n.Connect("a"), n.Connect("b")
		large := bytes.Repeat([]byte{'x'}, a.MaxPayload())
		stop, err := a.Serve(snap, func([]byte) []byte { return large })
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
		if got, err := ask(b, snap, "x", patience); err != nil || len(got) != len(large) {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
	}},
	{"a request that nobody answers ends with its context, at the latest", func(t *testing.T, n Net) {
		a, b := n.Connect("a"), n.Connect("b")
		if _, err := ask(b, exchange.Subject{Cluster: "test", Kind: "snap", Node: "nobody"}, "x", 300*time.Millisecond); err == nil {
			t.Error("nobody serves: no error")
		}
		gate := make(chan struct{})
		stop, err := a.Serve(snap, func([]byte) []byte { <-gate; return nil })
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
		defer close(gate)
		if _, err := ask(b, snap, "x", 300*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("it does not answer: error %v, want context.DeadlineExceeded", err)
		}
	}},
	{"after an interruption messages pass, subscriptions stand, and OnReconnect is told", func(t *testing.T, n Net) {
		if n.Interrupt == nil {
			t.Skip("the engine is never away")
		}
		a, b := n.Connect("a"), n.Connect("b")
		m := subscribe(t, b, all)
		stop, err := a.Serve(snap, func(q []byte) []byte { return q })
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
		var mu sync.Mutex
		told := 0
		cancel := b.OnReconnect(func() { mu.Lock(); told++; mu.Unlock() })
		defer cancel()
		n.Interrupt(300 * time.Millisecond)
		eventually(t, "OnReconnect was not told", func() bool { mu.Lock(); defer mu.Unlock(); return told > 0 })
		eventually(t, "nothing passes", func() bool {
			a.Publish(ofA, []byte("again"))
			return m.has("again")
		})
		eventually(t, "no request is answered", func() bool { got, err := ask(b, snap, "x", time.Second); return err == nil && got == "x" })
	}},
}

func ask(
	x exchange.Exchange, to exchange.Subject, question string, within time.Duration,
) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	b, err := x.Request(ctx, to, []byte(question))
	return string(b), err
}
