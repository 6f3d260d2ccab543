package backhaul

import (
	"bytes"
	"context"
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
)

// A stream whose length nobody knows is sent at once as far as it is kept, survives a bounce, and both sides may speak in
// any order.
func TestAConversationSurvivesABounce(t *testing.T) {
	for _, first := range []string{"", "client speaks", strings.Repeat("x", 200<<10)} {
		t.Run(fmt.Sprint(len(first)), func(t *testing.T) {
			var l log
			r := newRig(t, rigConfig{app: roomy, h2: true, config: Config{Trace: l.trace()}})
			talk := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, "server speaks;")
				w.(http.Flusher).Flush()
				for buf := make([]byte, 4096); ; {
					n, err := r.Body.Read(buf)
					w.Write(buf[:n])
					w.(http.Flusher).Flush()
					if err != nil {
						break
					}
				}
				w.Header().Set(http.TrailerPrefix+"X-End", "yes")
			})
			full := r.serve("m1", talk)
			r.serve("m2", talk)
			if err := full.SetLimits(balance.Limits{Hard: 1}); err != nil {
				t.Fatal(err)
			}
			leave := fill(t, full, 1) // the edge does not know
			pr, pw := io.Pipe()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			req, _ := http.NewRequestWithContext(ctx, "POST", r.front.URL, pr)
			go io.WriteString(pw, first)
			resp, err := r.front.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, len("server speaks;")+len(first))
			if _, err := io.ReadFull(resp.Body, buf); err != nil || string(buf) != "server speaks;"+first {
				t.Fatalf("got %d bytes, %v", len(buf), err)
			}
			go func() { io.WriteString(pw, "and more"); pw.Close() }()
			rest, err := io.ReadAll(resp.Body)
			if err != nil || string(rest) != "and more" || resp.Trailer.Get("X-End") != "yes" {
				t.Errorf("got %q, %v, %v", rest, err, resp.Trailer)
			}
			if l.String() != "m1 bounced: full" {
				t.Errorf("log: %s", &l)
			}
			leave()
			r.quiet()
		})
	}
}

// A client's deadline and a client's leaving reach the machine, and free everything.
func TestAStreamThatIsCancelledIsFreed(t *testing.T) {
	both(t, func(t *testing.T, local bool) {
		r := newRig(t, rigConfig{app: roomy, local: local})
		left := make(chan struct{})
		r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			close(left)
		}))
		ctx, cancel := context.WithCancel(t.Context())
		req, _ := http.NewRequestWithContext(ctx, "GET", r.front.URL, nil)
		resp, err := r.front.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		<-left
		resp.Body.Close()
		r.quiet()
	})
}

// The peer's connection to a machine or owner that ends while it is idle is no failure.
func TestAnOwnerThatRestartsIsNoFailure(t *testing.T) {
	r := newRig(t, rigConfig{app: roomy, h2: true})
	var conns []net.Conn
	var mu sync.Mutex
	real := r.transport.c.Dial
	r.transport.c.Dial = func(ctx context.Context, o balance.NodeID) (net.Conn, error) {
		c, err := real(ctx, o)
		mu.Lock()
		conns = append(conns, c)
		mu.Unlock()
		return c, err
	}
	r.serve("m1", says("hello"))
	for range 10 {
		resp, body := fetch(t, r.front.Client(), request(t, "POST", r.front.URL, strings.NewReader("x")))
		if body != "hello" {
			t.Fatalf("%d %q", resp.StatusCode, body)
		}
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
	}
	r.quiet()
}

// Windows follow the path: new connections of another class take over, and what streams on the old ones ends there.
func TestConnectionsFollowThePath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rtt atomic.Int64
		rtt.Store(int64(time.Millisecond))
		var pressure atomic.Int64
		tr := pair2(t, Config{
			tuning: tuning{
				pressure: func() float64 { return float64(pressure.Load()) / 100 },
			}, RTT: func(balance.NodeID) (time.Duration, bool) { return time.Duration(rtt.Load()), true },
		}, ServerConfig{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "hello")
			w.(http.Flusher).Flush()
			if r.URL.Path == "/long" {
				<-r.Context().Done()
			}
		}), nil)
		class := func() string {
			resp, err := tr.RoundTrip(over2(request(t, "GET", "http://web/", nil)))
			read(t, resp, err)
			time.Sleep(2 * time.Second)
			resp, err = tr.RoundTrip(over2(request(t, "GET", "http://web/", nil)))
			read(t, resp, err)
			synctest.Wait()
			m := tr.owners.Mux(pool.PeerKey{Name: pool.OwnerName("worker"), Lane: hop.LaneInteractive})
			m.Mu.Lock()
			defer m.Mu.Unlock()
			var s []string
			for _, c := range m.Conns {
				s = append(s, fmt.Sprintf("%d/%d", hop.WindowOf(c.Class)>>10, c.Streams))
			}
			return strings.Join(s, " ")
		}
		if got := class(); got != "256/0" {
			t.Errorf("near: %s", got)
		}
		ctx, cancel := context.WithCancel(t.Context())
		resp, err := tr.RoundTrip(over2(request(t, "GET", "http://web/long", nil)).WithContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		rtt.Store(int64(100 * time.Millisecond))
		if got := class(); got != "8192/0" {
			t.Errorf("far: %s", got)
		}
		b := make([]byte, 5)
		if _, err := io.ReadFull(resp.Body, b); err != nil || !bytes.Equal(b, []byte("hello")) {
			t.Errorf("the stream on the old connection: %q, %v", b, err)
		}
		cancel()
		resp.Body.Close()
		pressure.Store(92)
		if got := class(); got != "2048/0" {
			t.Errorf("under pressure: %s", got)
		}
		pressure.Store(0)
		rtt.Store(int64(3 * time.Millisecond))
		if got := class(); got != "256/0" {
			t.Errorf("near again: %s", got)
		}
	})
}

// An owner asks an edge over HTTP/2 whether it is there, where the kernel does not know: who does
// not answer is gone.
func TestAnEdgeThatIsSilentIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newCluster(t, clusterConfig{handler: HandlerConfig{AnyNode: true}})
		c, err := k.hop.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		began := time.Now()
		go c.Write(append([]byte(hop.ClientPreface), frame(hop.FrameSettings, 0, 0)...))
		io.Copy(io.Discard, c)
		if took, want := time.Since(began), pool.UsualPings.After+pool.UsualPings.Wait; took < want ||
			took > want+time.Second {
			t.Errorf("given up after %v, want %v", took, want)
		}
	})
}
