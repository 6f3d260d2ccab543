package backhaul

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale"
)

var _ downscale.Connections = (*Connections)(nil)

// longRig is a rig whose long connections are known. h2 is for gRPC calls, which are long after that
// age.
func longRig(t testing.TB, local, h2 bool, age time.Duration) (*rig, *Connections) {
	c := &Connections{StreamAge: age}
	return newRig(
		t,
		rigConfig{
			app: roomy, local: local, h2: h2, config: Config{tuning: tuning{rounds: 1000}, Connections: c},
			handler: HandlerConfig{Connections: c},
		},
	), c
}

var m1 = balance.Machine{ID: "m1", App: "web"}

// long waits for n connections of a class to be known.
func (r *rig) long(c *Connections, of balance.Class, n int) {
	r.t.Helper()
	deadline := time.After(30 * time.Second)
	for c.Long(m1, of) != n {
		select {
		case <-time.After(time.Millisecond):
		case <-deadline:
			r.t.Fatalf("%d long connections of class %v, want %d", c.Long(m1, of), of, n)
		}
	}
	if all := c.Long(m1, balance.ClassAll); all != n {
		r.t.Fatalf("%d long connections in all, want %d", all, n)
	}
}

// script is a machine that says and hears what a test wants, over an upgraded connection.
type script struct {
	proto string
	conns chan net.Conn
}

func (s script) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	io.WriteString(
		c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+s.proto+"\r\n\r\n",
	)
	s.conns <- c
}

// upgraded opens a connection through the rig to a new machine m1 and returns both its ends.
func upgraded(
	t *testing.T, r *rig, proto string,
) (client net.Conn, fromMachine *bufio.Reader, machine net.Conn) {
	t.Helper()
	s := script{proto, make(chan net.Conn, 1)}
	r.serve("m1", s)
	client, err := net.Dial("tcp", r.front.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	io.WriteString(
		client, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: "+proto+"\r\n\r\n",
	)
	fromMachine = bufio.NewReader(client)
	if resp, err := http.ReadResponse(fromMachine, nil); err != nil || resp.StatusCode != 101 {
		t.Fatal(resp, err)
	}
	machine = <-s.conns
	t.Cleanup(func() { machine.Close() })
	for _, c := range []net.Conn{client, machine} {
		c.SetDeadline(time.Now().Add(time.Minute))
	}
	return client, fromMachine, machine
}

func expect(t *testing.T, who string, r io.Reader, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(r, got); err != nil || string(got) != want {
		t.Fatalf("%s: got %q, %v; want %q", who, got[:n], err, want)
	}
}

const maskedBye = "\x88\x82\x00\x00\x00\x00\x03\xe9"

// However the machine's frames arrive, the client gets whole ones, a close frame, and nothing more; its answer reaches the
// machine, and the connection ends.
func TestAWebSocketIsToldBetweenTwoFrames(t *testing.T) {
	for _, c := range []struct{ name, before, rest string }{
		{"idle", "", ""},
		{"after a message", "\x81\x02hi", ""},
		{"in the middle of a message", "\x81\x05he", "llo"},
		{"in the middle of a head", "\x82\x7e\x00", "\x80" + strings.Repeat("x", 128)},
		{"between two fragments", "\x01\x02he", ""},
		{"in a compressed fragment", "\xc1\x02he\x00\x04l", "lo!"},
	} {
		t.Run(c.name, func(t *testing.T) {
			both(t, func(t *testing.T, local bool) {
				r, conns := longRig(t, local, false, 0)
				client, back, machine := upgraded(t, r, "websocket")
				r.long(conns, balance.ClassWebSocket, 1)
				io.WriteString(machine, c.before)
				expect(t, "the client before", back, c.before)
				for range 3 { // it is told once
					conns.Notify(m1, balance.ClassWebSocket, time.Hour)
				}
				if c.rest != "" {
					io.WriteString(machine, c.rest+"\x81\x04lost")
				}
				expect(t, "the client", back, c.rest+string(hop.GoingAway))
				io.WriteString(client, "\x81\x82\x00\x00\x00\x00ok"+maskedBye)
				expect(t, "the machine", machine, "\x81\x82\x00\x00\x00\x00ok"+maskedBye)
				if n := conns.Long(m1, balance.ClassWebSocket); n != 1 {
					t.Errorf("%d connections after being told", n)
				}
				io.WriteString(machine, "\x81\x04lost\x88\x02\x03\xe9")
				machine.Close()
				if rest, err := io.ReadAll(back); len(rest) > 0 || err != nil {
					t.Errorf("after the close frame: %q, %v", rest, err)
				}
				client.Close()
				r.quiet()
				r.long(conns, balance.ClassAll, 0)
			})
		})
	}
}

func TestAWebSocketThatIsDeafIsClosed(t *testing.T) {
	both(t, func(t *testing.T, local bool) {
		r, conns := longRig(t, local, false, 0)
		_, back, machine := upgraded(t, r, "WebSocket")
		conns.Notify(m1, balance.ClassAll, 20*time.Millisecond)
		if got, _ := io.ReadAll(back); !bytes.Equal(got, hop.GoingAway) {
			t.Errorf("got %q", got)
		}
		if got, err := io.ReadAll(machine); len(got) > 0 || err != nil {
			t.Errorf("the machine got %q, %v", got, err)
		}
		r.quiet()
		r.long(conns, balance.ClassAll, 0)
	})
}

// A machine that closes a WebSocket itself is not interrupted.
func TestAWebSocketThatCloses(t *testing.T) {
	both(t, func(t *testing.T, local bool) {
		r, conns := longRig(t, local, false, 0)
		client, back, machine := upgraded(t, r, "websocket")
		io.WriteString(machine, "\x88\x02\x03")
		expect(t, "the client before", back, "\x88\x02\x03")
		conns.Notify(m1, balance.ClassWebSocket, time.Hour)
		io.WriteString(machine, "\xe8")
		expect(t, "the client", back, "\xe8")
		io.WriteString(client, maskedBye)
		expect(t, "the machine", machine, maskedBye)
		machine.Close()
		if rest, err := io.ReadAll(back); len(rest) > 0 || err != nil {
			t.Errorf("in the end: %q, %v", rest, err)
		}
		client.Close()
		r.quiet()
	})
}

func TestAnUpgradedConnectionIsToldByHalfCloses(t *testing.T) {
	both(t, func(t *testing.T, local bool) {
		r, conns := longRig(t, local, false, 0)
		client, back, machine := upgraded(t, r, "echo")
		r.long(conns, balance.ClassTCP, 1)
		conns.Notify(
			m1, balance.ClassWebSocket|balance.ClassEvents|balance.ClassStream, time.Nanosecond,
		) // of other classes
		io.WriteString(client, "still here")
		expect(t, "the machine", machine, "still here")
		conns.Notify(m1, balance.ClassTCP, time.Hour)
		if rest, err := io.ReadAll(machine); len(rest) > 0 || err != nil {
			t.Errorf("the machine got %q, %v", rest, err)
		}
		io.WriteString(client, "too late")
		io.WriteString(machine, "last words")
		machine.Close()
		if got, err := io.ReadAll(back); string(got) != "last words" || err != nil {
			t.Errorf("the client got %q, %v", got, err)
		}
		client.Close()
		r.quiet()
		r.long(conns, balance.ClassAll, 0)
	})
}

// A machine that does not end what its client has ended: the client hears of it all the same.
func TestAnUpgradedConnectionOfADeafMachine(t *testing.T) {
	both(t, func(t *testing.T, local bool) {
		r, conns := longRig(t, local, false, 0)
		client, back, machine := upgraded(t, r, "echo")
		conns.Notify(m1, balance.ClassTCP, 20*time.Millisecond)
		if got, err := io.ReadAll(back); len(got) > 0 || err != nil {
			t.Errorf("the client got %q, %v", got, err)
		}
		client.Close()
		machine.Close()
		r.quiet()
	})
}

// events is a machine with an answer without an end.
func events(kind string, left chan<- struct{}) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/events" {
			io.WriteString(w, "short")
			return
		}
		w.Header().Set("Content-Type", kind)
		io.WriteString(w, "data: 1\n\n")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
		left <- struct{}{}
	})
}

func TestAnAnswerWithoutAnEndIsEnded(t *testing.T) {
	for _, kind := range []string{"text/event-stream", "Application/X-NDJSON; charset=utf-8", "multipart/x-mixed-replace; boundary=x"} {
		both(t, func(t *testing.T, local bool) {
			r, conns := longRig(t, local, false, 0)
			left := make(chan struct{}, 1)
			r.serve("m1", events(kind, left))
			resp, err := r.front.Client().Do(request(t, "GET", r.front.URL+"/events", nil))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			expect(t, "the client", resp.Body, "data: 1\n\n")
			r.long(conns, balance.ClassEvents, 1)
			conns.Notify(m1, balance.ClassAll&^balance.ClassEvents, time.Nanosecond) // of other classes
			if _, short := fetch(t, r.front.Client(), request(t, "GET", r.front.URL, nil)); short != "short" {
				t.Errorf("beside it: %q", short)
			}
			conns.Notify(m1, balance.ClassEvents, time.Hour)
			if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
				t.Errorf("the answer ends in %q, %v; want a clean end", rest, err)
			}
			<-left
			r.quiet()
			r.long(conns, balance.ClassAll, 0)
			if _, short := fetch(t, r.front.Client(), request(t, "GET", r.front.URL, nil)); short != "short" {
				t.Errorf("after it: %q", short)
			}
		})
	}
}

// The line that is half through is sent to its end.
func TestAnEventIsNotBrokenOff(t *testing.T) {
	both(t, func(t *testing.T, local bool) {
		r, conns := longRig(t, local, false, 0)
		told := make(chan struct{})
		r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, "data: be")
			http.NewResponseController(w).Flush()
			<-told
			io.WriteString(w, "gun\ndata: lost\n\n")
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}))
		resp, err := r.front.Client().Do(request(t, "GET", r.front.URL, nil))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		expect(t, "the client", resp.Body, "data: be")
		conns.Notify(m1, balance.ClassEvents, time.Hour)
		close(told)
		if rest, err := io.ReadAll(resp.Body); string(rest) != "gun\n" || err != nil {
			t.Errorf("the answer ends in %q, %v", rest, err)
		}
		r.quiet()
	})
}

func TestRequestsAreNotLong(t *testing.T) {
	both(t, func(t *testing.T, local bool) {
		r, conns := longRig(t, local, false, time.Nanosecond)
		held, free := make(chan struct{}), make(chan struct{})
		r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", r.URL.Query().Get("type"))
			if n := r.URL.Query().Get("length"); n != "" {
				w.Header().Set("Content-Length", n)
			}
			io.WriteString(w, "x\n")
			http.NewResponseController(w).Flush()
			held <- struct{}{}
			<-free
			io.WriteString(w, "y\n")
		}))
		for _, c := range []string{"type=text/plain", "type=application/octet-stream", "type=text/event-stream&length=4", "type=application/grpc-web&length=4", "type="} {
			got := make(chan string)
			go func() {
				resp, err := r.front.Client().Get(r.front.URL + "/?" + c)
				got <- read(t, resp, err)
			}()
			<-held
			conns.Notify(m1, balance.ClassAll, time.Nanosecond)
			if n := conns.Long(m1, balance.ClassAll); n != 0 {
				t.Errorf("%s: %d long connections", c, n)
			}
			free <- struct{}{}
			if b := <-got; b != "x\ny\n" {
				t.Errorf("%s: got %q", c, b)
			}
		}
		r.quiet()
	})
}

// Nobody counts as long who is not in flight, at any moment.
func TestNoMoreLongThanInFlight(t *testing.T) {
	both(t, func(t *testing.T, local bool) {
		r, conns := longRig(t, local, false, 0)
		g := r.serve("m1", events("text/event-stream", make(chan struct{}, 100)))
		var phase sync.WaitGroup
		watch := func(order func() (inFlight, long int)) (end func()) {
			stop, done := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(done)
				for {
					select {
					case <-stop:
						return
					default:
					}
					if f, l := order(); l > f {
						t.Errorf("%d long, %d in flight", l, f)
						return
					}
				}
			}()
			return func() { close(stop); <-done }
		}
		ctx, cancel := context.WithCancel(t.Context())
		end := watch(
			func() (int, int) { l := conns.Long(m1, balance.ClassAll); return g.InFlight(), l },
		) // they only come
		for range 30 {
			phase.Go(func() {
				req, _ := http.NewRequestWithContext(ctx, "GET", r.front.URL+"/events", nil)
				if resp, err := r.front.Client().Do(req); err != nil {
					t.Error(err)
				} else {
					context.AfterFunc(ctx, func() { resp.Body.Close() })
				}
			})
		}
		phase.Wait()
		r.long(conns, balance.ClassEvents, 30)
		end()
		end = watch(
			func() (int, int) { f := g.InFlight(); return f, conns.Long(m1, balance.ClassAll) },
		) // they only go
		conns.Notify(m1, balance.ClassEvents, time.Hour)
		r.quiet()
		end()
		cancel()
		r.long(conns, balance.ClassEvents, 0)
	})
}
