package backhaul

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ebbkit/ebb/balance"
)

// Once a machine has answered, its answer is the one that the client gets, however short it turns out to be: the request
// runs once, also where it might be sent again, and no other machine is blamed.
func TestAShortAnswerIsAnAnswer(t *testing.T) {
	for _, tt := range []struct {
		name            string
		announced, sent int
	}{
		{"nothing of a body", 84, 0},
		{"half of a small body", 84, 42},
		{"all but a byte", 84, 83},
		{"more than a buffer holds", 100 << 10, 5 << 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			both(t, func(t *testing.T, local bool) {
				var l log
				r := newRig(t, rigConfig{app: roomy, local: local, config: Config{Trace: l.trace()}})
				var runs atomic.Int64
				for n := range 4 {
					r.serve(
						balance.MachineID(fmt.Sprint("m", n)),
						http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
							io.Copy(io.Discard, r.Body)
							runs.Add(1)
							w.Header().Set("Content-Length", fmt.Sprint(tt.announced))
							w.WriteHeader(http.StatusCreated)
							io.WriteString(w, strings.Repeat("x", tt.sent))
							w.(http.Flusher).Flush()
							panic(http.ErrAbortHandler)
						}),
					)
				}
				req := request(t, "POST", "http://web/pay", strings.NewReader("order"))
				if overHTTP2(t) {
					over2(req)
				}
				req.Header.Set("Idempotency-Key", "1")
				resp, err := r.transport.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != http.StatusCreated || len(got) != tt.sent || err == nil {
					t.Errorf(
						"got %d, %d bytes, %v; want 201, the %d bytes that were sent, and an error", resp.StatusCode,
						len(got), err, tt.sent,
					)
				}
				if n := runs.Load(); n != 1 || l.String() != "" {
					t.Errorf("executed %d times, log %q; want once and nothing tried again", n, &l)
				}
				r.quiet()
				if d := l.last(t, 1); d.Outcome != balance.OutcomeError || d.Status != http.StatusCreated ||
					d.failures != 0 {
					t.Errorf("done: %+v", d)
				}
			})
		})
	}
}

// The reverse proxy of the standard library promises this of a short answer (golang/go#16659, golang/go#23643): the client
// does not get a whole one, the log has the read error, and the handler ends in http.ErrAbortHandler.
func TestAReverseProxyBreaksOffAShortAnswer(t *testing.T) {
	both(t, func(t *testing.T, local bool) {
		r := newRig(t, rigConfig{app: roomy, local: local})
		r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			const out = "this call was relayed by the reverse proxy"
			w.Header().Set("Content-Length", fmt.Sprint(2*len(out)))
			fmt.Fprintln(w, out)
		}))
		var said bytes.Buffer
		proxy := &httputil.ReverseProxy{
			Rewrite:   func(p *httputil.ProxyRequest) { p.Out.URL.Scheme, p.Out.URL.Host = "http", "web" },
			Transport: r.transport,
			ErrorLog:  stdlog.New(&said, "", 0),
		}
		ended := make(chan any, 1)
		front := httptest.NewUnstartedServer(
			http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				defer func() {
					p := recover()
					ended <- p
					panic(p)
				}()
				proxy.ServeHTTP(w, q)
			}),
		)
		front.Config.ErrorLog = quietLog
		h2c(front)
		front.Start()
		defer front.Close()
		resp, err := r.front.Client().Get(front.URL)
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		if err == nil {
			t.Error("the client took a short answer for a whole one")
		}
		if p := <-ended; p != http.ErrAbortHandler {
			t.Errorf("the handler ended in %v", p)
		}
		if s := said.String(); !strings.Contains(s, "read error") {
			t.Errorf("the log says %q", s)
		}
	})
}

// An answer without a length that breaks off breaks off at the client: to end it well would pass a part for the whole.
func TestAChunkedAnswerThatBreaksOffDoesNotEndWell(t *testing.T) {
	hush(t)
	const chunk = "5\r\npart\n\r\n"
	head := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	for name, answer := range map[string]string{
		"before the first chunk":  head,
		"between two chunks":      head + chunk + chunk,
		"in a chunk":              head + chunk + "5\r\npa",
		"in a chunk's head":       head + chunk + "5",
		"before the last newline": head + chunk + "0\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			for _, local := range []bool{false, true} {
				r := newRig(t, rigConfig{app: roomy, local: local})
				r.host("m1", cutOff(t, answer))
				endsBadly(t, r)
			}
		})
	}
	t.Run("by the handler", func(t *testing.T) {
		both(t, func(t *testing.T, local bool) {
			r := newRig(t, rigConfig{app: roomy, local: local})
			r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				for range 3 {
					io.WriteString(w, "part\n")
					w.(http.Flusher).Flush()
				}
				panic(http.ErrAbortHandler)
			}))
			endsBadly(t, r)
		})
	})
}

func endsBadly(t *testing.T, r *rig) {
	t.Helper()
	resp, err := r.front.Client().Get(r.front.URL)
	if err != nil {
		if !errors.Is(err, io.EOF) { // HTTP/1.1: the front may drop a head that nothing followed
			t.Error(err)
		}
		return
	}
	b, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err == nil {
		t.Errorf("an answer that broke off ended well: %d %q", resp.StatusCode, b)
	}
	r.quiet()
}

// cutOff is a machine that writes a part of an answer and hangs up.
func cutOff(t *testing.T, answer string) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Read(make([]byte, 4096)) // the request, which is small
			io.WriteString(c, answer)
			c.Close()
		}
	}()
	return l.Addr().String()
}
