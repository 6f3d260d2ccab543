package backhaul

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"slices"
	"strings"
	"testing"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/balance"
)

// ours returns the headers of the hop among h's, in order.
func ours(h map[string][]string) []string {
	var names []string
	for k := range h {
		if hop.IsInternal(k) {
			names = append(names, k)
		}
	}
	slices.Sort(names)
	return names
}

// Every part of a message is covered: heads, the 1xx answers before them and the trailers behind, announced or not.
func TestNothingOfTheHopPassesInAnyPartOfAMessage(t *testing.T) {
	both(t, func(t *testing.T, local bool) {
		r := newRig(
			t,
			rigConfig{
				app: roomy, local: local, config: Config{MachineConfig: MachineConfig{EpochHeader: "X-Epoch"}},
				handler: HandlerConfig{MachineConfig: MachineConfig{EpochHeader: "X-Epoch"}},
			},
		)
		r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			announced := slices.Sorted(maps.Keys(q.Trailer))
			io.Copy(io.Discard, q.Body)
			if got := append(ours(q.Header), ours(q.Trailer)...); len(got) > 0 {
				t.Errorf("the machine got %v", got)
			}
			for k, v := range q.Header {
				if hop.SameVariable(k, "X-Epoch") && (k != "X-Epoch" || fmt.Sprint(v) != "[1]") {
					t.Errorf("the machine got the client's epoch, %s: %v", k, v)
				}
			}
			if fmt.Sprint(announced) != "[X-Sum]" || q.Trailer.Get("X-Sum") != "42" {
				t.Errorf("the machine got the trailers %v, and heard of %v", q.Trailer, announced)
			}
			h := w.Header()
			dirty := func() {
				for _, k := range spelled {
					h[k] = []string{"full"}
				}
			}
			dirty()
			h.Set("Link", "</a>")
			w.WriteHeader(103)
			clear(h)
			dirty()
			h.Set("Trailer", "Ebb-Load, Ebb_Load, X-Sum")
			io.WriteString(w, "hello")
			h.Set("Ebb-Load", "1")
			h.Set("Ebb_Load", "1")
			h.Set("X-Sum", "43")
			h.Set(http.TrailerPrefix+"Ebb-Late", "1")
			h.Set(http.TrailerPrefix+"X-Late", "44")
		}))
		for _, size := range []int{0, 10, 200 << 10} {
			hints := 0
			ctx := httptrace.WithClientTrace(
				t.Context(),
				&httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
					if hints++; code != 103 || h.Get("Link") != "</a>" || len(ours(h)) > 0 {
						t.Errorf("the client got %d %v", code, h)
					}
					return nil
				}},
			)
			req := request(t, "POST", r.front.URL, nil).WithContext(ctx)
			trailer := http.Header{"X-Sum": nil, "Ebb-Rt": nil, "Ebb_Rt": nil}
			req.Trailer = trailer
			req.ContentLength = -1
			req.Body = io.NopCloser(&zeros{left: size, end: func() {
				for k := range trailer {
					trailer[k] = []string{"42"}
				}
			}})
			for _, k := range spelled {
				req.Header[k] = []string{"web;m2;0;edge"}
			}
			req.Header["X-Epoch"], req.Header["X_Epoch"], req.Header["x_epoch"] = []string{
				"7",
			}, []string{
				"7",
			}, []string{
				"7",
			}
			resp, body := fetch(t, r.front.Client(), req)
			if body != "hello" || hints != 1 {
				t.Errorf("%d bytes: got %d %q and %d hints", size, resp.StatusCode, body, hints)
			}
			if got := append(ours(resp.Header), ours(resp.Trailer)...); len(got) > 0 {
				t.Errorf("%d bytes: the client got %v", size, got)
			}
			if fmt.Sprint(resp.Trailer) != "map[X-Late:[44] X-Sum:[43]]" {
				t.Errorf("%d bytes: the client got the trailers %v", size, resp.Trailer)
			}
		}
		r.quiet()
	})
}

// zeros is a body of that many zeros; end is called before its end is told.
type zeros struct {
	left int
	end  func()
}

func (e *zeros) Read(p []byte) (int, error) {
	if e.left == 0 {
		e.end()
		return 0, io.EOF
	}
	n := min(len(p), e.left)
	e.left -= n
	return n, nil
}

// The trailers of a request come to the machine that serves it, whichever try that is.
func TestRequestTrailersPassWhereverTheRequestGoes(t *testing.T) {
	both(t, func(t *testing.T, local bool) {
		var l log
		r := newRig(
			t,
			rigConfig{
				app: balance.App{ID: "web", Limits: balance.Limits{Hard: 1}}, local: local,
				config: Config{Trace: l.trace()},
			},
		)
		app := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			n, _ := io.Copy(io.Discard, q.Body)
			fmt.Fprintf(w, "%d %v", n, q.Trailer)
		})
		full := r.serve("m1", app)
		r.serve("m2", app)
		for _, tt := range []struct {
			name   string
			size   int
			length int64
		}{
			{"a small body", 100, -1},
			{"more than is kept", 300 << 10, -1},
			{"no body", 0, -1},
			{"a length", 100, 100},
		} {
			leave := fill(t, full, 1) // an edge with a hop has not heard of it
			for range 4 {
				trailer := http.Header{"X-Sum": nil}
				req := request(
					t, "POST", r.front.URL, &zeros{left: tt.size, end: func() { trailer.Set("X-Sum", "42") }},
				)
				req.ContentLength, req.Trailer = tt.length, trailer
				client := r.front.Client()
				if tt.length >= 0 && !overHTTP2(t) { // over HTTP/1.1 no client can say both, but a caller
					req.URL.Host = "web"
					client = &http.Client{Transport: r.transport}
				}
				if resp, body := fetch(t, client, req); resp.StatusCode != 200 ||
					body != fmt.Sprintf("%d map[X-Sum:[42]]", tt.size) {
					t.Errorf("%s: %d %s", tt.name, resp.StatusCode, body)
				}
			}
			leave()
			r.sync()
			r.quiet()
		}
		if !local && !strings.Contains(l.String(), "full") {
			t.Error("no request was sent twice")
		}
	})
}

// Names that nobody announced are legal over HTTP/1.1. What frames or routes a message is no trailer.
func TestTrailersThatNobodyAnnounced(t *testing.T) {
	for _, local := range []bool{false, true} {
		r := newRig(t, rigConfig{app: roomy, local: local})
		r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			b, _ := io.ReadAll(q.Body)
			fmt.Fprint(w, string(b), q.Trailer)
		}))
		plain := httptest.NewServer(
			&httputil.ReverseProxy{Transport: r.transport, Rewrite: func(p *httputil.ProxyRequest) {
				Rewrite(p)
				p.Out.URL.Host = "web"
			}},
		)
		t.Cleanup(plain.Close)
		for _, tt := range []struct{ announced, sent, want string }{
			{"X-One", "X-One: 1\r\nX-Two: 2\r\nEbb-To: 3\r\nebb_to: 4\r\n", "map[X-One:[1] X-Two:[2]]"},
			{"X-One, Host", "X-One: 1\r\nHost: evil\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n", "map[X-One:[1]]"},
			{"X One, X-One, =", "X-One: 1\r\n", "map[X-One:[1]]"},
			{"X-One", "", "map[X-One:[]]"},
			{"", "X-Two: 2\r\nEbb-To: 3\r\n", "map[X-Two:[2]]"},
		} {
			announced := ""
			if tt.announced != "" {
				announced = "Trailer: " + tt.announced + "\r\n"
			}
			for _, front := range []*httptest.Server{r.front, plain} {
				c, err := net.Dial("tcp", front.Listener.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(c,
					"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%sTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n%s\r\n",
					announced, tt.sent)
				resp, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil {
					t.Fatal(err)
				}
				if body, _ := io.ReadAll(resp.Body); string(body) != "hello"+tt.want {
					t.Errorf("local %v, %q: got %d %q, want %s", local, tt.sent, resp.StatusCode, body, tt.want)
				}
				c.Close()
			}
		}
		r.quiet()
	}
}

// A client that asks to go on in another version of HTTP goes on in this one: the machine does not hear of it.
func TestNoUpgradeToAnotherVersionOfHTTP(t *testing.T) {
	for _, local := range []bool{false, true} {
		r := newRig(t, rigConfig{app: roomy, local: local})
		r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			for k := range q.Header {
				if strings.HasPrefix(strings.ToLower(k), "http2") {
					t.Errorf("the machine got %s", k)
				}
			}
			fmt.Fprint(w, q.Header["Connection"], q.Header["Upgrade"])
		}))
		for _, tt := range []struct{ upgrade, connection, want string }{
			{"h2c", "Upgrade, HTTP2-Settings", "[] []"},
			{"h2c", "Upgrade", "[] []"},
			{"H2C", "upgrade", "[] []"},
			{"HTTP/2.0", "Upgrade", "[] []"},
			{"h2c-16", "Upgrade", "[] []"},
			{"h2c, websocket", "Upgrade, HTTP2-Settings", "[Upgrade] [websocket]"},
			{"websocket, h2c", "Upgrade", "[Upgrade] [websocket]"},
			{"websocket", "Upgrade", "[Upgrade] [websocket]"},
			{"h2c", "close", "[] []"},
		} {
			c, err := net.Dial("tcp", r.front.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(
				c,
				"GET / HTTP/1.1\r\nHost: x\r\nConnection: %s\r\nUpgrade: %s\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
				tt.connection, tt.upgrade,
			)
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 || string(body) != tt.want {
				t.Errorf("local %v, %s: got %d %q, want %q", local, tt.upgrade, resp.StatusCode, body, tt.want)
			}
			c.Close()
		}
		// An owner does not rely on edges.
		c, err := dialHop(t.Context(), r.hop.Listener.Addr().String(), testKey)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.WriteString(
			c,
			"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nEbb-To: web;m1;0;edge\r\n\r\n",
		)
		direct, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, _ := io.ReadAll(direct.Body); string(body) != "[] []" {
			t.Errorf("local %v, at the owner: %q", local, body)
		}
		// The same where a caller of the Transport has removed nothing.
		req := request(t, "GET", "http://web/", nil)
		req.Header = http.Header{
			"Connection": {"Upgrade, HTTP2-Settings, X-Mine"}, "Upgrade": {"h2c"},
			"Http2-Settings": {"AAMAAABk"},
		}
		resp, err := r.transport.RoundTrip(req)
		if got := read(t, resp, err); strings.Contains(got, "Upgrade") || len(req.Header) != 3 {
			t.Errorf("local %v: the machine got %s of %v", local, got, req.Header)
		}
		r.quiet()
	}
}

// A machine does not choose what a connection becomes.
func TestASwitchThatNobodyAskedForIsNoAnswer(t *testing.T) {
	for _, local := range []bool{false, true} {
		for _, tt := range []struct{ asked, answered string }{
			{"", "h2c"},
			{"", "websocket"},
			{"", ""},
			{"h2c", "h2c"},
			{"websocket", "h2c"},
			{"websocket", ""},
			{"websocket, h2c", "h2c"},
		} {
			var l log
			r := newRig(t, rigConfig{app: roomy, local: local, config: Config{Trace: l.trace()}})
			answer := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
			if tt.answered != "" {
				answer += "Upgrade: " + tt.answered + "\r\n"
			}
			addr, _ := cutter(t, answer+"\r\nEVIL")
			r.host("m1", addr)
			req := request(t, "GET", "http://web/", nil)
			if tt.asked != "" {
				req.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {tt.asked}}
			}
			resp, err := r.transport.RoundTrip(req)
			if e, ok := err.(*MachineError); !ok || e.Failure != hop.FailureMalformed {
				t.Errorf(
					"local %v, asked for %q, switched to %q: %v, %v", local, tt.asked, tt.answered, resp, err,
				)
			}
			r.quiet()
		}
	}
}

// What a caller's context carries is there when the Transport connects, whatever it does to the trace.
func TestTheContextOfTheCallerReachesDial(t *testing.T) {
	type key struct{}
	r := newRig(t, rigConfig{app: roomy, local: true, config: Config{MachineConfig: MachineConfig{DialMachine: func(ctx context.Context, m balance.Machine) (net.Conn, error) {
		if ctx.Value(key{}) != "here" {
			t.Error("the caller's value is gone")
		}
		return dialMachine(ctx, m)
	}}}})
	r.serve("m1", says("hello"))
	ctx := httptrace.WithClientTrace(
		context.WithValue(t.Context(), key{}, "here"),
		&httptrace.ClientTrace{
			Got1xxResponse: func(int, textproto.MIMEHeader) error { return nil },
		},
	)
	resp, err := r.transport.RoundTrip(request(t, "GET", "http://web/", nil).WithContext(ctx))
	if got := read(t, resp, err); got != "hello" {
		t.Errorf("got %q", got)
	}
	r.quiet()
}

// What a Connection header names belongs to that connection, in both directions.
func TestWhatAConnectionNamesStaysThere(t *testing.T) {
	got := http.Header{}
	hop.CopyHeader(got, http.Header{
		"Connection": {
			"close, X-One", "x-two ,",
		}, "X-One": {"1"}, "X-Two": {"2"}, "X-Three": {"3"}, "Keep-Alive": {"4"},
	}, nil)
	if len(got) != 1 || got.Get("X-Three") != "3" {
		t.Errorf("passed on: %v", got)
	}
}
