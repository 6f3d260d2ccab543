package backhaul

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"runtime"
	"sync/atomic"
	"testing"
)

// both runs a test with a hop and without, over HTTP/1.1 and over HTTP/2.
func both(t *testing.T, f func(t *testing.T, local bool)) {
	for _, local := range []bool{false, true} {
		t.Run(fmt.Sprintf("local=%v", local), func(t *testing.T) { f(t, local) })
		t.Run(fmt.Sprintf("local=%v/h2", local), func(t *testing.T) { f(t, local) })
	}
}

// noise is a body that is never in memory.
type noise struct {
	n   int64
	at  int // in noises
	sum hash.Hash
}

// noises is what noise repeats: its length is no power of two, so that what is lost or doubled in whole buffers shows.
var noises = func() []byte {
	b, seed := make([]byte, 99_991), uint32(1)
	for i := range b {
		seed = seed*1664525 + 1013904223
		b[i] = byte(seed >> 24)
	}
	return b
}()

func (z *noise) Read(p []byte) (int, error) {
	if z.n == 0 {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), z.n)]
	for rest := p; len(rest) > 0; {
		n := copy(rest, noises[z.at:])
		rest, z.at = rest[n:], (z.at+n)%len(noises)
	}
	z.n -= int64(len(p))
	z.sum.Write(p)
	return len(p), nil
}

// A bounce costs an upload nothing: 100 MB arrive whole after one, and at no time are they in memory.
func TestALargeUploadSurvivesABounceInLittleMemory(t *testing.T) {
	const size = 100 << 20
	for _, known := range []bool{true, false} {
		t.Run(fmt.Sprintf("length known=%v", known), func(t *testing.T) {
			var l log
			var peak atomic.Uint64
			r := newRig(t, rigConfig{app: roomy, config: Config{Trace: l.trace()}})
			leave := fill(t, r.serve("m1", says("one")), 50)
			r.serve("m2", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				sum, n := sha256.New(), int64(0)
				for {
					m, err := io.CopyN(sum, r.Body, 10<<20)
					var s runtime.MemStats
					runtime.GC()
					runtime.ReadMemStats(&s)
					peak.Store(max(peak.Load(), s.HeapAlloc))
					if n += m; err != nil {
						break
					}
				}
				fmt.Fprintf(w, "%d %x", n, sum.Sum(nil))
			}))
			var before runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			body := &noise{n: size, sum: sha256.New()}
			req := request(t, "POST", r.front.URL, io.NopCloser(body))
			if known {
				req.ContentLength = size
			}
			_, got := fetch(t, r.front.Client(), req)
			if want := fmt.Sprintf("%d %x", size, body.sum.Sum(nil)); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			if want := "m1 bounced: full"; l.String() != want {
				t.Errorf("got %s, want %s", &l, want)
			}
			if grown := int64(peak.Load()) - int64(before.HeapAlloc); grown > size/10 {
				t.Errorf("the heap grew by %d bytes under an upload of %d", grown, size)
			}
			leave()
			r.quiet()
			if d := l.last(t, 1); d.Sent != size {
				t.Errorf("sent %d", d.Sent)
			}
		})
	}
}

// The client's body is not asked for before a machine has been found.
func TestABouncedBodyIsNotRead(t *testing.T) {
	r := newRig(t, rigConfig{app: roomy, config: Config{tuning: tuning{rounds: 1}}})
	leave := fill(t, r.serve("m1", says("one")), 50)
	body := &noise{n: 10 << 20, sum: sha256.New()}
	req := request(t, "POST", "http://web/", io.NopCloser(body))
	_, err := r.transport.RoundTrip(req)
	if _, ok := errors.AsType[*UnavailableError](err); !ok || body.n != 10<<20 {
		t.Errorf("got %v with %d bytes left of %d", err, body.n, 10<<20)
	}
	leave()
	r.quiet()
}

// The beginning of a body whose length is not known has gone to the first machine; the next gets it
// all the same.
func TestASlowBodyIsKeptOverABounce(t *testing.T) {
	var l log
	r := newRig(t, rigConfig{app: roomy, h2: true, config: Config{Trace: l.trace()}})
	bounced := make(chan struct{})
	r.transport.c.Trace.Event = on(EventBounce, func(Event) { close(bounced) })
	leave := fill(t, r.serve("m1", says("one")), 50)
	r.serve("m2", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }))
	pr, pw := io.Pipe()
	go func() {
		pw.Write([]byte("before, "))
		<-bounced // the first try's reader is blocked in the pipe now
		pw.Write([]byte("after"))
		pw.Close()
	}()
	req := request(t, "POST", r.front.URL, pr)
	if _, got := fetch(t, r.front.Client(), req); got != "before, after" {
		t.Errorf("got %q", got)
	}
	leave()
	r.quiet()
}

func TestAnAnswerBeforeTheEndOfTheBody(t *testing.T) {
	both(t, func(t *testing.T, local bool) {
		r := newRig(t, rigConfig{app: roomy, local: local})
		r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.NewResponseController(w).EnableFullDuplex()
			buf := make([]byte, 4)
			io.ReadFull(r.Body, buf)
			fmt.Fprintf(w, "%s:", buf)
			w.(http.Flusher).Flush()
			io.Copy(w, r.Body)
		}))
		pr, pw := io.Pipe()
		req := request(t, "POST", "http://web/", pr)
		go pw.Write([]byte("ping"))
		resp, err := r.transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 5)
		io.ReadFull(resp.Body, got)
		go func() {
			pw.Write([]byte("rest"))
			pw.Close()
		}()
		rest, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(got)+string(rest) != "ping:rest" {
			t.Errorf("got %q, %q", got, rest)
		}
		r.quiet()
	})
}
