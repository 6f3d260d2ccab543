package backhaul

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/auth"
	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/balance"
)

// An owner's server that is stopped while edges send it one request after the other on connections
// that they keep costs none, whether it gives them time to hear of it or not: each is executed
// once, and answered. Here another takes its place at once. For the figures: -restarts 20 -posts
// 100000.
func TestARestartOfAnOwnersServerCostsNoRequest(t *testing.T) {
	t.Parallel()
	for _, h2 := range []bool{false, true} {
		for _, grace := range []time.Duration{-1, 50 * time.Millisecond} {
			t.Run(fmt.Sprintf("h2=%v, grace=%v", h2, grace), func(t *testing.T) {
				var at atomic.Pointer[hopServer]
				var l log
				r := newRig(t, rigConfig{app: roomy, h2: h2, server: ServerConfig{Grace: grace}, config: Config{
					Trace: l.trace(),
					Dial: func(ctx context.Context, _ balance.NodeID) (net.Conn, error) {
						var d net.Dialer
						return d.DialContext(ctx, "tcp", at.Load().Listener.Addr().String())
					},
				}})
				at.Store(r.hop)
				var served, answered atomic.Int64
				r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					io.Copy(io.Discard, r.Body)
					served.Add(1)
					io.WriteString(w, "done")
				}))
				ctx, stop := context.WithCancel(t.Context())
				var edges sync.WaitGroup
				for i := range 16 {
					edges.Go(func() {
						for ctx.Err() == nil {
							req := request(t, "POST", "http://web/", strings.NewReader("hello"))
							if i%2 == 0 { // is not read ahead
								req = request(t, "POST", "http://web/", struct{ io.Reader }{strings.NewReader("hello")})
							}
							if h2 {
								over2(req)
							}
							resp, err := r.transport.RoundTrip(req)
							if err != nil {
								t.Errorf("lost: %v", err)
								return
							}
							if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "done" {
								t.Errorf("lost: %d %q, %v", resp.StatusCode, b, err)
							}
							resp.Body.Close()
							answered.Add(1)
						}
					})
				}
				for n := range *restarts {
					want := *posts / 4 * int64(n+1) / int64(*restarts+1)
					poll(func() bool { return answered.Load() >= want || t.Failed() })
					old := at.Swap(newHop(t, r.handler, ServerConfig{Grace: grace}))
					if err := old.server.Shutdown(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				poll(func() bool { return answered.Load() >= *posts/4 || t.Failed() })
				stop()
				edges.Wait()
				t.Logf("%d requests over %d restarts, %d answered", served.Load(), *restarts, answered.Load())
				if served.Load() != answered.Load() {
					t.Errorf("%d executed, %d answered", served.Load(), answered.Load())
				}
				r.quiet()
			})
		}
	}
}

// resting opens a connection of an edge, and has it at rest after n requests.
func resting(t *testing.T, r *rig, n int) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := dialHop(t.Context(), r.hop.Listener.Addr().String(), testKey)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	if err := auth.Announce(c); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(c)
	for range n {
		if resp := post(t, c, br); resp.StatusCode != http.StatusOK || resp.Close {
			t.Fatalf("got %d, closes %v", resp.StatusCode, resp.Close)
		}
	}
	return c, br
}

// post sends a request to machine m1 over a connection of an edge.
func post(t *testing.T, c net.Conn, br *bufio.Reader) *http.Response {
	t.Helper()
	fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\n%s: %s\r\nContent-Length: 0\r\n\r\n", hop.HeaderTo,
		hop.AppendTo(nil, hop.To{App: "web", Machine: "m1"}))
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	return resp
}

// While an owner's server drains, it serves on connections that were idle, and says that they end.
func TestADrainingServerSaysSo(t *testing.T) {
	r := newRig(t, rigConfig{app: roomy, server: ServerConfig{Grace: time.Hour}})
	r.serve("m1", says("hello"))
	c, br := resting(t, r, 1)
	drained := make(chan error, 1)
	go func() { drained <- r.hop.server.Drain(t.Context()) }()
	poll(r.hop.server.draining.Load)
	if resp := post(t, c, br); resp.StatusCode != http.StatusOK || !resp.Close {
		t.Errorf("got %d, closes %v", resp.StatusCode, resp.Close)
	}
	if err := <-drained; err != nil { // long before its Grace, as nobody is left
		t.Error(err)
	}
}

// A connection that an owner ends while it is at rest says so: a request that meets that is
// refused, and not executed. This is so for one that was never used, too, and for one that ends
// because it was idle for too long.
func TestARequestThatMeetsTheEndOfItsConnectionIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		config ServerConfig
		before int
	}{
		"shut down":         {ServerConfig{Grace: -1}, 1},
		"shut down, unused": {ServerConfig{Grace: -1}, 0},
		"idle":              {ServerConfig{idle: 50 * time.Millisecond}, 1},
		"idle, unused":      {ServerConfig{idle: 50 * time.Millisecond}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, rigConfig{app: roomy, server: c.config})
			var served atomic.Int64
			r.serve("m1", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served.Add(1) }))
			conn, br := resting(t, r, c.before)
			if c.config.Grace < 0 {
				go r.hop.server.Shutdown(t.Context())
			}
			br.Peek(1) // its last word is here, and the edge has not looked
			if resp := post(t, conn, br); resp.StatusCode != http.StatusRequestTimeout ||
				resp.Header.Get(hop.HeaderBounce) != balance.BounceClosing.String() ||
				!resp.Close {
				t.Errorf("got %d %v", resp.StatusCode, resp.Header)
			}
			if _, err := br.ReadByte(); err != io.EOF {
				t.Errorf("then %v, want the end", err)
			}
			if n := served.Load(); n != int64(c.before) {
				t.Errorf("%d requests were executed, want %d", n, c.before)
			}
		})
	}
}
