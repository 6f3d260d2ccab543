package backhaul

import (
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

	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/balance"
)

func TestAMachineThatRefusesConnectionsIsPassedOver(t *testing.T) {
	both(t, func(t *testing.T, local bool) {
		// The large body is not kept, but nobody has asked for it yet.
		for _, send := range []string{"hello", strings.Repeat("x", 300<<10)} {
			var l log
			r := newRig(t, rigConfig{app: roomy, local: local, config: Config{Trace: l.trace()}})
			r.host("m1", "127.0.0.1:1") // nobody listens; a port that was just closed might be given to m2
			var posts atomic.Int32
			r.serve("m2", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				posts.Add(1)
				b, _ := io.ReadAll(r.Body)
				w.Write(b)
			}))
			_, body := fetch(t, r.front.Client(), request(t, "POST", r.front.URL, strings.NewReader(send)))
			if want := "m1 failed: dial"; body != send || l.String() != want || posts.Load() != 1 {
				t.Errorf(
					"%d bytes: got %d bytes, %s, executed %d times; want %s, once", len(send), len(body), &l,
					posts.Load(), want,
				)
			}
			r.quiet()
		}
	})
}

// cutter is a machine that reads a request and hangs up, and counts how often.
func cutter(t *testing.T, answer string) (addr string, served *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	served = new(atomic.Int32)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				head := make([]byte, 0, 4096)
				for !bytes.Contains(head, []byte("\r\n\r\n")) {
					n, err := c.Read(head[len(head):cap(head)])
					if err != nil {
						return
					}
					head = head[:len(head)+n]
				}
				served.Add(1)
				io.WriteString(c, answer)
				if answer != "" {
					io.Copy(io.Discard, c) // let it be read before the connection dies
				}
			}()
		}
	}()
	return l.Addr().String(), served
}

func TestAMachineThatDiesUnderARequest(t *testing.T) {
	for _, local := range []bool{false, true} {
		for _, tt := range []struct {
			method, body, idem string
			want               string
		}{
			{method: "GET", want: "two"},
			{method: "OPTIONS", want: "two"},
			{method: "POST", body: "pay once"},
			{method: "POST", body: "pay once", idem: "k1", want: "two"},
			{method: "PUT", body: "x"},
			{method: "POST", body: strings.Repeat("large ", 100<<10), idem: "k1"}, // idempotent, but gone
		} {
			t.Run(fmt.Sprintf("local=%v/%s/%d bytes/key=%s", local, tt.method, len(tt.body), tt.idem), func(t *testing.T) {
				var l log
				r := newRig(t, rigConfig{app: roomy, local: local, config: Config{Trace: l.trace()}})
				addr, served := cutter(t, "")
				r.host("m1", addr)
				var second atomic.Int32
				r.serve("m2", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					second.Add(1)
					io.Copy(io.Discard, r.Body)
					io.WriteString(w, "two")
				}))
				req := request(t, tt.method, r.front.URL, strings.NewReader(tt.body))
				if tt.body == "" {
					req = request(t, tt.method, r.front.URL, nil)
				}
				if tt.idem != "" {
					req.Header.Set("Idempotency-Key", tt.idem)
				}
				resp, body := fetch(t, r.front.Client(), req)
				if served.Load() != 1 {
					t.Errorf("m1 got it %d times", served.Load())
				}
				if tt.want != "" {
					if body != tt.want || second.Load() != 1 || l.String() != "m1 failed: reset" {
						t.Errorf("got %q, m2 %d times, %s", body, second.Load(), &l)
					}
				} else if resp.StatusCode != 502 || second.Load() != 0 || !strings.Contains(body, "maybe executed") {
					t.Errorf("got %d %q, m2 %d times; want 502 and no second execution", resp.StatusCode, body, second.Load())
				}
				r.quiet()
				d := l.last(t, 1)
				if tt.want == "" && (d.Err == nil || d.Outcome != balance.OutcomeError) {
					t.Errorf("done: %+v", d)
				}
			})
		}
	}
}

// A request that ends each machine that it comes to ends two of them and no more, however many
// there are; one that is not idempotent ends one.
func TestARequestThatEndsMachinesIsNotSentOnAndOn(t *testing.T) {
	for _, local := range []bool{false, true} {
		for method, most := range map[string]int32{"GET": 2, "POST": 1} {
			t.Run(fmt.Sprintf("local=%v/%s", local, method), func(t *testing.T) {
				var l log
				r := newRig(t, rigConfig{app: roomy, local: local, config: Config{Trace: l.trace()}})
				var all []*atomic.Int32
				for i := range 6 {
					addr, served := cutter(t, "")
					r.host(balance.MachineID(fmt.Sprint("m", i)), addr)
					all = append(all, served)
				}
				resp, _ := fetch(t, r.front.Client(), request(t, method, r.front.URL, nil))
				var ended int32
				for _, served := range all {
					ended += served.Load()
				}
				if resp.StatusCode != 502 || ended != most {
					t.Errorf("%d machines have ended, want %d; the client got %d", ended, most, resp.StatusCode)
				}
				r.quiet()
				if d := l.last(t, 1); d.Cause != causeMachine || d.Outcome != balance.OutcomeError ||
					int32(d.Tries) != most {
					t.Errorf("done: %+v", d)
				}
			})
		}
	}
}

func TestAnAnswerThatIsNoHTTP(t *testing.T) {
	for name, answer := range map[string]string{
		"garbage":      "SSH-2.0-OpenSSH_9.6\r\n",
		"endless head": "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 2<<20) + "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, rigConfig{app: roomy})
			addr, served := cutter(t, answer)
			r.host("m1", addr)
			r.serve("m2", says("two"))
			resp, body := fetch(t, r.front.Client(), request(t, "GET", r.front.URL, nil))
			if resp.StatusCode != 502 || !strings.Contains(body, "malformed") || served.Load() != 1 {
				t.Errorf("got %d %q, %d times", resp.StatusCode, body, served.Load())
			}
			r.quiet()
		})
	}
}

func TestAnAnswerThatBreaksOffIsNotTakenForWhole(t *testing.T) {
	for _, local := range []bool{false, true} {
		t.Run(fmt.Sprintf("local=%v", local), func(t *testing.T) {
			var l log
			r := newRig(t, rigConfig{app: roomy, local: local, config: Config{Trace: l.trace()}})
			r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Length", "100000")
				io.WriteString(w, strings.Repeat("half", 10<<10)) // more than a server holds back
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			}))
			r.serve("m2", says("two"))
			resp, err := r.front.Client().Do(request(t, "GET", r.front.URL, nil))
			if err == nil {
				_, err = io.ReadAll(resp.Body)
				resp.Body.Close()
			}
			if err == nil {
				t.Error("the client took half an answer for a whole one")
			}
			r.quiet()
			if d := l.last(t, 1); d.Outcome != balance.OutcomeError || d.Tries != 1 {
				t.Errorf("done: %+v", d)
			}
		})
	}
}

func TestAPooledConnectionThatDiedIsNoFailure(t *testing.T) {
	for _, local := range []bool{false, true} {
		t.Run(fmt.Sprintf("local=%v", local), func(t *testing.T) {
			var l log
			r := newRig(t, rigConfig{app: roomy, local: local, config: Config{Trace: l.trace()}})
			var conns []net.Conn
			var mu sync.Mutex
			s := &http.Server{Handler: says("one"), ConnState: func(c net.Conn, s http.ConnState) {
				if s == http.StateNew {
					mu.Lock()
					conns = append(conns, c)
					mu.Unlock()
				}
			}}
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			go s.Serve(ln)
			defer s.Close()
			r.host("m1", ln.Addr().String())
			for range 20 {
				_, body := fetch(t, r.front.Client(), request(t, "POST", r.front.URL, strings.NewReader("x")))
				if body != "one" {
					t.Fatalf("got %q", body)
				}
				pl := r.handler.machines
				if local {
					pl = r.transport.machines
				}
				// Close from the machine's side and wait until the pool can know.
				mu.Lock()
				for _, c := range conns {
					c.Close()
				}
				conns = nil
				mu.Unlock()
				pe := pl.Peer(pool.PeerName{App: "web", ID: "m1"})
				for alive := true; alive; {
					pe.Mu.Lock()
					alive = len(pe.Idle) > 0 && pe.Idle[0].Free()
					pe.Mu.Unlock()
				}
			}
			if l.String() != "" {
				t.Errorf("got %s, want nothing to retry", &l)
			}
			r.quiet()
		})
	}
}

func TestAClientThatLeavesFreesTheMachine(t *testing.T) {
	for _, local := range []bool{false, true} {
		t.Run(fmt.Sprintf("local=%v", local), func(t *testing.T) {
			var l log
			r := newRig(t, rigConfig{app: roomy, local: local, config: Config{Trace: l.trace()}})
			began, left := make(chan struct{}), make(chan struct{})
			r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/stream" {
					w.Write([]byte("first"))
					w.(http.Flusher).Flush()
				}
				close(began)
				<-r.Context().Done()
				close(left)
			}))
			for _, path := range []string{"/wait", "/stream"} {
				began, left = make(chan struct{}), make(chan struct{})
				ctx, cancel := context.WithCancel(t.Context())
				req, _ := http.NewRequestWithContext(ctx, "GET", r.front.URL+path, nil)
				go func() {
					<-began
					cancel()
				}()
				resp, err := r.front.Client().Do(req)
				if err == nil {
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
				<-left
				r.quiet()
			}
			if d := l.last(t, 2); d.Outcome != balance.OutcomeCanceled {
				t.Errorf("done: %+v", d)
			}
		})
	}
}

func TestABodyThatBreaksOffIsNotTheMachinesFault(t *testing.T) {
	t.Parallel()
	for _, local := range []bool{false, true} {
		for _, size := range []int{10, 1 << 20} {
			t.Run(fmt.Sprintf("local=%v/%d", local, size), func(t *testing.T) {
				var l log
				r := newRig(t, rigConfig{app: roomy, local: local, config: Config{Trace: l.trace()}})
				r.serve(
					"m1",
					http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }),
				)
				broken := errors.New("the disk is gone")
				req := request(
					t, "POST", "http://web/", io.MultiReader(strings.NewReader("half"), iotestErr{broken}),
				)
				req.ContentLength = int64(size)
				_, err := r.transport.RoundTrip(req)
				if !errors.Is(err, broken) {
					t.Errorf("got %v, want %v", err, broken)
				}
				r.quiet()
				tries := 1
				if size <= defaultReplay {
					tries = 0 // it is read before a machine is asked for
				}
				if d := l.last(t, 1); d.Outcome != balance.OutcomeCanceled || d.Tries != tries {
					t.Errorf("done: %+v", d)
				}
			})
		}
	}
}

type iotestErr struct{ err error }

func (e iotestErr) Read([]byte) (int, error) { return 0, e.err }

func TestAPanicReleasesWhatIsHeld(t *testing.T) {
	for name, c := range map[string]Config{
		"trace": {Trace: Trace{Event: func(Event) { panic("hook") }}},
		"dial":  {Dial: func(context.Context, balance.NodeID) (net.Conn, error) { panic("dial") }},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, rigConfig{app: roomy, config: c})
			r.serve("m1", says("one"))
			func() {
				defer func() {
					if recover() == nil {
						t.Error("no panic")
					}
				}()
				r.transport.RoundTrip(request(t, "POST", "http://web/", strings.NewReader("x")))
			}()
			r.quiet()
		})
	}
}
