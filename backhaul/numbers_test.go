package backhaul

import (
	"bufio"
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/delay"
)

// huge makes tests of sizes as large as promised; by default they are small enough to run beside others.
var huge = flag.Bool("huge", false, "run the tests of memory at full size: 1 GB bodies, 3000 upgraded connections, 1000 clients")

// memory returns the bytes of heap and stacks in use, after as many collections as it takes until nothing more goes: each halves
// the stacks that were once deep, and takes away one generation of what pools hold.
func memory() int64 {
	var m runtime.MemStats
	for last := uint64(math.MaxUint64); ; {
		runtime.GC()
		runtime.ReadMemStats(&m)
		now := m.HeapInuse + m.StackInuse
		if now >= last-last/100 {
			return int64(now)
		}
		last = now
	}
}

// Bodies of any size pass in little memory, up and down, over both protocols.
func TestLargeBodiesTakeLittleMemory(t *testing.T) {
	size := int64(64 << 20)
	if *huge {
		size = 1 << 30
	}
	for _, h2 := range []bool{false, true} {
		r := newRig(t, rigConfig{app: roomy, h2: h2})
		var before int64
		var grown int64
		look := func() {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			grown = max(grown, int64(m.HeapInuse)-before)
		}
		r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "GET" {
				io.Copy(w, &noise{n: size, sum: sha256.New()})
				return
			}
			sum := sha256.New()
			io.Copy(sum, r.Body)
			fmt.Fprintf(w, "%x", sum.Sum(nil))
		}))
		before = memory()
		z := &noise{n: size, sum: sha256.New()}
		_, got := fetch(t, r.front.Client(), request(t, "POST", r.front.URL, struct{ io.Reader }{z}))
		look()
		if want := fmt.Sprintf("%x", z.sum.Sum(nil)); got != want {
			t.Errorf("h2 %v: the upload's digest is %s, want %s", h2, got, want)
		}
		resp, err := r.front.Client().Do(request(t, "GET", r.front.URL, nil))
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		look()
		if n != size || err != nil {
			t.Errorf("h2 %v: %d bytes, %v", h2, n, err)
		}
		t.Logf("h2 %v: %d MiB each way, the heap grew by %d KiB", h2, size>>20, grown>>10)
		if grown > 32<<20 {
			t.Errorf("h2 %v: the heap grew by %d KiB", h2, grown>>10)
		}
		r.quiet()
	}
}

// Streams that nobody reads hold up no other, in both directions: the window of the connection is none.
func TestStalledStreamsStopNoOther(t *testing.T) {
	const stalled = 100
	r := newRig(t, rigConfig{app: balance.App{ID: "web", Limits: balance.Limits{Hard: 1000}}})
	stuck := make(chan struct{})
	body := make([]byte, 5<<20)
	r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/stuck": // reads a byte and no more
			io.ReadFull(r.Body, make([]byte, 1))
			select {
			case <-stuck:
			case <-r.Context().Done():
			}
		case "/down":
			w.Write(body)
		default:
			n, _ := io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, n)
		}
	}))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for i := range stalled {
		if i%2 == 0 {
			resp, err := r.transport.RoundTrip(over2(request(t, "GET", "http://web/down", nil).WithContext(ctx)))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close() // and is not read before
			continue
		}
		wg.Go(func() {
			req := over2(request(t, "POST", "http://web/stuck", &noise{n: 512 << 10, sum: sha256.New()}).WithContext(ctx))
			req.ContentLength = 512 << 10
			if resp, err := r.transport.RoundTrip(req); err == nil {
				resp.Body.Close()
			}
		})
	}
	resp, err := r.transport.RoundTrip(over2(request(t, "GET", "http://web/down", nil)))
	if got := read(t, resp, err); len(got) != len(body) {
		t.Errorf("got %d bytes", len(got))
	}
	up := over2(request(t, "POST", "http://web/up", &noise{n: 5 << 20, sum: sha256.New()}))
	up.ContentLength = 5 << 20
	resp, err = r.transport.RoundTrip(up)
	if got := read(t, resp, err); got != fmt.Sprint(5<<20) {
		t.Errorf("got %s", got)
	}
	cancel()
	close(stuck)
	wg.Wait()
}

// Idle upgraded connections: what both hops hold for each.
func TestIdleUpgradedConnectionsTakeLittleMemory(t *testing.T) {
	n, times, limit := 200, 3, int64(100e3)
	if *huge {
		n, times = 3000, 1 // of more, a process could not have three rounds open
	}
	r := newRig(t, rigConfig{app: balance.App{ID: "web", Limits: balance.Limits{Hard: 5000}}})
	l, err := net.Listen("tcp", "127.0.0.1:0") // a machine that holds nothing but the connection
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
			var b [4096]byte
			c.Read(b[:])
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			t.Cleanup(func() { c.Close() })
		}
	}()
	r.host("m1", l.Addr().String())
	open := func(addr string) {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReaderSize(c, 512), nil)
		if err != nil || resp.StatusCode != 101 {
			t.Fatal(resp, err)
		}
	}
	measure := func(addr string, n int) int64 {
		for range 20 { // so that pools and tables are there
			open(addr)
		}
		before := memory()
		for range n {
			open(addr)
		}
		return (memory() - before) / int64(n)
	}
	ends := measure(l.Addr().String(), 200) // what client and machine hold
	var seen []int64
	for range times {
		seen = append(seen, measure(r.front.Listener.Addr().String(), n)-ends)
	}
	slices.Sort(seen)
	each := seen[times/2]
	t.Logf("%d connections, %d KiB each, of %v bytes", n, each>>10, seen)
	// Few carry what many share, and what the tests before left behind: their figure is for people to
	// read.
	if each > limit && *huge && !raceEnabled {
		t.Errorf("%d bytes each, want at most %d", each, limit)
	}
}

// pacedConn carries 400 Mb/s in each direction.
type pacedConn struct {
	net.Conn
	in, out pace
}

type pace struct{ free time.Time }

func (p *pace) pass(n int) {
	now := time.Now()
	if p.free.Before(now) {
		p.free = now
	}
	p.free = p.free.Add(time.Duration(n) * time.Second / 50e6)
	if d := p.free.Sub(now); d > 2*time.Millisecond {
		<-time.After(d)
	}
}

func (c *pacedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.in.pass(n)
	return n, err
}

func (c *pacedConn) Write(p []byte) (int, error) {
	c.out.pass(len(p))
	return c.Conn.Write(p)
}

// BenchmarkFar measures one stream over a path of 100 ms and 400 Mb/s: 50 MB each way, over HTTP/1.1 and HTTP/2, as a ratio.
func BenchmarkFar(b *testing.B) {
	const size = 50 << 20
	links := delay.NewLinks()
	b.Cleanup(func() { links.Close() })
	links.Set("edge", "worker", 100*time.Millisecond)
	var r *rig
	config := Config{
		RTT: func(balance.NodeID) (time.Duration, bool) { return 100 * time.Millisecond, true },
		Dial: func(ctx context.Context, _ balance.NodeID) (net.Conn, error) {
			c, err := links.Dialer("edge", "worker")(ctx, "tcp", r.hop.Listener.Addr().String())
			if err != nil {
				return nil, err
			}
			return &pacedConn{Conn: c}, nil
		},
	}
	r = newRig(b, rigConfig{app: roomy, config: config})
	block := make([]byte, 256<<10)
	r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" {
			w.Header().Set("Content-Length", fmt.Sprint(size))
			for range size / len(block) {
				w.Write(block)
			}
			return
		}
		io.Copy(io.Discard, r.Body)
	}))
	run := func(method string, h2 bool) time.Duration {
		req, _ := http.NewRequest(method, "http://web/", nil)
		if method == "POST" {
			req.Body, req.ContentLength = io.NopCloser(io.LimitReader(endless{}, size)), size
		}
		if h2 {
			over2(req)
		}
		began := time.Now()
		resp, err := r.transport.RoundTrip(req)
		if err != nil {
			b.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		return time.Since(began)
	}
	for _, method := range []string{"GET", "POST"} {
		run(method, false)
		run(method, true)
		var ratios []float64
		for range max(3, min(b.N, 5)) {
			one, two := run(method, false), run(method, true)
			ratios = append(ratios, one.Seconds()/two.Seconds())
			b.Logf("%s: HTTP/1.1 %v, HTTP/2 %v", method, one, two)
		}
		slices.Sort(ratios)
		b.ReportMetric(ratios[len(ratios)/2], method+"-h2/h1")
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }
