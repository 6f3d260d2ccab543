package backhaul

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"sync/atomic"
	"testing"
)

// What an app flushes, its head included, reaches the client before the app says more: also where it has announced how much
// it will say, as for a long poll.
func TestWhatAnAppFlushesGoesOutAtOnce(t *testing.T) {
	for _, length := range []string{"", "13"} {
		t.Run("Content-Length="+length, func(t *testing.T) {
			both(t, func(t *testing.T, local bool) {
				r := newRig(t, rigConfig{app: roomy, local: local})
				next := make(chan string)
				r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if length != "" {
						w.Header().Set("Content-Length", length)
					}
					w.WriteHeader(http.StatusOK)
					w.(http.Flusher).Flush()
					for s := range next {
						if s == "" {
							return
						}
						io.WriteString(w, s)
						w.(http.Flusher).Flush()
					}
				}))
				front := httptest.NewUnstartedServer(&httputil.ReverseProxy{
					FlushInterval: -1, Transport: r.transport,
					Rewrite: func(p *httputil.ProxyRequest) { p.Out.URL.Scheme, p.Out.URL.Host = "http", "web" },
				})
				h2c(front)
				front.Start()
				defer front.Close()
				for _, url := range []string{front.URL, r.front.URL} { // and a Proxy
					resp, err := r.front.Client().Get(url) // each step hangs where the one before is held back
					if err != nil {
						t.Fatal(err)
					}
					for _, s := range []string{"a", "long ", "poll\r\n", "."} {
						next <- s
						expect(t, "the client", resp.Body, s)
					}
					next <- ""
					if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
						t.Errorf("in the end: %q, %v", rest, err)
					}
					resp.Body.Close()
				}
				r.quiet()
			})
		})
	}
}

// writes counts what an owner writes to its edges, and how much.
type writes struct {
	net.Listener
	n, bytes atomic.Int64
}

func (l *writes) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return writing{c, l}, err
}

type writing struct {
	net.Conn
	l *writes
}

func (c writing) Write(p []byte) (int, error) {
	c.l.n.Add(1)
	c.l.bytes.Add(int64(len(p)))
	return c.Conn.Write(p)
}

// What comes in a row goes out in a row: a small answer is one write, head and body, and a large one is as many as buffers are
// filled, and not one for each piece that a fast machine hands over.
func TestWhatComesInARowGoesOutInARow(t *testing.T) {
	w := new(writes)
	r := newRig(t, rigConfig{app: roomy})
	var size, piece int
	r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(size))
		for n := 0; n < size; n += piece {
			io.WriteString(w, strings.Repeat("x", piece))
		}
	}))
	s := httptest.NewUnstartedServer(r.handler)
	w.Listener = s.Listener
	s.Listener = r.handler.Listener(w)
	s.Config.ConnContext = r.handler.ConnContext
	s.Start()
	defer s.Close()
	r.hop.Listener = s.Listener
	const rounds = 20
	for _, tt := range []struct {
		size, piece int
		most        int64 // writes for each answer
	}{
		{1 << 10, 1 << 10, 1},
		{1500, 500, 1},
		{1 << 20, 1 << 20, 1<<20/(2<<10) + 2},
	} {
		size, piece = tt.size, tt.piece
		get := func() {
			resp, err := r.transport.RoundTrip(request(t, "GET", "http://web/", nil))
			if got := read(t, resp, err); len(got) != size {
				t.Errorf("got %d bytes of %d", len(got), size)
			}
		}
		get() // connects
		before := w.n.Load()
		for range rounds {
			get()
		}
		n := w.n.Load() - before
		t.Logf("%d bytes in pieces of %d: %.1f writes each", tt.size, tt.piece, float64(n)/rounds)
		if n > rounds*tt.most*3/2 { // a connection that is made anew writes as well
			t.Errorf("%d bytes in pieces of %d: %d writes for %d answers, want about %d for each", tt.size, tt.piece, n, rounds, tt.most)
		}
	}
}
