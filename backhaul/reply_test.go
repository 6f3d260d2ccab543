package backhaul

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
)

// dial connects to a server for a test that speaks HTTP/1.1 by hand.
func dial(t *testing.T, addr string) (*net.TCPConn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn), bufio.NewReader(c)
}

// An app may answer while it reads, also over HTTP/1.1, and take a whole conversation's turns.
func TestBothWaysAtOnce(t *testing.T) {
	for _, local := range []bool{false, true} {
		r := newRig(t, rigConfig{app: roomy, local: local})
		r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(w)
			rc.EnableFullDuplex()
			for b := make([]byte, 64); ; {
				n, err := r.Body.Read(b)
				w.Write(b[:n])
				rc.Flush()
				if err != nil {
					return
				}
			}
		}))
		c, br := dial(t, r.front.Listener.Addr().String())
		for range 2 { // the connection can be used again
			fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
			var resp *http.Response
			for i := range 3 {
				fmt.Fprint(c, "5\r\nhello\r\n")
				var err error
				if i == 0 {
					if resp, err = http.ReadResponse(br, nil); err != nil {
						t.Fatalf("local %v: no answer to the first turn: %v", local, err)
					}
				}
				got := make([]byte, 5)
				if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != "hello" {
					t.Fatalf("local %v, turn %d: %q, %v", local, i, got, err)
				}
			}
			fmt.Fprint(c, "0\r\n\r\n")
			if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
				t.Fatalf("local %v: %q, %v at the end", local, rest, err)
			}
		}
		r.quiet()
	}
}

// early answers without reading the body, in the three ways in which an answer can end.
var early = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	http.NewResponseController(w).EnableFullDuplex() // else net/http itself reads a small body first
	switch r.URL.Path {
	case "/length":
		w.Header().Set("Content-Length", "8")
	case "/trailer":
		w.Header().Set("Trailer", "X-Sum")
		defer w.Header().Set("X-Sum", "7")
	}
	w.WriteHeader(http.StatusRequestEntityTooLarge)
	if r.URL.Path != "/none" {
		io.WriteString(w, "too much")
	}
})

// A client that sends all it has before it reads anything gets the answer that was given meanwhile.
func TestAnEarlyAnswerReachesAClientThatSendsOn(t *testing.T) {
	t.Parallel()
	for _, local := range []bool{false, true} {
		r := newRig(t, rigConfig{app: roomy, local: local})
		r.serve("m1", early)
		for _, path := range []string{"/none", "/length", "/chunks", "/trailer"} {
			for _, chunked := range []bool{false, true} {
				c, br := dial(t, r.front.Listener.Addr().String())
				head := "Content-Length: 100000000"
				body := strings.Repeat("x", 1<<20)
				if chunked {
					head = "Transfer-Encoding: chunked"
					body = fmt.Sprintf("%x\r\n%s\r\n", 1<<20, strings.Repeat("x", 1<<20))
				}
				fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: h\r\n%s\r\n\r\n", path, head)
				// Far more than buffers hold, and so that the proxy has long answered and gone when it comes.
				for sent := range 40 {
					if _, err := io.WriteString(c, body); err != nil {
						t.Fatalf("local %v, %s, chunked %v: after %d MiB: %v", local, path, chunked, sent, err)
					}
					if sent == 20 {
						if _, err := br.Peek(1); err != nil {
							t.Fatal(err)
						}
					}
				}
				resp, err := http.ReadResponse(br, nil)
				if err != nil {
					t.Fatalf("local %v, %s, chunked %v: %v", local, path, chunked, err)
				}
				got, err := io.ReadAll(resp.Body)
				want := "too much"
				if path == "/none" {
					want = ""
				}
				if err != nil || resp.StatusCode != http.StatusRequestEntityTooLarge || string(got) != want {
					t.Errorf("local %v, %s, chunked %v: %d %q, %v", local, path, chunked, resp.StatusCode, got, err)
				}
				if path == "/trailer" && resp.Trailer.Get("X-Sum") != "7" {
					t.Errorf("local %v, chunked %v: trailer %v", local, chunked, resp.Trailer)
				}
				if _, err := br.ReadByte(); err != io.EOF {
					t.Errorf("local %v, %s, chunked %v: after the answer: %v, want its end", local, path, chunked, err)
				}
				c.Close()
			}
		}
		r.quiet()
	}
}

// What is left of a body is never taken for the next request: neither at the front nor on the hop.
func TestTheRestOfABodyIsNoRequest(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigConfig{app: roomy})
	r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/smuggled" {
			t.Errorf("the machine got a request that was part of a body: %v", r.Header)
		}
		early(w, r)
	}))
	for name, door := range map[string]struct {
		connect func() (net.Conn, error)
		head    string
	}{
		"front": {func() (net.Conn, error) { return net.Dial("tcp", r.front.Listener.Addr().String()) }, ""},
		"hop": {func() (net.Conn, error) { return dialHop(t.Context(), r.hop.Listener.Addr().String(), testKey) },
			fmt.Sprintf("%s: %s\r\n", hop.HeaderTo, hop.AppendTo(nil, hop.To{App: "web", Machine: "m1"}))},
	} {
		request := "GET /smuggled HTTP/1.1\r\nHost: h\r\n" + door.head + "\r\n"
		for _, tt := range []struct{ name, head, body string }{
			{"chunked", "Transfer-Encoding: chunked", fmt.Sprintf("%x\r\n", 1<<20)},
			{"known", "Content-Length: 100000000", ""},
			{"malformed", "Transfer-Encoding: chunked", "zz\r\n"},
			{"malformed later", "Transfer-Encoding: chunked", fmt.Sprintf("%x\r\n%szz\r\n", 1<<20, strings.Repeat("x", 1<<20))},
		} {
			for _, path := range []string{"/none", "/length", "/chunks"} {
				c, err := door.connect()
				if err != nil {
					t.Fatal(err)
				}
				br := bufio.NewReader(c)
				go func() {
					fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: h\r\n%s%s\r\n\r\n%s", path, door.head, tt.head, tt.body)
					for range 20 { // at whatever byte somebody begins to read, a request or a mistake follows
						io.WriteString(c, strings.Repeat(request, 500)+"x\r\n\r\n")
					}
				}()
				for n := 0; ; n++ {
					resp, err := http.ReadResponse(br, nil)
					if err != nil {
						break
					}
					if n > 0 {
						t.Errorf("%s, %s, %s: another answer: %s", name, tt.name, path, resp.Status)
					}
					io.Copy(io.Discard, resp.Body)
				}
				c.Close()
			}
		}
	}
}

// A small rest is read, so that the connection serves further requests.
func TestASmallRestKeepsTheConnection(t *testing.T) {
	for _, local := range []bool{false, true} {
		r := newRig(t, rigConfig{app: roomy, local: local})
		r.serve("m1", early)
		c, br := dial(t, r.front.Listener.Addr().String())
		body := strings.Repeat("x", 200<<10)
		for i := range 4 {
			fmt.Fprintf(c, "POST /length HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			resp, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Fatalf("local %v, request %d: %v", local, i, err)
			}
			io.Copy(io.Discard, resp.Body)
		}
	}
}

// An answer after which the connection will end says so, for the client may have sent all of its
// body by then, and would send the next request.
func TestAnEarlyAnswerSaysThatItsConnectionEnds(t *testing.T) {
	t.Parallel()
	for _, local := range []bool{false, true} {
		r := newRig(t, rigConfig{app: roomy, local: local})
		r.serve("m1", early)
		for _, path := range []string{"/none", "/length", "/chunks", "/trailer"} {
			for head, ends := range map[string]bool{
				"Content-Length: 100000000\r\n\r\nx":       true,
				"Transfer-Encoding: chunked\r\n\r\n1\r\nx": true, // nobody knows what is to come
				"Content-Length: 1000\r\n\r\nx":            false,
				"Content-Length: 1\r\n\r\nx":               false,
			} {
				c, br := dial(t, r.front.Listener.Addr().String())
				fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: h\r\n%s", path, head)
				if !ends {
					io.WriteString(c, strings.Repeat("x", 999*strings.Count(head, "1000")))
				}
				resp, err := http.ReadResponse(br, nil)
				if err != nil {
					t.Fatalf("local %v, %s, %q: %v", local, path, head, err)
				}
				if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.Close != ends {
					t.Errorf("local %v, %s, %q: the answer says that its connection ends: %v, want %v; %v", local,
						path, head, resp.Close, ends, err)
				}
				c.Close()
			}
		}
		r.quiet()
	}
}

// A client that gets its answer and sends nothing more is not waited for: nor are its machine, and whoever shuts down.
func TestAnEarlyAnswerEndsAlthoughTheBodyDoesNot(t *testing.T) {
	t.Parallel()
	for _, local := range []bool{false, true} {
		r := newRig(t, rigConfig{app: roomy, local: local})
		r.serve("m1", early)
		for _, path := range []string{"/length", "/chunks", "/trailer"} {
			for _, head := range []string{"Content-Length: 100000000", "Transfer-Encoding: chunked", "Content-Length: 100000000\r\nExpect: 100-continue"} {
				c, br := dial(t, r.front.Listener.Addr().String())
				fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: h\r\n%s\r\n\r\n1\r\nx", path, head)
				resp, err := http.ReadResponse(br, nil)
				if err == nil && resp.StatusCode == http.StatusContinue {
					resp, err = http.ReadResponse(br, nil)
				}
				if err != nil {
					t.Fatalf("local %v, %s, %q: %v", local, path, head, err)
				}
				if got, err := io.ReadAll(resp.Body); err != nil || string(got) != "too much" {
					t.Errorf("local %v, %s, %q: %q, %v", local, path, head, got, err)
				}
				if _, err := br.ReadByte(); err != io.EOF {
					t.Errorf("local %v, %s, %q: after the answer: %v, want its end", local, path, head, err)
				}
			}
		}
		r.quiet()
	}
}

// Where only its end ends an answer, an answer that breaks off must not end well.
func TestAnAnswerThatBreaksOffIsResetOverHTTP10(t *testing.T) {
	for _, local := range []bool{false, true} {
		r := newRig(t, rigConfig{app: roomy, local: local})
		r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.NewResponseController(w).EnableFullDuplex()
			io.WriteString(w, "half of")
			http.NewResponseController(w).Flush()
			if r.URL.Path == "/cut" {
				c, _, _ := http.NewResponseController(w).Hijack()
				c.Close()
			}
		}))
		for _, tt := range []struct {
			request string
			whole   bool
		}{
			{"GET / HTTP/1.0\r\n\r\n", true},
			{"GET /cut HTTP/1.0\r\n\r\n", false},
			{"POST /cut HTTP/1.0\r\nContent-Length: 1\r\n\r\nx", false},
			{"POST /cut HTTP/1.0\r\nContent-Length: 100000000\r\n\r\nx", false},
			{"GET /cut HTTP/1.1\r\nHost: h\r\n\r\n", false},
			{"POST /cut HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n", false},
		} {
			c, br := dial(t, r.front.Listener.Addr().String())
			fmt.Fprint(c, tt.request)
			resp, err := http.ReadResponse(br, nil)
			if err == nil {
				_, err = io.ReadAll(resp.Body)
			}
			if (err == nil) != tt.whole {
				t.Errorf("local %v, %q: %v", local, tt.request, err)
			}
		}
	}
}

// A server of somebody else's may wrap the ResponseWriter so that it can neither be hijacked nor read from at once.
func TestAProxyBehindAPlainResponseWriter(t *testing.T) {
	r := newRig(t, rigConfig{app: roomy})
	r.serve("m1", early)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.front.Config.Handler.ServeHTTP(struct{ http.ResponseWriter }{w}, q)
	}))
	defer front.Close()
	resp, got := fetch(t, front.Client(), request(t, "POST", front.URL+"/chunks", strings.NewReader("a body")))
	if resp.StatusCode != http.StatusRequestEntityTooLarge || got != "too much" {
		t.Errorf("%d %q", resp.StatusCode, got)
	}
}

// An answer of a machine that breaks off breaks off at the edge at once, however much of the
// request's body is still to come: the edge sends that when its client does, and the client may
// wait for the answer.
func TestABrokenAnswerIsNotHeldByABody(t *testing.T) {
	for _, length := range []string{"Content-Length: 100000", "Transfer-Encoding: chunked"} {
		for _, expect := range []string{"Expect: 100-continue\r\n", ""} {
			synctest.Test(t, func(t *testing.T) {
				k := newCluster(
					t,
					clusterConfig{
						handler: HandlerConfig{AnyNode: true},
						machine: func(w http.ResponseWriter, r *http.Request) {
							http.NewResponseController(w).EnableFullDuplex()
							io.WriteString(w, "half of")
							http.NewResponseController(w).Flush()
							c, _, _ := http.NewResponseController(w).Hijack()
							c.Close()
						},
					},
				)
				c, err := k.hop.Dial(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				stop := time.AfterFunc(time.Minute, func() { c.Close() })
				defer stop.Stop()
				go func() {
					io.WriteString(c,
						"POST / HTTP/1.1\r\nHost: x\r\nEbb-To: web;m1;0;edge\r\n"+expect+length+"\r\n\r\n")
					io.WriteString(c, "1\r\nx\r\n") // the machine may be gone before the second
					io.WriteString(c, "1\r\ny\r\n")
				}()
				began := time.Now()
				got, err := io.ReadAll(c)
				if took := time.Since(began); took > time.Second || err != nil ||
					!bytes.Contains(got, []byte("half of")) ||
					bytes.HasSuffix(got, []byte("0\r\n\r\n")) {
					t.Errorf("%q, %q: after %v %q, %v", expect, length, took, got, err)
				}
			})
		}
	}
}
