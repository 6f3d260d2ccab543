package backhaul

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/nettest"
)

// work is what an app executes, and how often at once.
type work struct {
	takes time.Duration
	mu    sync.Mutex
	now   int
	most  int
	done  int
}

func (w *work) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now++
	w.most = max(w.most, w.now)
}

func (w *work) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now--
	w.done++
}

func (w *work) counts() (now, most, done int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now, w.most, w.done
}

// Apps as they treat a client that leaves. All work for some time on a request and answer "ok".
var apps = map[string]func(*work) func(net.Listener){
	// Go: the connection's end cancels the handler's context, and the answer follows.
	"listens": func(w *work) func(net.Listener) {
		return handled(func(rw http.ResponseWriter, r *http.Request) {
			w.begin()
			defer w.end()
			select {
			case <-time.After(w.takes):
			case <-r.Context().Done():
			}
			io.WriteString(rw, "ok")
		})
	},
	// Go, where the handler does not look at its context.
	"does not listen": func(w *work) func(net.Listener) {
		return handled(func(rw http.ResponseWriter, r *http.Request) {
			w.begin()
			defer w.end()
			time.Sleep(w.takes)
			io.WriteString(rw, "ok")
		})
	},
	// Node and nginx: the connection is closed at once, and the handler goes on.
	"closes and works on": func(w *work) func(net.Listener) {
		return connections(func(c net.Conn) {
			in := bufio.NewReader(c)
			for {
				if _, err := http.ReadRequest(in); err != nil {
					c.Close()
					return
				}
				go func() {
					w.begin()
					time.Sleep(w.takes)
					w.end()
					io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				}()
			}
		})
	},
	// Python with a thread for each connection: nobody looks before the answer is written.
	"notices nothing": func(w *work) func(net.Listener) {
		return connections(func(c net.Conn) {
			defer c.Close()
			for in := bufio.NewReader(c); ; {
				if _, err := http.ReadRequest(in); err != nil {
					return
				}
				w.begin()
				time.Sleep(w.takes)
				w.end()
				if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
					return
				}
			}
		})
	},
	"never answers": func(w *work) func(net.Listener) {
		return connections(func(c net.Conn) {
			defer c.Close()
			http.ReadRequest(bufio.NewReader(c))
			w.begin()
			defer w.end()
			for {
				if _, err := c.Write(nil); err != nil { // nobody reads any more
					return
				}
				time.Sleep(time.Minute)
			}
		})
	},
}

func handled(h http.HandlerFunc) func(net.Listener) {
	return func(l net.Listener) {
		s := &http.Server{Handler: h, ErrorLog: quietLog, Protocols: new(http.Protocols)}
		s.Protocols.SetHTTP1(true)
		s.Protocols.SetUnencryptedHTTP2(true)
		s.Serve(l)
		s.Close()
	}
}

func connections(serve func(net.Conn)) func(net.Listener) {
	return func(l net.Listener) {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}
}

// scene is one machine behind an edge, with a hop between them or without, in a bubble.
type scene struct {
	t       *testing.T
	tr      *Transport
	handler *Handler // nil without a hop
	gate    *balance.Gate
	b       *balance.Balancer
	dials   atomic.Int32

	freed chan struct{} // gets something when a slot is free

	mu        sync.Mutex
	abandoned []Event
}

type sceneConfig struct {
	app    balance.App
	wrap   func(net.Conn) net.Conn // around connections to the machine; nil: nothing
	local  bool
	h2     bool // the machine speaks it
	config Config
	serve  func(net.Listener)
}

func newScene(t *testing.T, c sceneConfig) *scene {
	t.Helper()
	s := &scene{t: t, freed: make(chan struct{}, 1)}
	t.Cleanup(func() { time.Sleep(2 * time.Hour) }) // the last one: what the app does ends
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	edge, err := balance.NewFleet(balance.FleetConfig{Node: "edge", Region: "nrt"})
	must(err)
	worker := edge
	if !c.local {
		worker, err = balance.NewFleet(balance.FleetConfig{Node: "worker", Region: "nrt"})
		must(err)
	}
	c.app.ID = "web"
	must(worker.Apply(balance.PutApp{App: c.app}))
	s.gate, err = worker.Host(balance.Machine{ID: "m1", App: "web", Region: "nrt"})
	must(err)
	token, _ := s.gate.Start(0)
	s.gate.Ready(token)

	machines, hop := nettest.NewPipes(), nettest.NewPipes()
	dial := func(ctx context.Context, _ balance.Machine) (net.Conn, error) {
		s.dials.Add(1)
		nc, err := machines.Dial(ctx)
		if err == nil && c.wrap != nil {
			nc = c.wrap(nc)
		}
		return nc, err
	}
	seen := on(EventFree, func(a Event) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.abandoned = append(s.abandoned, a)
		select {
		case s.freed <- struct{}{}:
		default:
		}
	})
	speaks := func(balance.Machine) bool { return c.h2 }
	s.b, err = balance.New(edge, balance.Config{})
	must(err)
	c.config.H2, c.config.DialMachine, c.config.Trace.Event = speaks, dial, seen
	c.config.Dial = func(ctx context.Context, _ balance.NodeID) (net.Conn, error) { return hop.Dial(ctx) }
	s.tr, err = NewTransport(NoWait(s.b), c.config)
	must(err)
	ctx, stop := context.WithCancel(context.Background())
	go s.b.Run(ctx)
	go c.serve(machines)
	t.Cleanup(func() {
		stop()
		s.tr.Close()
		machines.Close()
	})
	if c.local {
		return s
	}
	watch := worker.Watch()
	must(edge.Apply(watch.Take()...))
	watch.Close()
	s.handler, err = NewHandler(
		worker,
		HandlerConfig{
			MachineConfig: MachineConfig{H2: speaks, DialMachine: dial}, AnyNode: true,
			Trace: Trace{Event: seen},
		},
	)
	must(err)
	owner, err := NewServer(s.handler, ServerConfig{})
	must(err)
	go owner.Serve(hop)
	t.Cleanup(func() {
		s.handler.machines.Close()
		owner.Close()
	})
	return s
}

// ask sends a request whose client leaves after some time; 0: it does not.
func (s *scene) ask(method string, body io.Reader, leaves time.Duration) (string, error) {
	s.t.Helper()
	ctx := s.t.Context()
	if leaves > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, leaves)
		defer cancel()
	}
	resp, err := s.tr.RoundTrip(request(s.t, method, "http://web/", body).WithContext(ctx))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// free returns how long it takes until nothing is in flight.
func (s *scene) free(most time.Duration) time.Duration {
	s.t.Helper()
	began := time.Now()
	for synctest.Wait(); s.gate.InFlight() > 0; synctest.Wait() {
		past := time.Since(began)
		if past > most {
			s.t.Fatalf("%d in flight after %v", s.gate.InFlight(), most)
		}
		look := time.NewTimer(max(10*time.Millisecond, past/100))
		select {
		case <-look.C:
		case <-s.freed:
		}
		look.Stop()
	}
	return time.Since(began)
}

// told returns how the slots of abandoned requests became free, the last one last.
func (s *scene) told() (ways []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.abandoned {
		if a.App != "web" || a.Machine != "m1" || a.Node == "" {
			s.t.Errorf("told of %+v", a)
		}
		ways = append(ways, a.Freed.String())
	}
	return ways
}

// scenes runs a test with a hop and without, in both modes.
func scenes(t *testing.T, f func(t *testing.T, local bool, finish bool)) {
	for _, finish := range []bool{false, true} {
		for _, local := range []bool{false, true} {
			t.Run(fmt.Sprintf("finish=%v/local=%v", finish, local), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { f(t, local, finish) })
			})
		}
	}
}

const (
	takes  = 4 * time.Second
	leaves = 150 * time.Millisecond
)

// The table of the package comment: when a slot is free whose client has left.
func TestASlotIsFreeWhenTheMachineIsDone(t *testing.T) {
	type row struct {
		tell, finish time.Duration // from when the client leaves
		how          [2]string
	}
	rest := takes - leaves
	// the app's one request took 4 s; times are learned in steps of a fifth
	learned := 4300 * time.Millisecond
	for name, want := range map[string]row{
		"listens":             {0, rest, [2]string{"answered", "answered"}},
		"does not listen":     {rest, rest, [2]string{"answered", "answered"}},
		"closes and works on": {learned, rest, [2]string{"closed", "answered"}},
		"notices nothing":     {rest, rest, [2]string{"answered", "answered"}},
		"never answers":       {hop.MaxHold, hop.DefaultAnswerPause, [2]string{"silent", "silent"}},
	} {
		t.Run(name, func(t *testing.T) {
			scenes(t, func(t *testing.T, local bool, finish bool) {
				w := &work{takes: takes}
				s := newScene(t, sceneConfig{
					app: balance.App{Limits: balance.Limits{Hard: 1}, FinishAbandoned: finish}, local: local,
					serve: apps[name](w),
				})
				if name != "never answers" {
					if got, err := s.ask("GET", nil, 0); got != "ok" {
						t.Fatal(got, err)
					}
				}
				began := time.Now()
				if _, err := s.ask("GET", nil, leaves); !errors.Is(err, context.DeadlineExceeded) ||
					time.Since(began) != leaves {
					t.Errorf("the caller gets %v after %v", err, time.Since(began))
				}
				if n := s.b.InFlight("web"); !local && n != 0 {
					t.Errorf("the edge counts %d", n)
				}
				held := s.free(24 * time.Hour).Round(100 * time.Millisecond)
				wanted, wantedHow := want.tell, want.how[0]
				if finish {
					wanted, wantedHow = want.finish, want.how[1]
				}
				wanted = wanted.Round(100 * time.Millisecond)
				if how := s.told(); held != wanted || len(how) != 1 || how[0] != wantedHow {
					t.Errorf("held for %v, then free as it %v; want %v, %s", held, how, wanted, wantedHow)
				}
				if n, _, _ := w.counts(); n != 0 && name != "never answers" {
					t.Errorf("the slot is free, and %d are executed", n)
				}
				if n := s.b.InFlight("web"); n != 0 {
					t.Errorf("the edge counts %d", n)
				}
			})
		})
	}
}

// One client after the other gives up early: an app that takes one request at a time executes one
// at a time.
func TestAHardLimitHoldsForWhatAnAppExecutes(t *testing.T) {
	for name, app := range apps {
		if name == "never answers" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			scenes(t, func(t *testing.T, local bool, finish bool) {
				w := &work{takes: takes}
				s := newScene(t, sceneConfig{
					app: balance.App{
						Limits: balance.Limits{Soft: 1, Hard: 1}, FinishAbandoned: finish,
					}, local: local,
					serve: app(w),
				})
				s.ask("GET", nil, 0)
				full := 0
				for range 60 {
					if _, err := s.ask("GET", nil, leaves); errors.As(err, new(*UnavailableError)) {
						full++
					}
					time.Sleep(leaves)
				}
				s.free(time.Minute)
				_, most, done := w.counts()
				if most != 1 || done < 3 || full == 0 && name != "listens" {
					t.Errorf("%d executed at once, %d in all; %d found it full", most, done, full)
				}
			})
		})
	}
}

// A limit that is configured for an app rules; and where nothing is known, it is not taken for
// quick.
func TestHowLongASlotIsHeld(t *testing.T) {
	for _, tt := range []struct {
		app  string
		hold time.Duration
		want time.Duration
	}{
		{"closes and works on", 0, hop.UnknownHold},
		{"closes and works on", 7 * time.Second, 7 * time.Second},
		{"never answers", 7 * time.Second, 7 * time.Second},
	} {
		inBubbles(t, func(t *testing.T, local bool) {
			w := &work{takes: time.Second}
			s := newScene(t,
				sceneConfig{app: balance.App{AbandonedHold: tt.hold}, local: local, serve: apps[tt.app](w)})
			s.ask("GET", nil, leaves)
			if held := s.free(time.Hour); held.Round(100*time.Millisecond) != tt.want {
				t.Errorf("%s, hold %v: held for %v, want %v", tt.app, tt.hold, held, tt.want)
			}
		})
	}
}

// What a machine needs is learned also from requests that nobody waits for: all clients may be
// quicker than the app.
func TestServiceTimesAreLearnedFromAbandonedRequests(t *testing.T) {
	inBubbles(t, func(t *testing.T, local bool) {
		w := &work{takes: 20 * time.Second}
		s := newScene(t, sceneConfig{local: local, serve: apps["notices nothing"](w)})
		s.ask("GET", nil, leaves)
		s.free(time.Minute)
		services := &s.tr.services
		if !local {
			services = &s.handler.services
		}
		if got := services.P99("web"); got < w.takes || got > 24*time.Second {
			t.Errorf("learned %v of an app that takes %v", got, w.takes)
		}
	})
}

// A client that leaves in the middle of its body cannot be finished for: the machine is told in
// both modes, as it would wait for the rest.
func TestAClientThatLeavesInTheMiddleOfItsBody(t *testing.T) {
	for name, size := range map[string]int64{"of known length": 1 << 20, "of unknown length": -1} {
		t.Run(name, func(t *testing.T) {
			scenes(t, func(t *testing.T, local bool, finish bool) {
				got := make(chan error, 1)
				s := newScene(t, sceneConfig{
					app: balance.App{FinishAbandoned: finish}, local: local,
					serve: handled(func(w http.ResponseWriter, r *http.Request) {
						_, err := io.Copy(io.Discard, r.Body)
						got <- err
					}),
				})
				pr, pw := io.Pipe()
				ctx, leave := context.WithCancel(t.Context())
				req := request(t, "POST", "http://web/", pr).WithContext(ctx)
				req.ContentLength = size
				go func() {
					pw.Write(make([]byte, 100_000))
					synctest.Wait()
					leave()
				}()
				if _, err := s.tr.RoundTrip(req); !errors.Is(err, context.Canceled) {
					t.Errorf("the caller gets %v", err)
				}
				pw.Close()
				if held := s.free(time.Minute); held != 0 {
					t.Errorf("held for %v", held)
				}
				if err := <-got; err == nil {
					t.Error("the machine takes the part for the whole")
				}
			})
		})
	}
}

// A caller hears of its own end at once also while an answer comes, and the slot is held until the
// machine has ended that.
func TestAClientThatLeavesInTheMiddleOfAnAnswer(t *testing.T) {
	for _, chunked := range []bool{false, true} {
		t.Run(fmt.Sprintf("chunked=%v", chunked), func(t *testing.T) {
			scenes(t, func(t *testing.T, local bool, finish bool) {
				s := newScene(t, sceneConfig{
					app: balance.App{FinishAbandoned: finish}, local: local,
					serve: handled(func(w http.ResponseWriter, r *http.Request) {
						if !chunked {
							w.Header().Set("Content-Length", "10")
						}
						io.WriteString(w, "first")
						w.(http.Flusher).Flush()
						time.Sleep(takes)
						io.WriteString(w, "later")
					}),
				})
				ctx, cancel := context.WithTimeout(t.Context(), leaves)
				defer cancel()
				began := time.Now()
				resp, err := s.tr.RoundTrip(request(t, "GET", "http://web/", nil).WithContext(ctx))
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(resp.Body)
				if string(b) != "first" || !errors.Is(err, context.DeadlineExceeded) ||
					time.Since(began) != leaves {
					t.Errorf("the caller gets %q, %v after %v", b, err, time.Since(began))
				}
				resp.Body.Close()
				if held := s.free(time.Minute); held.Round(100*time.Millisecond) != (takes - leaves).Round(
					100*time.Millisecond,
				) {
					t.Errorf("held for %v", held)
				}
				if how := s.told(); len(how) != 1 || how[0] != "answered" {
					t.Errorf("free as it %v", how)
				}
			})
		})
	}
}

// A caller that closes an answer early, without leaving, is as one that leaves.
func TestAnAnswerThatIsClosedEarly(t *testing.T) {
	scenes(t, func(t *testing.T, local bool, finish bool) {
		w := &work{}
		s := newScene(t, sceneConfig{
			app: balance.App{FinishAbandoned: finish}, local: local,
			serve: handled(func(rw http.ResponseWriter, r *http.Request) {
				w.begin()
				defer w.end()
				rw.(http.Flusher).Flush()
				time.Sleep(takes)
			}),
		})
		resp, err := s.tr.RoundTrip(request(t, "GET", "http://web/", nil))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if held := s.free(time.Minute); held.Round(100*time.Millisecond) != takes {
			t.Errorf("held for %v, want %v", held, takes)
		}
	})
}

// Of a large answer little is read for nobody: who is told is cut off, and its slot is held for a
// while.
func TestALargeAnswerIsNotReadForNobody(t *testing.T) {
	inBubbles(t, func(t *testing.T, local bool) {
		var sent atomic.Int64
		broke := make(chan error, 1)
		s := newScene(
			t,
			sceneConfig{local: local, serve: handled(func(w http.ResponseWriter, r *http.Request) {
				for {
					n, err := w.Write(make([]byte, 32<<10))
					sent.Add(int64(n))
					if err != nil {
						broke <- err
						return
					}
				}
			})},
		)
		resp, err := s.tr.RoundTrip(request(t, "GET", "http://web/", nil))
		if err != nil {
			t.Fatal(err)
		}
		io.ReadFull(resp.Body, make([]byte, 100))
		resp.Body.Close()
		synctest.Wait()
		<-broke
		if n := sent.Load(); n > 8*pool.MaxDropped {
			t.Errorf("%d bytes were read for nobody", n)
		}
		if held := s.free(time.Minute); held.Round(100*time.Millisecond) != hop.UnknownHold {
			t.Errorf("held for %v, want %v", held, hop.UnknownHold)
		}
	})
}

// When a machine's run ends, nothing of it is in flight, whoever holds its slots.
func TestARunThatEndsFreesItsSlots(t *testing.T) {
	for name, ends := range map[string]func(g *balance.Gate){
		"exit": func(g *balance.Gate) { g.Exited(1, true) },
		"a stop with a deadline": func(g *balance.Gate) {
			token, _ := g.CloseNow()
			g.Closed(token, false)
		},
		"an exit during a stop": func(g *balance.Gate) {
			g.CloseNow()
			g.Exited(1, false)
		},
		"the next start": func(g *balance.Gate) {
			g.Exited(1, false)
			token, _ := g.Start(1)
			g.Ready(token)
		},
	} {
		for _, app := range []string{"never answers", "closes and works on"} {
			t.Run(name+"/"+app, func(t *testing.T) {
				scenes(t, func(t *testing.T, local bool, finish bool) {
					s := newScene(t, sceneConfig{
						app: balance.App{
							FinishAbandoned: finish,
						}, local: local, serve: apps[app](&work{takes: time.Hour}),
					})
					s.ask("GET", nil, leaves)
					synctest.Wait()
					if n := s.gate.InFlight(); n != 1 {
						t.Fatalf("%d in flight", n)
					}
					ends(s.gate)
					if n := s.gate.InFlight(); n != 0 {
						t.Errorf("%d in flight of a run that has ended", n)
					}
					synctest.Wait()
					if how := s.told(); len(how) != 1 || how[0] != "ended" {
						t.Errorf("free as it %v", how)
					}
				})
			})
		}
	}
}

// A machine works on a request that its client has left: it is not stopped under it.
func TestNoStopUnderAnAbandonedRequest(t *testing.T) {
	scenes(t, func(t *testing.T, local bool, finish bool) {
		s := newScene(t, sceneConfig{
			app: balance.App{FinishAbandoned: finish}, local: local,
			serve: apps["notices nothing"](&work{takes: takes}),
		})
		s.ask("GET", nil, leaves)
		gen, _ := s.gate.Cordon()
		if _, ok := s.gate.Close(gen, true); ok {
			t.Error("the machine is suspended while it works")
		}
		s.free(time.Minute)
		if _, ok := s.gate.Close(gen, true); !ok {
			t.Error("the machine cannot be suspended when it is done")
		}
	})
}

// Whoever closes is not waited for, or waits himself: a Transport ends what lingers, a Handler's
// Shutdown waits for it.
func TestEndingUnderAbandonedRequests(t *testing.T) {
	scenes(t, func(t *testing.T, local bool, finish bool) {
		s := newScene(t, sceneConfig{
			app: balance.App{FinishAbandoned: finish}, local: local,
			serve: apps["notices nothing"](&work{takes: takes}),
		})
		s.ask("GET", nil, leaves)
		if local {
			s.tr.Close()
			synctest.Wait()
			if n, how := s.gate.InFlight(), s.told(); n != 0 || len(how) != 1 || how[0] != "shutdown" {
				t.Errorf("%d in flight after Close, free as it %v", n, how)
			}
			return
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.handler.Shutdown(short); !errors.Is(err, context.DeadlineExceeded) ||
			s.handler.InFlight() != 1 {
			t.Errorf("Shutdown returns %v with %d in flight", err, s.handler.InFlight())
		}
		began := time.Now()
		if err := s.handler.Shutdown(t.Context()); err != nil || s.gate.InFlight() != 0 ||
			time.Since(began) > takes {
			t.Errorf("Shutdown returns %v after %v with %d in flight", err, time.Since(began),
				s.gate.InFlight())
		}
	})
}

// A connection that was used by a request which its client has left is not used again.
func TestAnAbandonedConnectionIsNotPooled(t *testing.T) {
	scenes(t, func(t *testing.T, local bool, finish bool) {
		w := &work{takes: time.Second}
		s := newScene(
			t,
			sceneConfig{
				app: balance.App{FinishAbandoned: finish}, local: local, serve: apps["does not listen"](w),
			},
		)
		s.ask("GET", nil, 0)
		s.ask("GET", nil, leaves)
		s.free(time.Minute)
		if n := s.dials.Load(); n != 1 {
			t.Fatalf("%d connections", n)
		}
		if got, err := s.ask("POST", strings.NewReader("x"), 0); got != "ok" {
			t.Errorf("the next request gets %q, %v", got, err)
		}
		if n := s.dials.Load(); n != 2 {
			t.Errorf("%d connections, want a second one for the next request", n)
		}
	})
}

// Connections that wait for machines without a hard limit are bounded: the slots are held without
// them.
func TestLingeringConnectionsAreBounded(t *testing.T) {
	for _, hard := range []int{0, 5} {
		inBubbles(t, func(t *testing.T, local bool) {
			s := newScene(t, sceneConfig{
				app: balance.App{Limits: balance.Limits{Hard: hard}}, local: local,
				serve: apps["notices nothing"](&work{takes: takes}),
			})
			machines := s.tr.machines
			if !local {
				machines = s.handler.machines
			}
			machines.Lingering.Store(pool.MaxLingering)
			s.ask("GET", nil, leaves)
			s.free(time.Minute)
			want := "closed"
			if hard > 0 {
				want = "answered"
			}
			if how := s.told(); how[0] != want || machines.Lingering.Load() != pool.MaxLingering {
				t.Errorf("hard limit %d: free as it %v, %d linger", hard, how, machines.Lingering.Load())
			}
		})
	}
}

// Over HTTP/2 "tell" resets the stream, after which nothing is heard of it; "finish" reads on.
// Others share the connection.
func TestAbandonedStreams(t *testing.T) {
	for _, when := range []string{"before the answer", "in the middle of it", "closed early"} {
		t.Run(when, func(t *testing.T) {
			scenes(t, func(t *testing.T, local bool, finish bool) {
				w := &work{takes: takes}
				told := make(chan time.Duration, 1)
				s := newScene(t, sceneConfig{
					app: balance.App{FinishAbandoned: finish}, local: local, h2: true,
					serve: handled(func(rw http.ResponseWriter, r *http.Request) {
						began := time.Now()
						w.begin()
						defer w.end()
						if r.Method == "PUT" {
							io.WriteString(rw, "ok")
							return
						}
						stop := context.AfterFunc(r.Context(), func() { told <- time.Since(began) })
						defer stop()
						if when != "before the answer" {
							io.WriteString(rw, "part")
							rw.(http.Flusher).Flush()
						}
						time.Sleep(w.takes)
						io.WriteString(rw, strings.Repeat("rest", 100_000))
					}),
				})
				for range 3 {
					if got, err := s.ask("PUT", nil, 0); got != "ok" {
						t.Fatal(got, err)
					}
				}
				began := time.Now()
				if when == "closed early" {
					resp, err := s.tr.RoundTrip(request(t, "GET", "http://web/", nil))
					if err != nil {
						t.Fatal(err)
					}
					io.ReadFull(resp.Body, make([]byte, 4))
					time.Sleep(leaves)
					resp.Body.Close()
				} else if _, err := s.ask("GET", nil, leaves); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("the caller gets %v", err)
				}
				if time.Since(began) != leaves {
					t.Errorf("the caller returns after %v", time.Since(began))
				}
				held := s.free(time.Minute).Round(100 * time.Millisecond)
				how := s.told()
				if !finish {
					if at := <-told; held != hop.MinHold || at != leaves || how[0] != "closed" {
						t.Errorf("told after %v, held for %v, free as it %v", at, held, how)
					}
				} else if held != (takes-leaves).Round(100*time.Millisecond) || how[0] != "answered" || len(told) > 0 {
					t.Errorf("held for %v, free as it %v, told %v", held, how, len(told) > 0)
				}
				if got, err := s.ask("PUT", nil, 0); got != "ok" || s.dials.Load() != 1 {
					t.Errorf("the next request gets %q, %v over connection %d", got, err, s.dials.Load())
				}
				time.Sleep(takes)
			})
		})
	}
}

// An answer over HTTP/2 that is read to its end in any case arrives as any other.
func TestFinishedStreamsArriveWhole(t *testing.T) {
	inBubbles(t, func(t *testing.T, local bool) {
		s := newScene(t, sceneConfig{
			app: balance.App{FinishAbandoned: true}, local: local, h2: true,
			serve: handled(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Trailer", "X-Sum")
				n, _ := io.Copy(w, r.Body)
				w.Header().Set("X-Sum", fmt.Sprint(n))
			}),
		})
		for _, size := range []int{0, 1, 100_000, 3 << 20} {
			body := make([]byte, size)
			for i := range body {
				body[i] = byte(i * 7 / 3)
			}
			resp, err := s.tr.RoundTrip(request(t, "POST", "http://web/", bytes.NewReader(body)))
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if !bytes.Equal(got, body) || err != nil || resp.Trailer.Get("X-Sum") != fmt.Sprint(size) {
				t.Errorf("%d bytes: got %d, %v, trailer %v", size, len(got), err, resp.Trailer)
			}
		}
		if held := s.free(time.Minute); held != 0 || len(s.told()) > 0 {
			t.Errorf("held for %v, told %v", held, s.told())
		}
	})
}

// What ends by the machine's own doing frees its slot at once.
func TestAMachineThatBreaksOffHoldsNoSlot(t *testing.T) {
	for name, answer := range map[string]string{
		"before the answer":   "",
		"in its head":         "HTTP/1.1 200 OK\r\nContent-Le",
		"in its body":         "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
		"in a chunk":          "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe",
		"with something else": "SSH-2.0-OpenSSH_9\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			scenes(t, func(t *testing.T, local bool, finish bool) {
				s := newScene(t, sceneConfig{
					app: balance.App{FinishAbandoned: finish}, local: local,
					serve: connections(func(c net.Conn) {
						http.ReadRequest(bufio.NewReader(c))
						io.WriteString(c, answer)
						c.Close()
					}),
				})
				if got, err := s.ask("POST", strings.NewReader("x"), 0); err == nil {
					t.Errorf("got %q", got)
				}
				if held := s.free(time.Minute); held != 0 || len(s.told()) > 0 {
					t.Errorf("held for %v, told %v", held, s.told())
				}
			})
		})
	}
}

// So does what ends by the machine's own doing after its client has left, where the machine was not
// told of that.
func TestAMachineThatBreaksOffForNobodyHoldsNoSlot(t *testing.T) {
	inBubbles(t, func(t *testing.T, local bool) {
		s := newScene(t, sceneConfig{
			app: balance.App{FinishAbandoned: true}, local: local,
			serve: connections(func(c net.Conn) {
				http.ReadRequest(bufio.NewReader(c))
				time.Sleep(takes)
				c.Close()
			}),
		})
		s.ask("GET", nil, leaves)
		held := s.free(time.Minute).Round(100 * time.Millisecond)
		if how := s.told(); held != (takes-leaves).Round(100*time.Millisecond) || how[0] != "closed" {
			t.Errorf("held for %v, free as it %v", held, how)
		}
	})
}

// resettable is a connection that notes when it ends in a reset.
type resettable struct {
	net.Conn
	reset atomic.Bool
}

func (r *resettable) SetLinger(sec int) error { r.reset.Store(sec == 0); return nil }

func (r *resettable) CloseWrite() error { return r.Conn.(interface{ CloseWrite() error }).CloseWrite() }

// A machine that has said nothing for as long as is waited for is reset: it is to take nothing for
// a request that ended well. One that answers is not.
func TestASilentMachineIsReset(t *testing.T) {
	for app, want := range map[string]bool{"never answers": true, "notices nothing": false} {
		t.Run(app, func(t *testing.T) {
			scenes(t, func(t *testing.T, local bool, finish bool) {
				var r *resettable
				wrap := func(c net.Conn) net.Conn { r = &resettable{Conn: c}; return r }
				s := newScene(t, sceneConfig{
					app: balance.App{FinishAbandoned: finish}, local: local, serve: apps[app](&work{takes: takes}),
					wrap: wrap,
				})
				s.ask("GET", nil, leaves)
				s.free(24 * time.Hour)
				if got := r.reset.Load(); got != want {
					t.Errorf("reset: %v, want %v; free as it %v", got, want, s.told())
				}
			})
		})
	}
}
