package backhaul

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/backhaul/internal/tcp"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/nettest"
)

// single is an app whose machines take one request each.
func single() balance.App {
	return balance.App{ID: "web", Strategy: first, Limits: balance.Limits{Soft: 1, Hard: 1}}
}

// until waits for what is no event on this side of a connection.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(30 * time.Second); !ok(); <-poll.C {
		if time.Now().After(deadline) {
			t.Fatal("still not: ", what)
		}
	}
}

// A client that is slow to send a small body holds no slot: others are served meanwhile, and it is
// when its body has come.
func TestASlowSmallBodyHoldsNoSlot(t *testing.T) {
	both(t, func(t *testing.T, local bool) {
		r := newRig(t, rigConfig{app: single(), local: local})
		r.serve(
			"m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }),
		)
		pr, pw := io.Pipe()
		slow := request(t, "POST", r.front.URL, pr)
		slow.ContentLength = int64(len("first, second"))
		answer := make(chan string)
		go func() {
			_, body := fetch(t, r.front.Client(), slow)
			answer <- body
		}()
		pw.Write([]byte("first, "))
		until(t, "the body is read", func() bool { return r.transport.kept.Used() > 0 })
		for range 3 {
			resp, body := fetch(t, r.front.Client(), request(t, "POST", r.front.URL, strings.NewReader("other")))
			if resp.StatusCode != http.StatusOK || body != "other" {
				t.Errorf("another client got %d %s", resp.StatusCode, body)
			}
		}
		if n := r.gates["m1"].InFlight(); n != 0 {
			t.Errorf("%d slots are held for a body that is not here", n)
		}
		pw.Write([]byte("second"))
		pw.Close()
		if got := <-answer; got != "first, second" {
			t.Errorf("the slow client got %q", got)
		}
		r.quiet()
	})
}

// Memory is held for what has come, not for what was announced; and where it is short, the rest of
// a body is sent as it comes.
func TestABodyReadAheadHoldsWhatHasCome(t *testing.T) {
	t.Run("announced", func(t *testing.T) {
		r := newRig(t, rigConfig{app: roomy, local: true})
		r.serve("m1", says("ok"))
		ctx, leave := context.WithCancel(t.Context())
		done := make(chan error)
		pr, pw := io.Pipe()
		go func() {
			req := request(t, "POST", "http://web/", pr).WithContext(ctx)
			req.ContentLength = defaultReplay
			_, err := r.transport.RoundTrip(req)
			done <- err
		}()
		pw.Write([]byte("x"))
		if n := r.transport.kept.Used(); n > pool.FirstAhead {
			t.Errorf("%d bytes are held for 1", n)
		}
		leave()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("the client has left: %v", err)
		}
		pw.Close()
		r.quiet()
	})
	t.Run("short of memory", func(t *testing.T) {
		for _, local := range []bool{false, true} {
			for _, memory := range []int64{1, pool.FirstAhead, 3 * pool.FirstAhead} {
				var l log
				r := newRig(
					t,
					rigConfig{
						app: roomy, local: local,
						config: Config{tuning: tuning{replayMemory: memory}, Trace: l.trace()},
					},
				)
				leave := fill(t, r.serve("m1", says("one")), 50)
				r.serve("m2", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					sum := sha256.New()
					io.Copy(sum, r.Body)
					fmt.Fprintf(w, "%x", sum.Sum(nil))
				}))
				body := &noise{n: defaultReplay, sum: sha256.New()}
				req := request(t, "POST", r.front.URL, io.NopCloser(body))
				req.ContentLength = defaultReplay
				_, got := fetch(t, r.front.Client(), req)
				if want := fmt.Sprintf("%x", body.sum.Sum(nil)); got != want {
					t.Errorf("local %v, memory for %d bytes: got %s, want %s", local, memory, got, want)
				}
				if want := "m1 bounced: full"; !local && l.String() != want {
					t.Errorf("got %s, want %s", &l, want)
				}
				leave()
				r.quiet()
			}
		}
	})
}

// A body that is not as long as it was said to be is its client's fault; no machine is asked for.
func TestABodyOfAnotherLengthThanAnnounced(t *testing.T) {
	for body, announced := range map[string]int64{"short": 10, "longer than that": 10} {
		var l log
		r := newRig(t, rigConfig{app: roomy, local: true, config: Config{Trace: l.trace()}})
		r.serve("m1", says("ok"))
		req := request(t, "POST", "http://web/", io.NopCloser(strings.NewReader(body)))
		req.ContentLength = announced
		_, err := r.transport.RoundTrip(req)
		if status, cause := classify(req, err); status != http.StatusBadRequest || cause != causeRequest {
			t.Errorf("%q: %v is answered with %d %s", body, err, status, cause)
		}
		if d := l.last(t, 1); d.Outcome != balance.OutcomeCanceled || d.Tries != 0 {
			t.Errorf("%q: done: %+v", body, d)
		}
		r.quiet()
	}
}

// What a request holds while it waits for a machine is told to whoever has it wait.
func TestAWaitingRequestSaysWhatItHolds(t *testing.T) {
	for body, want := range map[string]int{"": 0, "four": 4, strings.Repeat("x", defaultReplay): defaultReplay, strings.Repeat("x", defaultReplay+1): 0} {
		got := -1
		tr, err := NewTransport(
			pickerFunc(func(_ context.Context, r *balance.Request) (balance.Reservation, error) {
				got = r.Held
				return balance.Reservation{}, balance.ErrNoMachine
			}),
			Config{},
		)
		if err != nil {
			t.Fatal(err)
		}
		tr.RoundTrip(request(t, "POST", "http://web/", strings.NewReader(body)))
		if got != want {
			t.Errorf("a body of %d bytes: holds %d, want %d", len(body), got, want)
		}
	}
}

type pickerFunc func(context.Context, *balance.Request) (balance.Reservation, error)

func (f pickerFunc) Acquire(ctx context.Context, r *balance.Request) (balance.Reservation, error) {
	return f(ctx, r)
}

// pause is the bound of tests in real time. Nothing moves in them: that it passes early on a busy
// machine does no harm.
const pause = 50 * time.Millisecond

// A body that stalls ends its request in 408, with its slot free and no blame for the machine,
// wherever it stalls.
func TestABodyThatStalls(t *testing.T) {
	app := single()
	app.BodyPause = pause
	for name, head := range map[string]string{
		"small":                     "Content-Length: 10\r\n\r\n",
		"small, begun":              "Content-Length: 10\r\n\r\nx",
		"small, asked for":          "Content-Length: 10\r\nExpect: 100-continue\r\n\r\n",
		"large":                     "Content-Length: 100000\r\n\r\n",
		"large, begun":              "Content-Length: 100000\r\n\r\n" + strings.Repeat("x", 70_000),
		"of unknown length":         "Transfer-Encoding: chunked\r\n\r\n",
		"of unknown length, begun":  "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
		"in the middle of a chunk":  "Transfer-Encoding: chunked\r\n\r\n5\r\nx",
		"for an upgrade, which few": "Connection: Upgrade\r\nUpgrade: x\r\nContent-Length: 10\r\n\r\n",
	} {
		for _, local := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/local=%v", name, local), func(t *testing.T) {
				t.Parallel()
				var l log
				r := newRig(t, rigConfig{app: app, local: local, config: Config{Trace: l.trace()}})
				r.serve(
					"m1",
					http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }),
				)
				c, err := net.Dial("tcp", r.front.Listener.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: x\r\n"+head)
				from := bufio.NewReader(c)
				resp, err := http.ReadResponse(from, nil)
				if err == nil && resp.StatusCode == http.StatusContinue {
					resp, err = http.ReadResponse(from, nil)
				}
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(resp.Body)
				if resp.StatusCode != http.StatusRequestTimeout || !resp.Close {
					t.Errorf(
						"got %d %s, close %v; want 408 and the connection's end", resp.StatusCode, body, resp.Close,
					)
				}
				d := l.last(t, 1)
				stall, ok := errors.AsType[*stallError](d.Err)
				if !ok || *stall != (stallError{"web", hop.StallBody, pause}) ||
					d.Outcome != balance.OutcomeCanceled ||
					d.Status != 408 ||
					d.Cause != causeStalled {
					t.Errorf("done: %+v", d)
				}
				if from.Buffered() > 0 {
					t.Error("something follows the answer")
				}
				r.quiet()
				if _, body := fetch(t, r.front.Client(), request(t, "GET", r.front.URL, nil)); body != "" {
					t.Errorf("the next client got %s", body)
				}
			})
		}
	}
}

// As over HTTP/1.1, where several share a connection.
func TestABodyThatStallsOverHTTP2(t *testing.T) {
	app := single()
	app.BodyPause = pause
	for name, length := range map[string]int64{"small": 10, "large": 100_000, "of unknown length": -1} {
		for _, local := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/local=%v", name, local), func(t *testing.T) {
				var l log
				r := newRig(t, rigConfig{app: app, local: local, h2: true, config: Config{Trace: l.trace()}})
				r.serve(
					"m1",
					http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }),
				)
				pr, pw := io.Pipe()
				defer pw.Close()
				go pw.Write([]byte("x"))
				req := request(t, "POST", r.front.URL, pr)
				req.ContentLength = length
				resp, err := r.front.Client().Do(req)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if resp.StatusCode != http.StatusRequestTimeout {
					t.Errorf("got %d, want 408", resp.StatusCode)
				}
				if d := l.last(t, 1); d.Outcome != balance.OutcomeCanceled || d.Cause != causeStalled {
					t.Errorf("done: %+v", d)
				}
				r.quiet()
			})
		}
	}
}

// calm is an edge and an owner in memory, or both in one, for a bubble in which the default bounds
// pass.
func calm(
	t *testing.T, local bool, machine http.HandlerFunc,
) (tr *Transport, l *log, inFlight func() int) {
	l = new(log)
	if !local {
		tr, worker := newPair(t, Config{Trace: l.trace()}, HandlerConfig{}, machine)
		return tr, l, func() int { return worker.Gate("web", "m0").InFlight() + worker.Gate("web", "m1").InFlight() }
	}
	f, err := balance.NewFleet(balance.FleetConfig{Node: "edge", Region: "nrt"})
	if err != nil {
		t.Fatal(err)
	}
	g, err := f.Host(balance.Machine{ID: "m1", App: "web", Region: "nrt"})
	if err != nil {
		t.Fatal(err)
	}
	token, _ := g.Start(0)
	g.Ready(token)
	b, err := balance.New(f, balance.Config{})
	if err != nil {
		t.Fatal(err)
	}
	machines := nettest.NewPipes()
	tr, err = NewTransport(NoWait(b), Config{MachineConfig: MachineConfig{DialMachine: func(ctx context.Context, _ balance.Machine) (net.Conn, error) { return machines.Dial(ctx) }}, Trace: l.trace()})
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: machine, ErrorLog: quietLog}
	go s.Serve(machines)
	t.Cleanup(func() { tr.Close(); s.Close() })
	return tr, l, g.InFlight
}

func inBubbles(t *testing.T, f func(t *testing.T, local bool)) {
	for _, local := range []bool{false, true} {
		t.Run(
			fmt.Sprintf("local=%v", local),
			func(t *testing.T) { synctest.Test(t, func(t *testing.T) { f(t, local) }) },
		)
	}
}

// Receivers may pause: a machine in reading a body, a client in reading an answer, for longer than
// a client may in sending.
func TestReceiversMayPauseForHours(t *testing.T) {
	const size = 4 << 20
	inBubbles(t, func(t *testing.T, local bool) {
		tr, l, inFlight := calm(t, local, func(w http.ResponseWriter, r *http.Request) {
			buf := make([]byte, 100)
			io.ReadFull(r.Body, buf)
			time.Sleep(3 * time.Hour)
			io.Copy(io.Discard, r.Body)
			w.Write(make([]byte, size))
		})
		req := request(t, "POST", "http://web/", bytes.NewReader(make([]byte, size)))
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		n, _ := io.ReadFull(resp.Body, make([]byte, 100<<10))
		time.Sleep(5 * time.Hour)
		rest, err := io.ReadAll(resp.Body)
		if n += len(rest); n != size || err != nil {
			t.Errorf("got %d bytes of %d, %v", n, size, err)
		}
		resp.Body.Close()
		synctest.Wait()
		if d := l.last(t, 1); d.Outcome != balance.OutcomeDone || inFlight() != 0 {
			t.Errorf("%d in flight, done: %+v", inFlight(), d)
		}
	})
}

// An answer that is not read for longer than anybody pauses gives its slot back, and does not go
// on.
func TestAnAnswerThatNobodyReads(t *testing.T) {
	for name, whole := range map[string]bool{"of known length": true, "of unknown length": false} {
		t.Run(name, func(t *testing.T) {
			inBubbles(t, func(t *testing.T, local bool) {
				tr, l, inFlight := calm(t, local, func(w http.ResponseWriter, r *http.Request) {
					if whole {
						w.Header().Set("Content-Length", fmt.Sprint(64<<20))
					}
					for range 64 {
						w.Write(make([]byte, 1<<20))
					}
				})
				resp, err := tr.RoundTrip(request(t, "GET", "http://web/", nil))
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				io.ReadFull(resp.Body, make([]byte, 100))
				time.Sleep(5*time.Hour + 55*time.Minute)
				if n := inFlight(); n != 1 {
					t.Errorf("%d in flight before the bound has passed", n)
				}
				time.Sleep(4 * time.Hour)
				if n := inFlight(); n != 0 {
					t.Errorf("%d in flight for a client that is gone for all we know", n)
				}
				_, err = io.ReadAll(resp.Body)
				if stall, ok := errors.AsType[*stallError](err); !ok || stall.stall != hop.StallAnswer {
					t.Errorf("the client that comes back gets %v", err)
				}
				if d := l.last(t, 1); d.Outcome != balance.OutcomeCanceled || d.Cause != causeStalled ||
					d.Status != http.StatusOK {
					t.Errorf("done: %+v", d)
				}
			})
		})
	}
}

// An app's row sets how long that may take, and the bound frees the slot for others.
func TestAnAnswerThatNobodyReadsOfABusyApp(t *testing.T) {
	app := single()
	app.AnswerPause = pause
	both(t, func(t *testing.T, local bool) {
		r := newRig(t, rigConfig{app: app, local: local})
		g := r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "GET" {
				io.Copy(w, &noise{n: 1 << 40, sum: sha256.New()})
			}
		}))
		resp, err := r.front.Client().Do(request(t, "GET", r.front.URL, nil))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		until(t, "the slot is free", func() bool { return g.InFlight() == 0 })
		other, body := fetch(t, r.front.Client(), request(t, "POST", r.front.URL, nil))
		if other.StatusCode != http.StatusOK {
			t.Errorf("another client got %d %s", other.StatusCode, body)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err == nil {
			t.Error("an answer that was broken off ended well")
		}
		r.quiet()
	})
}

// A request for an upgrade that is never answered is given up; what has been upgraded is not,
// however long it is silent.
func TestAnUpgradeThatNeverComes(t *testing.T) {
	inBubbles(t, func(t *testing.T, local bool) {
		tr, l, inFlight := calm(t, local, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/never" {
				<-r.Context().Done()
				return
			}
			c, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			io.WriteString(
				c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n",
			)
			io.Copy(c, rw)
		})
		ask := func(path string) (*http.Response, error) {
			req := request(t, "GET", "http://web"+path, nil)
			req.Header.Set("Connection", "Upgrade")
			req.Header.Set("Upgrade", "echo")
			return tr.RoundTrip(req)
		}
		began := time.Now()
		_, err := ask("/never")
		if stall, ok := errors.AsType[*stallError](err); !ok || stall.stall != hop.StallUpgrade ||
			time.Since(began) != hop.DefaultUpgradeWait {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		if status, cause := classify(request(t, "GET", "http://web/", nil), err); status != http.StatusGatewayTimeout ||
			cause != causeTimeout {
			t.Errorf("answered with %d %s", status, cause)
		}
		if d := l.last(t, 1); d.Outcome != balance.OutcomeCanceled || d.failures != 0 {
			t.Errorf("done: %+v", d)
		}
		resp, err := ask("/")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Hour)
		conn := resp.Body.(io.ReadWriteCloser)
		got := make([]byte, 5)
		go io.WriteString(conn, "hello")
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != "hello" {
			t.Errorf("after a long silence: %q, %v", got, err)
		}
		conn.Close()
		synctest.Wait()
		if n := inFlight(); n != 0 {
			t.Errorf("%d in flight", n)
		}
	})
}

// A body of unknown length may be one side of a conversation. Once the machine has begun to answer
// it may be silent, and that of a gRPC call at any time.
func TestConversationsMayBeSilent(t *testing.T) {
	for _, grpc := range []bool{false, true} {
		t.Run(fmt.Sprintf("grpc=%v", grpc), func(t *testing.T) {
			inBubbles(t, func(t *testing.T, local bool) {
				tr, _, _ := calm(t, local, func(w http.ResponseWriter, r *http.Request) {
					c := http.NewResponseController(w)
					c.EnableFullDuplex()
					if !grpc {
						c.Flush()
					}
					io.Copy(w, r.Body)
				})
				pr, pw := io.Pipe()
				req := request(t, "POST", "http://web/", pr)
				if grpc {
					req.Header.Set("Content-Type", "application/grpc+proto")
				}
				go func() {
					io.WriteString(pw, "hello, ")
					time.Sleep(10 * time.Hour)
					io.WriteString(pw, "at last")
					pw.Close()
				}()
				resp, err := tr.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if string(b) != "hello, at last" || err != nil {
					t.Errorf("got %q, %v", b, err)
				}
			})
		})
	}
}

// An owner keeps the bounds for its own gates: its edge may be gone, or slow. It gives the edge the
// time to be the first.
func TestOwnersEndWhatTheirEdgesDoNot(t *testing.T) {
	for name, tt := range map[string]struct {
		app  balance.App
		send string
		want hop.Stall
	}{
		"body":    {balance.App{BodyPause: pause}, "POST / HTTP/1.1\r\nContent-Length: 10\r\n", hop.StallBody},
		"awaited": {balance.App{BodyPause: pause}, "POST / HTTP/1.1\r\nContent-Length: 10\r\nExpect: 100-continue\r\n", hop.StallBody},
		"answer":  {balance.App{AnswerPause: pause}, "GET /long HTTP/1.1\r\n", hop.StallAnswer},
		"upgrade": {balance.App{UpgradeWait: pause}, "GET /never HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: x\r\n", hop.StallUpgrade},
	} {
		t.Run(name, func(t *testing.T) {
			tt.app.ID = "web"
			faults := make(chan Event, 1)
			r := newRig(t, rigConfig{app: tt.app, handler: HandlerConfig{AnyNode: true, Trace: Trace{Event: on(EventFail, func(e Event) { faults <- e })}}})
			g := r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case "/long":
					io.Copy(w, &noise{n: 1 << 40, sum: sha256.New()})
				case "/never":
					<-r.Context().Done()
				}
				io.Copy(io.Discard, r.Body)
			}))
			c, err := net.Dial("tcp", r.hop.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			fmt.Fprintf(
				c, "%sHost: x\r\nEbb-To: %s\r\n\r\n", tt.send,
				hop.AppendTo(nil, hop.To{App: "web", Machine: "m1", Node: "edge"}),
			)
			until(t, "the request is in", func() bool { return g.InFlight() == 1 || len(faults) > 0 })
			until(t, "the slot is free", func() bool { return g.InFlight() == 0 })
			if tt.want == hop.StallAnswer {
				return // it is broken off
			}
			f := <-faults
			stall, ok := errors.AsType[*stallError](f.Err)
			if !ok || stall.stall != tt.want || stall.after != pause*3/2 || f.Failure != hop.FailureClient {
				t.Errorf("fault: %+v", f)
			}
			from := bufio.NewReader(c)
			resp, err := http.ReadResponse(from, nil)
			if err == nil && resp.StatusCode == http.StatusContinue {
				resp, err = http.ReadResponse(from, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != stall.StatusCode() || resp.Header.Get(hop.HeaderFault) == "" {
				t.Errorf("the edge is told %d %v", resp.StatusCode, resp.Header)
			}
		})
	}
}

// A body of which a little comes now and then, so that it never pauses for long, holds its slot no
// longer than one that does pause. One that comes as slowly as anything may, and steadily, is
// served.
func TestABodyThatDripsHoldsNoSlot(t *testing.T) {
	for _, tt := range []struct {
		name   string
		length int64
		piece  int
		every  time.Duration
		well   bool
	}{
		{"a byte a minute", 1 << 20, 1, 59 * time.Second, false},
		{"a byte a second", 1 << 20, 1, time.Second, false},
		{"a byte a second, of unknown length", -1, 1, time.Second, false},
		{"a byte a second, of a small body", 10_000, 1, time.Second, false},
		{"steadily", 1 << 20, 300, time.Second, true},
		{"in bursts", 1 << 20, 300 * 50, 50 * time.Second, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubbles(t, func(t *testing.T, local bool) {
				tr, l, inFlight := calm(t, local,
					func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
				pr, pw := io.Pipe()
				began := time.Now()
				go func() {
					for left := int64(1 << 20); left > 0; left -= int64(tt.piece) {
						if _, err := pw.Write(make([]byte, min(left, int64(tt.piece)))); err != nil {
							return
						}
						time.Sleep(tt.every)
					}
					pw.Close()
				}()
				req := request(t, "POST", "http://web/", pr)
				req.ContentLength = tt.length
				resp, err := tr.RoundTrip(req)
				if err == nil {
					resp.Body.Close()
				}
				pr.Close()
				if stall, ok := errors.AsType[*stallError](err); tt.well && err != nil ||
					!tt.well && (!ok || *stall != stallError{"web", hop.StallBody, time.Minute}) {
					t.Errorf("got %v", err)
				}
				if took := time.Since(began); !tt.well && took > 2*time.Minute {
					t.Errorf("the slot was held for %v", took)
				}
				time.Sleep(time.Minute)
				if d := l.last(t, 1); inFlight() != 0 || !tt.well && d.Outcome != balance.OutcomeCanceled {
					t.Errorf("%d in flight, done: %+v", inFlight(), d)
				}
			})
		})
	}
}

// What counts is the time in which the client is awaited.
func TestADripIsToldByTheTimeThatIsWaitedForIt(t *testing.T) {
	type look struct {
		at      time.Duration
		awaited bool
		read    int64
		slow    bool
	}
	for name, looks := range map[string][]look{
		"nothing comes":          {{0, true, 0, false}, {59, true, 0, false}, {60, true, 0, true}},
		"enough comes":           {{0, true, 0, false}, {60, true, 600, false}, {119, true, 600, false}, {120, true, 1200, false}},
		"too little comes":       {{0, true, 0, false}, {60, true, 599, true}},
		"then too little":        {{0, true, 0, false}, {60, true, 1000, false}, {120, true, 1599, true}},
		"the machine is slow":    {{0, true, 0, false}, {60, false, 1, false}, {120, false, 2, false}, {121, true, 3, false}},
		"half of the time it is": {{0, true, 0, false}, {30, true, 1, false}, {90, false, 2, false}, {120, true, 3, true}},
		"what came before the first look is no merit": {{0, true, 9000, false}, {60, true, 9000, true}},
		"time goes backwards":                         {{60, true, 0, false}, {0, true, 0, false}, {59, true, 0, false}},
	} {
		var d hop.SlowBody
		start := time.Unix(1e9, 0)
		for i, l := range looks {
			if got := d.Slow(start.Add(l.at*time.Second), l.awaited, l.read, hop.Bounds{Body: time.Minute, Least: 600}); got != l.slow {
				t.Errorf("%s, look %d: slow=%v, want %v", name, i, got, l.slow)
			}
		}
	}
	var d hop.SlowBody
	for i := range 3 {
		if d.Slow(time.Unix(int64(1000*i), 0), true, 0, hop.BoundsOf(&balance.App{BodyPause: -1})) {
			t.Error("an app without a bound has one")
		}
	}
}

// What has stalled by its owner's word is the client's doing for the edge as well: it is not tried
// again, and counts against no machine.
func TestAStallThatAnOwnerTellsOfIsTheClients(t *testing.T) {
	for status, want := range map[int]stallError{
		http.StatusRequestTimeout: {"web", hop.StallBody, time.Minute}, http.StatusGatewayTimeout: {"web", hop.StallUpgrade, time.Minute},
	} {
		var l log
		said := http.HandlerFunc(
			func(w http.ResponseWriter, _ *http.Request) { fault(w, status, hop.FailureClient, "nothing came") },
		)
		r := newRig(
			t,
			rigConfig{
				app: roomy, config: Config{Trace: l.trace()},
				wrapHop: func(http.Handler) http.Handler { return said },
			},
		)
		r.serve("m1", says("one"))
		r.serve("m2", says("two"))
		_, err := r.transport.RoundTrip(request(t, "PUT", "http://web/", strings.NewReader("x")))
		if stall, ok := errors.AsType[*stallError](err); !ok || *stall != want {
			t.Errorf("%d: got %v, want %v", status, err, &want)
		}
		if d := l.last(t, 1); d.Outcome != balance.OutcomeCanceled || d.Tries != 1 || l.String() != "" {
			t.Errorf("%d: %s, done %+v", status, &l, d)
		}
	}
}

// A machine that breaks off while its client pauses in the middle of a body has failed: the client
// is told now, and not when its own pause has been too long.
func TestAMachineThatBreaksOffDuringAPauseIsToldOfAtOnce(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, local bool) {
		for _, head := range []string{"Content-Length: 100000\r\n\r\nx", "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"} {
			r := newRig(t, rigConfig{app: roomy, local: local})
			machine, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer machine.Close()
			r.host("m1", machine.Addr().String())
			go func() {
				c, err := machine.Accept()
				if err != nil {
					return
				}
				if q, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					io.ReadFull(q.Body, make([]byte, 1))
				}
				tcp.Reset(c)
			}()
			c, err := net.Dial("tcp", r.front.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\n"+head)
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != http.StatusBadGateway {
				t.Errorf("got %d, want 502", resp.StatusCode)
			}
			c.Close()
			r.quiet()
		}
	})
}
