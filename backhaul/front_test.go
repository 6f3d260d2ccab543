package backhaul

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/internal/nettest"
)

var (
	restarts = flag.Int("restarts", 3, "how often TestARestartCostsNoRequest restarts its server")
	posts    = flag.Int64("posts", 1000, "how many requests TestARestartCostsNoRequest sends at least")
)

// starved is how long a client may take from its connection to its request where all the clients
// share a machine that is too small for them.
const starved = 2 * time.Second

// serveFront serves h at addr, which may be ":0".
func serveFront(t *testing.T, addr string, h http.Handler,
	c FrontConfig) (*Front, string, <-chan error) {
	t.Helper()
	f, err := NewFront(h, c)
	if err != nil {
		t.Fatal(err)
	}
	l, err := Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- f.Serve(l) }()
	t.Cleanup(func() { f.Close() })
	return f, l.Addr().String(), done
}

// visited serves h without sockets, as a bubble needs it, and returns the front and a connection of
// a client.
func visited(t *testing.T, h http.Handler, c FrontConfig) (*Front, net.Conn) {
	t.Helper()
	f, err := NewFront(h, c)
	if err != nil {
		t.Fatal(err)
	}
	l := nettest.NewPipes()
	go f.Serve(l)
	client, err := l.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return f, client
}

// Clients that keep their connections alive and send one request after the other lose none when the
// server is stopped, and another takes its address. For the figures: -restarts 20 -posts 100000.
func TestARestartCostsNoRequest(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere connections that wait to be accepted are reset when the listener closes")
	}
	var served atomic.Int64
	r := newRig(t, rigConfig{app: roomy, local: true})
	r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		served.Add(1)
		io.WriteString(w, "done")
	}))
	config := FrontConfig{Grace: 200 * time.Millisecond}
	f, addr, done := serveFront(t, "127.0.0.1:0", r.front.Config.Handler, config)
	f.arriving = starved
	var answered, lost, closes atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for range 16 {
		clients.Go(func() {
			for ctx.Err() == nil {
				c, err := net.Dial("tcp", addr)
				if errors.Is(err, syscall.ECONNREFUSED) {
					runtime.Gosched() // nobody has it now
					continue
				} else if err != nil {
					t.Error(err)
					return
				}
				br := bufio.NewReader(c)
				for ctx.Err() == nil {
					io.WriteString(c, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello")
					resp, err := http.ReadResponse(br, nil)
					if err == nil {
						_, err = io.Copy(io.Discard, resp.Body)
					}
					if err != nil || resp.StatusCode != 200 {
						lost.Add(1)
						break
					}
					answered.Add(1)
					if resp.Close {
						closes.Add(1)
						break
					}
				}
				c.Close()
			}
		})
	}
	for n := range *restarts {
		want := *posts * int64(n+1) / int64(*restarts+1)
		poll(func() bool { return answered.Load() >= want })
		if err := f.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != http.ErrServerClosed {
			t.Fatal(err)
		}
		f, _, done = serveFront(t, addr, r.front.Config.Handler, config)
		f.arriving = starved
	}
	poll(func() bool { return answered.Load() >= *posts })
	stop()
	clients.Wait()
	t.Logf("%d requests over %d restarts, %d lost, %d connections told to end", answered.Load(),
		*restarts, lost.Load(), closes.Load())
	if lost.Load() > 0 || closes.Load() == 0 {
		t.Errorf("%d of %d requests were lost", lost.Load(), answered.Load())
	}
}

// While a front drains it serves: what comes on connections that were idle, and on new ones. Each
// answer says that its connection ends, late ones as well; upgrades go on.
func TestADrainingFrontSaysSo(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	f, addr, done := serveFront(
		t, "127.0.0.1:0",
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/slow":
				close(entered)
				<-leave
			case "/hints":
				w.WriteHeader(http.StatusEarlyHints)
			case "/nothing":
				return
			}
			io.WriteString(w, "hello")
		}),
		FrontConfig{Grace: time.Hour},
	)
	ask := func(c net.Conn, br *bufio.Reader, path string) *http.Response {
		t.Helper()
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: h\r\n\r\n", path)
		resp, err := http.ReadResponse(br, nil)
		if err == nil && resp.StatusCode == http.StatusEarlyHints {
			resp, err = http.ReadResponse(br, nil)
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		io.Copy(io.Discard, resp.Body)
		return resp
	}
	slow, slowBuf := dial(t, addr)
	idle, idleBuf := dial(t, addr)
	if ask(idle, idleBuf, "/").Close {
		t.Fatal("a connection ends before anybody said so")
	}
	fmt.Fprint(slow, "GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
	<-entered
	drained := make(chan error, 1)
	go func() { drained <- f.Drain(t.Context()) }()
	poll(f.draining.Load)
	if !ask(idle, idleBuf, "/").Close {
		t.Error("a connection that was idle is not told to end")
	}
	for _, path := range []string{"/", "/hints", "/nothing"} {
		c, br := dial(t, addr)
		if !ask(c, br, path).Close {
			t.Errorf("%s: a new connection is not told to end", path)
		}
	}
	close(leave)
	if resp, err := http.ReadResponse(slowBuf, nil); err != nil || !resp.Close {
		t.Errorf("an answer that was begun before: %v, %v", resp, err)
	}
	if err := <-drained; err != nil { // long before its Grace, as nobody is left
		t.Error(err)
	}
	if err := <-done; err != http.ErrServerClosed {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after that: %v", err)
	}
	if err := f.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// Clients may speak HTTP/2 without TLS, and are told with a GOAWAY that their connection ends.
func TestAFrontSpeaksHTTP2(t *testing.T) {
	r := newRig(t, rigConfig{app: roomy})
	r.serve("m1", says("hello"))
	f, addr, _ := serveFront(t, "127.0.0.1:0", r.front.Config.Handler, FrontConfig{Grace: time.Hour})
	only := new(http.Protocols)
	only.SetUnencryptedHTTP2(true)
	var dials atomic.Int64
	client := &http.Client{
		Transport: &http.Transport{
			Protocols: only,
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				dials.Add(1)
				var d net.Dialer
				return d.DialContext(ctx, network, addr)
			},
		},
	}
	defer client.CloseIdleConnections()
	for i := range 4 {
		if i == 2 {
			go f.Drain(t.Context())
			poll(f.draining.Load)
		}
		resp, body := fetch(t, client, request(t, "POST", "http://"+addr, bytes.NewReader([]byte("x"))))
		if resp.ProtoMajor != 2 || body != "hello" {
			t.Fatalf("%s %q", resp.Proto, body)
		}
	}
	if n := dials.Load(); n < 2 {
		t.Errorf("%d connections: the first was not told to end", n)
	}
}

// A Drain that is told to hurry does.
func TestADrainEndsWithItsContext(t *testing.T) {
	f, addr, done := serveFront(t, "127.0.0.1:0", says("hello"), FrontConfig{Grace: time.Hour})
	dial(t, addr)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Drain(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := <-done; err != http.ErrServerClosed {
		t.Error(err)
	}
}

// Shutdown returns when the last request has its answer.
func TestAFrontIsShutDownWhenAllIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, c := visited(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			time.Sleep(time.Minute)
		}), FrontConfig{Grace: -1})
		defer c.Close()
		go io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		go io.Copy(io.Discard, c)
		synctest.Wait()
		began := time.Now()
		short, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := f.Shutdown(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with a request in flight: %v", err)
		}
		if err := f.Shutdown(t.Context()); err != nil || time.Since(began) < time.Minute {
			t.Errorf("returned after %v: %v", time.Since(began), err)
		}
	})
}

// What clients do not say is not waited for, by default as well: neither the rest of a head nor the
// next request.
func TestAFrontsConnectionsEnd(t *testing.T) {
	for said, want := range map[string]time.Duration{
		"GET / HT": 10 * time.Second, "GET / HTTP/1.1\r\nHost: h\r\n\r\n": 2 * time.Minute,
	} {
		synctest.Test(t, func(t *testing.T) {
			f, c := visited(t, says("hello"), FrontConfig{})
			defer f.Close()
			defer c.Close()
			began := time.Now()
			go io.WriteString(c, said)
			if _, err := io.Copy(io.Discard, c); err != nil || time.Since(began) != want {
				t.Errorf("%q: %v after %v, want an end after %v", said, err, time.Since(began), want)
			}
		})
	}
}

// A socket that somebody else has as well takes connections after a drain, for him.
func TestADrainLeavesASharedSocketAsItWas(t *testing.T) {
	f, addr, done := serveFront(t, "127.0.0.1:0", says("hello"), FrontConfig{Grace: -1})
	poll(func() bool { f.mu.Lock(); defer f.mu.Unlock(); return len(f.listeners) == 1 })
	var other net.Listener
	for l := range f.listeners {
		file, err := l.(*exclusive).File()
		if err != nil {
			t.Skip(err)
		}
		defer file.Close()
		if other, err = net.FileListener(file); err != nil {
			t.Skip(err)
		}
		defer other.Close()
	}
	if err := f.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-done
	if n := len(f.listeners); n != 0 {
		t.Errorf("%d listeners are remembered", n)
	}
	c, err := (&net.Dialer{Timeout: 10 * time.Second}).Dial("tcp", addr)
	if err != nil {
		t.Fatalf("the other one gets no connection: %v", err)
	}
	c.Close()
}

// A front does not guess a Content-Type of what a Proxy answers, and serves what a handler between
// them has made of the request.
func TestAProxyBehindAFront(t *testing.T) {
	r := newRig(t, rigConfig{app: roomy})
	r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header()["Content-Type"] = nil
		io.WriteString(w, q.URL.Path)
	}))
	proxy := r.front.Config.Handler
	for want, h := range map[string]http.Handler{"/api/x": proxy, "/x": http.StripPrefix("/api", proxy)} {
		_, addr, _ := serveFront(t, "127.0.0.1:0", h, FrontConfig{})
		for _, body := range []string{"", "a body"} {
			resp, got := exchangeRaw(t, addr,
				fmt.Sprintf("POST /api/x HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
			if guessed, ok := resp.Header["Content-Type"]; ok || got != want {
				t.Errorf("the app got %s, want %s; Content-Type %q", got, want, guessed)
			}
		}
	}
}

// A client that has connected when a front ends its drain, and whose request is on its way, gets
// its answer.
func TestADrainWaitsForRequestsOnTheirWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, c := visited(t, says("hello"), FrontConfig{Grace: -1})
		defer c.Close()
		synctest.Wait()
		time.AfterFunc(arriving/2+drainLook/2,
			func() { io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\n\r\n") })
		go func() {
			f.Drain(t.Context())
			f.Close()
		}()
		if got, err := io.ReadAll(c); err != nil || !bytes.HasSuffix(got, []byte("hello")) {
			t.Errorf("the client got %q, %v", got, err)
		}
	})
}

// A drain waits neither for a connection that was upgraded, nor twice for one that was not.
func TestWhatADrainWaitsFor(t *testing.T) {
	for _, upgraded := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			f, c := visited(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if upgraded {
					c, _, err := http.NewResponseController(w).Hijack()
					if err != nil {
						t.Error(err)
						return
					}
					io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
				}
			}), FrontConfig{Grace: time.Minute})
			defer c.Close()
			go io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
			if _, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			want := time.Minute // the client does nothing
			if upgraded {
				want = 0
			}
			for range 2 {
				began := time.Now()
				if err := f.Drain(t.Context()); err != nil || time.Since(began) != want {
					t.Errorf("upgraded %v: %v after %v, want %v", upgraded, err, time.Since(began), want)
				}
				want = 0
			}
			f.Close()
		})
	}
}

// Clients may speak HTTP/2 with TLS as well.
func TestAFrontWithTLSSpeaksHTTP2(t *testing.T) {
	certs := httptest.NewTLSServer(nil)
	defer certs.Close()
	_, addr, _ := serveFront(t, "127.0.0.1:0", says("hello"),
		FrontConfig{TLS: &tls.Config{Certificates: certs.TLS.Certificates}})
	both := new(http.Protocols)
	both.SetHTTP1(true)
	both.SetHTTP2(true)
	client := &http.Client{
		Transport: &http.Transport{
			Protocols: both, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		},
	}
	defer client.CloseIdleConnections()
	if resp, body := fetch(t, client, request(t, "GET", "https://"+addr, nil)); resp.ProtoMajor != 2 ||
		body != "hello" {
		t.Errorf("%s %q", resp.Proto, body)
	}
}

// After its drain a front takes no listener any more, and closes one that it is given. One that has
// failed it forgets.
func TestAFrontThatIsDrainedServesNoMore(t *testing.T) {
	f, err := NewFront(says("hello"), FrontConfig{})
	if err != nil {
		t.Fatal(err)
	}
	failed := nettest.NewPipes()
	failed.Close()
	if err := f.Serve(failed); !errors.Is(err, net.ErrClosed) || len(f.listeners) != 0 {
		t.Errorf("a listener that fails: %v, %d are remembered", err, len(f.listeners))
	}
	if err := f.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	l := nettest.NewPipes()
	if err := f.Serve(l); err != http.ErrServerClosed {
		t.Errorf("Serve returns %v", err)
	}
	if c, err := l.Accept(); err == nil {
		t.Errorf("its listener is open, and has %v", c)
	}
}

func TestFrontConfig(t *testing.T) {
	for field, c := range map[string]FrontConfig{
		"IdleTimeout": {IdleTimeout: -1},
	} {
		if _, err := NewFront(says(""), c); err == nil ||
			!strings.Contains(err.Error(), "FrontConfig."+field+" -1") {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, err := NewFront(nil, FrontConfig{}); err == nil {
		t.Error("a front of nothing")
	}
}

// poll looks until there is what it looks for, where no event tells.
func poll(there func() bool) {
	t := time.NewTicker(time.Millisecond)
	defer t.Stop()
	for !there() {
		<-t.C
	}
}
