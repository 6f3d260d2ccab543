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
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ebbkit/ebb/backhaul/internal/auth"
	"github.com/ebbkit/ebb/backhaul/internal/hop"
)

func TestEventsFlowAtOnce(t *testing.T) {
	both(t, func(t *testing.T, local bool) {
		r := newRig(t, rigConfig{app: roomy, local: local})
		next := make(chan string)
		r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			w.WriteHeader(200)
			w.(http.Flusher).Flush()
			for s := range next {
				fmt.Fprintf(w, "data: %s\n\n", s)
				w.(http.Flusher).Flush()
			}
		}))
		resp, err := r.front.Client().Do(request(t, "GET", r.front.URL, nil))
		if err != nil { // the head is here before any event
			t.Fatal(err)
		}
		br := bufio.NewReader(resp.Body)
		for i := range 3 {
			next <- fmt.Sprint(i)
			if line, err := br.ReadString('\n'); err != nil || line != fmt.Sprintf("data: %d\n", i) {
				t.Fatalf("got %q, %v", line, err)
			}
			br.ReadString('\n')
		}
		close(next)
		resp.Body.Close()
		r.quiet()
	})
}

func TestTrailersPass(t *testing.T) {
	both(t, func(t *testing.T, local bool) {
		r := newRig(t, rigConfig{app: roomy, local: local})
		r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.Header().Set("Trailer", "X-Sum")
			if r.URL.Path == "/body" {
				io.WriteString(w, "hello")
			}
			w.(http.Flusher).Flush()
			w.Header().Set("X-Sum", "42 "+r.Trailer.Get("X-Client"))
			if r.URL.Query().Has("more") {
				w.Header().Set(http.TrailerPrefix+"X-Late", "yes")
			}
		}))
		for _, url := range []string{"/body", "/empty", "/body?more", "/empty?more"} {
			req := request(t, "POST", "http://web"+url, io.NopCloser(strings.NewReader("chunked")))
			req.Trailer = http.Header{"X-Client": {"there"}}
			resp, err := r.transport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			io.ReadAll(resp.Body)
			resp.Body.Close()
			want := "map[X-Sum:[42 there]]"
			if strings.HasSuffix(url, "more") {
				want = "map[X-Late:[yes] X-Sum:[42 there]]"
			}
			if got := fmt.Sprint(resp.Trailer); got != want {
				t.Errorf("%s: got %s, want %s", url, got, want)
			}
			resp, _ = fetch(t, r.front.Client(), request(t, "GET", r.front.URL+url, nil))
			if got := strings.TrimSpace(resp.Trailer.Get("X-Sum")); got != "42" { // HTTP/2 keeps spaces
				t.Errorf("%s through ReverseProxy: got %v", url, resp.Trailer)
			}
		}
		r.quiet()
	})
}

func TestAnswersWithoutBodiesAndTheirHeaders(t *testing.T) {
	both(t, func(t *testing.T, local bool) {
		r := newRig(t, rigConfig{app: roomy, local: local})
		app := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h := w.Header()
			h["Content-Type"] = nil
			h["Date"] = []string{"then"}
			h.Add("Set-Cookie", "a=1")
			h.Add("Set-Cookie", "b=2")
			h.Set("X-Big", strings.Repeat("x", 100<<10))
			switch r.URL.Path {
			case "/204":
				w.WriteHeader(204)
			case "/304":
				h.Set("Etag", `"1"`)
				w.WriteHeader(304)
			case "/length":
				h.Set("Content-Length", "1234")
				h.Set("Content-Type", "text/plain")
				if r.Method != "HEAD" {
					w.Write(make([]byte, 1234))
				}
			case "/empty":
				h.Set("Content-Length", "0")
			}
		})
		r.serve("m1", app)
		for _, url := range []string{"/204", "/304", "/length", "/empty"} {
			for _, method := range []string{"GET", "HEAD"} {
				resp, body := fetch(t, r.front.Client(), request(t, method, r.front.URL+url, nil))
				want := ""
				if url == "/length" && method == "GET" {
					want = string(make([]byte, 1234))
				}
				h := resp.Header
				if body != want || h.Get("Date") != "then" || len(h["Set-Cookie"]) != 2 ||
					len(h.Get("X-Big")) != 100<<10 {
					t.Errorf("%s %s: %d %v, %d bytes", method, url, resp.StatusCode, h["Set-Cookie"], len(body))
				}
				if url == "/length" && resp.ContentLength != 1234 {
					t.Errorf("%s %s: length %d", method, url, resp.ContentLength)
				}
				if url == "/304" && h.Get("Etag") != `"1"` {
					t.Errorf("%s %s: %v", method, url, h)
				}
			}
		}
		r.quiet()
	})
}

func TestEarlyHintsPass(t *testing.T) {
	both(t, func(t *testing.T, local bool) {
		r := newRig(t, rigConfig{app: roomy, local: local})
		r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "</style.css>; rel=preload")
			w.Header().Set("Ebb-Load", "9 9 9 9")
			w.WriteHeader(103)
			w.Header().Del("Ebb-Load")
			b, _ := io.ReadAll(r.Body)
			w.Write(b)
		}))
		for _, size := range []int{0, 10, 200 << 10} {
			var hints []string
			req := request(t, "POST", r.front.URL, bytes.NewReader(make([]byte, size)))
			req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
				Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
					hints = append(hints, fmt.Sprint(code, h.Get("Link"), len(h)))
					return nil
				},
			}))
			_, body := fetch(t, r.front.Client(), req)
			want := "[103</style.css>; rel=preload1]" // one header: nothing of the hop
			if len(body) != size || fmt.Sprint(hints) != want {
				t.Errorf("%d bytes: got %d bytes, %v; want %v", size, len(body), hints, want)
			}
		}
		r.quiet()
	})
}

// spelled are ways to write a header of the hop.
var spelled = []string{
	"Ebb-To", "ebb-key", "EBB-LOAD", "Ebb-Bounce", "eBB-Fault", "Ebb-Anything", "Ebb_Load",
	"ebb_bounce", "EBB_FAULT",
}

func TestHeadersOfTheHopStayInside(t *testing.T) {
	both(t, func(t *testing.T, local bool) {
		var l log
		r := newRig(t, rigConfig{app: roomy, local: local, config: Config{Trace: l.trace()}})
		r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for k := range r.Header {
				if hop.IsInternal(k) {
					t.Errorf("the machine got %s", k)
				}
			}
			w.Header().Set("Ebb-Bounce", "full")
			w.Header().Set("Ebb-Fault", "reset;lies")
			w.Header().Set("Ebb-Load", "1 2 3 4 5 6 7 8")
			io.WriteString(w, "one")
		}))
		r.serve("m2", says("two"))
		req := request(t, "POST", "http://web/", strings.NewReader("x"))
		for _, k := range spelled {
			req.Header[k] = []string{"web;m2;0;edge"} // not canonical, as a RoundTripper's caller may write
		}
		resp, err := r.transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(body) != "one" || l.String() != "" {
			t.Errorf("got %q, %s", body, &l)
		}
		for k := range resp.Header {
			if hop.IsInternal(k) {
				t.Errorf("the client got %s", k)
			}
		}
		if len(req.Header) != len(spelled) {
			t.Errorf("the request was modified: %v", req.Header)
		}
		r.quiet()
	})
}

func TestAStrangerIsNotServed(t *testing.T) {
	var l log
	r := newRig(
		t,
		rigConfig{
			app: roomy, handler: HandlerConfig{Keys: []string{testKey, "next"}},
			config: Config{Keys: []string{"wrong"}, Trace: l.trace()},
		},
	)
	var served atomic.Int32
	g := r.serve("m1", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served.Add(1) }))
	if resp, _ := fetch(t, r.front.Client(), request(t, "GET", r.front.URL, nil)); resp.StatusCode != 503 {
		t.Errorf("through an edge: %d", resp.StatusCode)
	}
	_, err := r.transport.RoundTrip(request(t, "POST", "http://web/", strings.NewReader("x")))
	if e, ok := err.(*MachineError); !ok || e.Failure != hop.FailureDenied ||
		!strings.Contains(err.Error(), "denied (not executed)") ||
		!strings.Contains(err.Error(), "Config.Keys") ||
		e.Cause() != causeInternal {
		t.Errorf("through an edge: %v", err)
	}
	for _, tt := range []struct {
		key, to string
		want    int // 0: no connection
	}{
		{"", "web;m1;0;edge", 403},
		{"wrong", "web;m1;0;edge", 0},
		{testKey + "x", "web;m1;0;edge", 0},
		{testKey, "web;m1;0;edge", 200},
		{"next", "web;m1;0;edge", 200},
		{testKey, "", 400},
		{testKey, "web", 400},
		{testKey, "web;m1;-1;edge", 400},
		{testKey, "web;m9;0;edge", 503},
		{testKey, "app;m1;0;edge", 503},
	} {
		served.Store(0)
		req := request(t, "GET", r.hop.URL, nil)
		req.Header["Ebb-Key"] = []string{testKey} // a key in a request is nothing
		if tt.to != "" {
			req.Header[hop.HeaderTo] = []string{tt.to}
		}
		c := &http.Transport{
			DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return dialHop(ctx, addr, tt.key) },
		}
		got := 0
		resp, err := c.RoundTrip(req)
		if err == nil {
			got = resp.StatusCode
			resp.Body.Close()
		} else if !auth.Denied(err) {
			t.Errorf("%q %q: %v", tt.key, tt.to, err)
		}
		c.CloseIdleConnections()
		if got != tt.want || (served.Load() == 1) != (tt.want == 200) {
			t.Errorf("%q %q: got %d, served %d; want %d", tt.key, tt.to, got, served.Load(), tt.want)
		}
		if tt.want == 403 && resp.Header.Get(hop.HeaderLoad) != "" {
			t.Errorf("%q: a stranger learns the load", tt.key)
		}
	}
	if _, _, used := g.TakeSample(); !used {
		t.Error("nothing was admitted at all")
	}
	r.quiet()
}

func TestARequestHeadThatIsTooLarge(t *testing.T) {
	both(t, func(t *testing.T, local bool) {
		r := newRig(t, rigConfig{app: roomy, local: local})
		r.serve("m1", says("one"))
		req := request(t, "GET", "http://web/", nil)
		req.Header.Set("X-Big", strings.Repeat("x", 2<<20))
		resp, err := r.transport.RoundTrip(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode != 431 {
				t.Errorf("got %d", resp.StatusCode)
			}
		} else if _, ok := errors.AsType[*MachineError](err); !ok {
			t.Errorf("got %v", err) // the server hung up while we were still writing
		}
		r.quiet()
	})
}
