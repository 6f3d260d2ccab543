package backhaul

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/nettest"
)

// bubble is a rig without sockets, for a synctest bubble: one machine, local.
type bubble struct {
	gate  *balance.Gate
	fleet *balance.Fleet
	b     *balance.Balancer
	t     *Transport
	dials atomic.Int32
}

// newBubble serves h behind a machine of this process.
func newBubble(t *testing.T, c Config, h http.Handler) *bubble {
	t.Helper()
	u := &bubble{}
	var err error
	if u.fleet, err = balance.NewFleet(balance.FleetConfig{Node: "node", Region: "nrt"}); err != nil {
		t.Fatal(err)
	}
	if u.b, err = balance.New(u.fleet, balance.Config{}); err != nil {
		t.Fatal(err)
	}
	if u.gate, err = u.fleet.Host(balance.Machine{ID: "m1", App: "web", Region: "nrt"}); err != nil {
		t.Fatal(err)
	}
	token, _ := u.gate.Start(0)
	u.gate.Ready(token)
	l := nettest.NewPipes()
	s := &http.Server{Handler: h, ErrorLog: quietLog}
	go s.Serve(l)
	if c.DialMachine == nil {
		c.DialMachine = func(ctx context.Context, m balance.Machine) (net.Conn, error) {
			u.dials.Add(1)
			return l.Dial(ctx)
		}
	}
	if u.t, err = NewTransport(NoWait(u.b), c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		u.t.Close()
		s.Close()
	})
	return u
}

func (u *bubble) get(t *testing.T) {
	t.Helper()
	resp, err := u.t.RoundTrip(httptest.NewRequest("GET", "http://web/", nil))
	if err != nil {
		t.Error(err)
		return
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
}

func TestIdleConnectionsAreKeptForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newBubble(t, Config{}, says("hello"))
		u.get(t)
		time.Sleep(defaultMachineIdle - time.Second)
		u.get(t)
		time.Sleep(defaultMachineIdle - time.Second) // idle since the last use, not the first
		u.get(t)
		if u.dials.Load() != 1 {
			t.Errorf("dialled %d times", u.dials.Load())
		}
		time.Sleep(defaultMachineIdle + time.Second)
		for range u.t.machines.Peers.Range {
			t.Error("a peer without connections is still known")
		}
		u.get(t)
		if u.dials.Load() != 2 {
			t.Errorf("after the timeout: dialled %d times", u.dials.Load())
		}
	})
}

func TestConnectionsOfAnOlderEpochAreNotUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newBubble(t, Config{}, says("hello"))
		u.get(t)
		u.gate.Exited(1, false)
		token, _ := u.gate.Start(1)
		u.gate.Ready(token)
		u.get(t)
		if u.dials.Load() != 2 {
			t.Errorf("dialled %d times; want a new connection for the new epoch", u.dials.Load())
		}
		pe := u.t.machines.Peer(pool.PeerName{App: "web", ID: "m1"})
		if len(pe.Idle) != 1 || pe.Epoch != 2 {
			t.Errorf("%d idle of epoch %d", len(pe.Idle), pe.Epoch)
		}
	})
}

func TestIdleConnectionsAreLimitedAndTheLastUsedGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		block := make(chan struct{})
		u := newBubble(
			t, Config{tuning: tuning{maxIdle: 2}},
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-block }),
		)
		for range 5 {
			go u.get(t)
		}
		synctest.Wait()
		close(block)
		synctest.Wait()
		pe := u.t.machines.Peer(pool.PeerName{App: "web", ID: "m1"})
		if len(pe.Idle) != 2 || u.dials.Load() != 5 {
			t.Fatalf("%d idle after %d dials", len(pe.Idle), u.dials.Load())
		}
		oldest, last := pe.Idle[0], pe.Idle[1]
		if c := pe.Take(1); c != last {
			t.Error("not the last used")
		} else {
			c.Peer.Pool.Put(c)
		}
		if pe.Idle[0] != oldest {
			t.Error("the oldest did not stay")
		}
		u.t.CloseIdleConnections()
		if len(pe.Idle) != 0 {
			t.Error("idle connections are not closed")
		}
	})
}

func TestDialingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		u := newBubble(t, Config{MachineConfig: MachineConfig{DialMachine: func(ctx context.Context, m balance.Machine) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}, tuning: tuning{failures: -1}}, nil)
		_, err := u.t.RoundTrip(request(t, "GET", "http://web/", nil))
		if m, ok := errors.AsType[*MachineError](err); !ok || m.Failure != hop.FailureDial ||
			time.Since(began) != defaultDial {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
		if u.gate.InFlight() != 0 || u.b.InFlight("web") != 0 {
			t.Error("still in flight")
		}
	})
}

func TestTheRequestsOwnDeadlineEndsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newBubble(t, Config{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		}))
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
		defer cancel()
		began := time.Now()
		_, err := u.t.RoundTrip(
			request(t, "POST", "http://web/", strings.NewReader("x")).WithContext(ctx),
		)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 7*time.Second {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
		synctest.Wait()
		if u.gate.InFlight() != 0 || u.b.InFlight("web") != 0 {
			t.Error("still in flight")
		}
	})
}

// An owner that has gone silent costs an upload 10 s, and no byte.
func TestAnOwnerThatDoesNotAskForTheBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		edge, err := balance.NewFleet(balance.FleetConfig{Node: "edge", Region: "nrt"})
		if err != nil {
			t.Fatal(err)
		}
		b, _ := balance.New(edge, balance.Config{})
		m := balance.Machine{
			ID: "m1", App: "web", Region: "nrt", Owner: "silent", State: balance.StateStarted,
		}
		edge.Apply(balance.PutMachine{Machine: m, Version: balance.Version{Incarnation: 1, Seq: 1}})
		var tries []Event
		tr, err := NewTransport(NoWait(b), Config{
			tuning: tuning{failures: 1}, Dial: func(context.Context, balance.NodeID) (net.Conn, error) {
				a, c := net.Pipe()
				go io.Copy(io.Discard, c)
				return a, nil
			},
			Trace: Trace{Event: on(EventRetry, func(e Event) { tries = append(tries, e) })},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer tr.Close()
		body := strings.NewReader(strings.Repeat("x", 1<<20))
		_, err = tr.RoundTrip(request(t, "POST", "http://web/", body))
		if e, ok := errors.AsType[*MachineError](err); !ok || e.Failure != hop.FailureUnread {
			t.Errorf("got %v", err)
		}
		if len(tries) != 1 || tries[0].Failure != hop.FailureUnread || tries[0].Took != defaultAdmit {
			t.Errorf("got %+v", tries)
		}
		if body.Len() != 1<<20 {
			t.Errorf("%d bytes of the body were read", 1<<20-body.Len())
		}
	})
}

// Late rows: every pick bounces. The rounds end, with pauses between them.
func TestRoundsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		edge, _ := balance.NewFleet(balance.FleetConfig{Node: "edge", Region: "nrt"})
		b, _ := balance.New(edge, balance.Config{})
		for i := range 20 {
			m := balance.Machine{
				ID: balance.MachineID(rune('a' + i)), App: "web", Region: "nrt", Owner: "w",
				State: balance.StateStarted,
			}
			edge.Apply(
				balance.PutMachine{Machine: m, Version: balance.Version{Incarnation: 1, Seq: uint64(i + 1)}},
			)
		}
		worker, _ := balance.NewFleet(balance.FleetConfig{Node: "w", Region: "nrt"})
		h, err := NewHandler(worker, HandlerConfig{AnyNode: true})
		if err != nil {
			t.Fatal(err)
		}
		l := nettest.NewPipes()
		s := &http.Server{Handler: h, ErrorLog: quietLog}
		go s.Serve(l)
		tried := map[balance.MachineID]int{}
		tr, _ := NewTransport(NoWait(b), Config{tuning: tuning{rounds: 3}, Dial: func(ctx context.Context, _ balance.NodeID) (net.Conn, error) { return l.Dial(ctx) },
			Trace: Trace{Event: on(EventPick, func(e Event) { tried[e.Machine]++ })},
		})
		began := time.Now()
		_, err = tr.RoundTrip(request(t, "GET", "http://web/", nil))
		u, ok := errors.AsType[*UnavailableError](err)
		if !ok || u.Bounces != 4*defaultBounces || u.Cause() != causeFull {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took != 35*time.Millisecond {
			t.Errorf("took %v, want the pauses 5 + 10 + 20 ms", took)
		}
		tr.Close()
		s.Close()
		synctest.Wait()
	})
}

// A fleet that is full for long: the picker waits, is granted a guess, and bounces, again and again.
func TestPatienceOutlastsRounds(t *testing.T) {
	for _, freed := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			u := newBubble(t, Config{tuning: tuning{rounds: 1}}, says("hello"))
			leave := fill(t, u.gate, 3)
			if err := u.gate.SetLimits(balance.Limits{Hard: 3}); err != nil {
				t.Fatal(err)
			}
			u.t.picker = picking(func(ctx context.Context, r *balance.Request) (balance.Reservation, error) {
				if len(r.Tried) > 0 {
					r.Tried = nil
					time.Sleep(100 * time.Millisecond)
				}
				return u.anyway()
			})
			began := time.Now()
			if freed {
				time.AfterFunc(20*time.Second, leave)
			}
			resp, err := u.t.RoundTrip(request(t, "GET", "http://web/", nil))
			if took := time.Since(began).Round(time.Second); freed {
				if err != nil || took != 20*time.Second {
					t.Fatalf("got %v after %v", err, took)
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			} else if e, ok := errors.AsType[*UnavailableError](err); !ok || e.Cause() != causeFull || took != defaultPatience {
				t.Errorf("got %v after %v", err, took)
			} else {
				leave()
			}
			synctest.Wait() // the slot goes back when the body has ended
			if u.gate.InFlight() != 0 {
				t.Error("still in flight")
			}
		})
	}
}

type picking func(context.Context, *balance.Request) (balance.Reservation, error)

func (p picking) Acquire(ctx context.Context, r *balance.Request) (balance.Reservation, error) {
	return p(ctx, r)
}

// anyway reserves the machine although this process knows that it is full: an edge elsewhere would.
func (u *bubble) anyway() (balance.Reservation, error) {
	l := u.gate.Load().Limits
	u.gate.SetLimits(balance.Limits{})
	defer u.gate.SetLimits(l)
	u.b.Tick(time.Now()) // "full" is believed for a moment only
	return u.b.Pick(balance.Request{App: "web"})
}

// The time for the first bytes of a connection is over when they are there.
func TestTheTimeForTheFirstBytesEndsWithThem(t *testing.T) {
	for _, first := range []string{"GET / HTTP/1.1\r\n", hop.ClientPreface + string(frame(hop.FrameSettings, 0, 0))} {
		synctest.Test(t, func(t *testing.T) {
			s, err := NewServer(says(""), ServerConfig{header: time.Second})
			if err != nil {
				t.Fatal(err)
			}
			a, b := net.Pipe()
			defer a.Close()
			defer b.Close()
			go io.WriteString(b, first)
			if _, head, err := s.greet(&serverConn{Conn: a, from: a, in: s}); err != nil ||
				string(head) != first {
				t.Fatalf("%q, %v", head, err)
			}
			go func() {
				time.Sleep(time.Hour)
				io.WriteString(b, "x")
			}()
			if _, err := a.Read(make([]byte, 1)); err != nil {
				t.Errorf("%.3q: a read an hour later says %v", first, err)
			}
		})
	}
}
