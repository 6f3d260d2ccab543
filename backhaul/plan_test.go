package backhaul

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/nettest"
	"pgregory.net/rapid"
)

// cutConn is a connection that dies after so many bytes in a direction; negative means never.
type cutConn struct {
	net.Conn
	mu            sync.Mutex
	toWrite, read int
}

func (c *cutConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	n := c.toWrite
	if n >= 0 {
		c.toWrite = max(0, n-len(p))
	}
	c.mu.Unlock()
	if n < 0 || len(p) <= n {
		return c.Conn.Write(p)
	}
	m, _ := c.Conn.Write(p[:n])
	c.Close()
	return m, io.ErrClosedPipe
}

func (c *cutConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	limit := c.read
	c.mu.Unlock()
	if limit == 0 {
		c.Close()
		return 0, io.ErrClosedPipe
	}
	if limit > 0 {
		p = p[:min(len(p), limit)]
	}
	n, err := c.Conn.Read(p)
	if limit > 0 {
		c.mu.Lock()
		c.read -= n
		c.mu.Unlock()
	}
	return n, err
}

// plan says what goes wrong: each queue is used up from the front, and then nothing goes wrong any more.
type plan struct {
	mu       sync.Mutex
	hops     []hopFault
	machines []string
	executed map[string]int // by request: how often a machine had all of it
}

type hopFault struct{ dial, write, read int } // dial 1: refused

func (p *plan) hop() hopFault {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.hops) == 0 {
		return hopFault{0, -1, -1}
	}
	f := p.hops[0]
	p.hops = p.hops[1:]
	return f
}

func (p *plan) machine() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.machines) == 0 {
		return "ok"
	}
	f := p.machines[0]
	p.machines = p.machines[1:]
	return f
}

// serve is a machine on one connection.
func (p *plan) serve(c net.Conn) {
	defer c.Close()
	br := bufio.NewReader(c)
	for {
		fault := p.machine()
		if fault == "hang up" {
			return
		}
		req, err := http.ReadRequest(br)
		if err != nil || fault == "head" {
			return
		}
		if req.Header.Get("Expect") != "" {
			panic("a machine was asked to expect")
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		p.mu.Lock()
		p.executed[req.URL.Path]++
		p.mu.Unlock()
		sum := fmt.Sprintf("%x", sha256.Sum256(body))
		switch fault {
		case "ok":
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(sum), sum)
		case "chunked":
			fmt.Fprintf(
				c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(sum), sum,
			)
		case "hints":
			fmt.Fprintf(
				c, "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s",
				len(sum), sum,
			)
		case "last":
			fmt.Fprintf(
				c, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(sum), sum,
			)
			return
		case "reset":
			return
		case "half head":
			io.WriteString(c, "HTTP/1.1 200 OK\r\nConten")
			return
		case "garbage":
			io.WriteString(c, "\x00\x01\x02 what?\r\n\r\n")
			return
		case "half body":
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(sum), sum[:10])
			return
		case "black hole":
			io.Copy(io.Discard, br)
			return
		}
	}
}

var machineFaults = []string{
	"ok", "chunked", "hints", "last", "hang up", "head", "reset", "half head", "garbage", "half body",
	"black hole",
}

// sent is a request's body, with what a client may do to it.
type sent struct {
	io.Reader
	closed int
}

func (s *sent) Close() error { s.closed++; return nil }

// Whatever goes wrong, in whatever order: each request ends exactly once, an answer that is whole is right, what must not
// be executed twice is not, and nothing stays in flight.
func TestAnyPlanOfFaults(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { rapid.SyncTest(t, func(t *rapid.T) { playPlan(t, false) }) })
}

// The same over HTTP/2, all the way: the hop's connections die at any byte, machines answer, abort and refuse streams.
func TestAnyPlanOfFaultsOverHTTP2(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { rapid.SyncTest(t, func(t *rapid.T) { playPlan(t, true) }) })
}

func playPlan(t *rapid.T, h2 bool) {
	p := &plan{executed: map[string]int{}}
	offset := rapid.OneOf(
		rapid.Just(-1), rapid.Just(-1), rapid.IntRange(0, 400), rapid.IntRange(0, 100<<10),
	)
	p.hops = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) hopFault {
		return hopFault{
			rapid.SampledFrom([]int{0, 0, 0, 1}).Draw(t, "refuse"), offset.Draw(t, "write"),
			offset.Draw(t, "read"),
		}
	}), 0, 5).Draw(t, "hops")
	kinds := machineFaults
	if h2 {
		kinds = machineFaults2
	}
	p.machines = rapid.SliceOfN(rapid.SampledFrom(kinds), 0, 6).Draw(t, "machines")
	local := rapid.Bool().Draw(t, "local")

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ok := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	edge, err := balance.NewFleet(balance.FleetConfig{Node: "edge", Region: "nrt"})
	ok(err)
	worker := edge
	if !local {
		worker, err = balance.NewFleet(balance.FleetConfig{Node: "worker", Region: "nrt"})
		ok(err)
	}
	watch := worker.Watch()
	ok(worker.Apply(balance.PutApp{App: balance.App{ID: "web", Limits: balance.Limits{Hard: 2000}}}))
	app := newPlanApp(p)
	dialMachine := func(ctx context.Context, m balance.Machine) (net.Conn, error) {
		if h2 {
			return app.dial(ctx)
		}
		a, b := net.Pipe()
		go p.serve(b)
		return a, nil
	}
	speaks := func(balance.Machine) bool { return h2 }
	h, err := NewHandler(
		worker,
		HandlerConfig{
			MachineConfig: MachineConfig{DialMachine: dialMachine, HeaderTimeout: time.Second, H2: speaks},
			Keys:          []string{"k"},
		},
	)
	ok(err)
	l := nettest.NewPipes()
	srv, err := NewServer(h, ServerConfig{})
	ok(err)
	go srv.Serve(l)
	b, err := balance.New(edge, balance.Config{})
	ok(err)
	var gates []*balance.Gate
	full := rapid.IntRange(0, 2).Draw(t, "full")
	for i := range 3 {
		g, err := worker.Host(balance.Machine{ID: balance.MachineID(fmt.Sprint("m", i)), App: "web", Region: "nrt", Addr: "x"})
		ok(err)
		token, _ := g.Start(0)
		g.Ready(token)
		gates = append(gates, g)
	}
	if !local {
		ok(edge.Apply(watch.Take()...))
	}
	for _, g := range gates[:full] { // the edge has not heard of it yet
		g.SetLimits(balance.Limits{Hard: 1})
		g.Enter(0, 0, 0)
	}
	dones := 0
	tr, err := NewTransport(NoWait(b), Config{
		MachineConfig: MachineConfig{
			HeaderTimeout: 2 * time.Second, DialMachine: dialMachine, H2: speaks,
		}, tuning: tuning{admitTimeout: 3 * time.Second}, Keys: []string{"k"}, Dial: func(ctx context.Context, _ balance.NodeID) (net.Conn, error) {
			f := p.hop()
			if f.dial == 1 {
				return nil, errors.New("connection refused")
			}
			c, err := l.Dial(ctx)
			if err != nil {
				return nil, err
			}
			return &cutConn{Conn: c, toWrite: f.write, read: f.read}, nil
		},
		Trace: Trace{Done: func(Done) { dones++ }},
	})
	ok(err)

	defer func() { // also when the test fails: a bubble does not end before its goroutines
		cancel()
		tr.Close()
		h.machines.Close()
		srv.Close()
		app.close()
		synctest.Wait()
	}()

	for i := range rapid.IntRange(1, 4).Draw(t, "requests") {
		method := rapid.SampledFrom([]string{"GET", "POST", "POST"}).Draw(t, "method")
		size := 0
		if method == "POST" {
			size = rapid.SampledFrom([]int{0, 1, 1000, 64 << 10, 64<<10 + 1, 300 << 10}).Draw(t, "size")
		}
		body := bytes.Repeat([]byte{byte(i), 1, 2}, size/3+1)[:size]
		rctx, leave := context.WithCancel(ctx)
		req, err := http.NewRequestWithContext(rctx, method, fmt.Sprintf("http://web/%d", i), nil)
		ok(err)
		if h2 {
			over2(req)
		}
		src := &sent{Reader: bytes.NewReader(body)}
		if size > 0 {
			req.Body, req.ContentLength = src, int64(size)
			if rapid.Bool().Draw(t, "unknown length") {
				req.ContentLength = -1
			}
		}
		if rapid.IntRange(0, 9).Draw(t, "leaves") == 0 {
			time.AfterFunc(time.Duration(rapid.IntRange(0, 3000).Draw(t, "after"))*time.Millisecond, leave)
		}
		resp, err := tr.RoundTrip(req)
		var got []byte
		if err == nil {
			got, err = io.ReadAll(resp.Body)
			resp.Body.Close()
			if err == nil && resp.StatusCode == 200 &&
				string(got) != fmt.Sprintf("%x", sha256.Sum256(body)) {
				t.Fatalf("request %d: the answer is for another body: %q", i, got)
			}
		}
		leave()
		time.Sleep(10 * time.Second) // what was cut off finds out
		synctest.Wait()
		if dones != i+1 {
			t.Fatalf("after request %d: %d ended", i, dones)
		}
		if size > 0 && src.closed != 1 {
			t.Fatalf("request %d: body closed %d times", i, src.closed)
		}
		p.mu.Lock()
		n := p.executed[req.URL.Path]
		p.mu.Unlock()
		if method == "POST" && n > 1 {
			t.Fatalf("request %d, a POST, was executed %d times", i, n)
		}
		if err == nil && resp.StatusCode == 200 && n == 0 {
			t.Fatalf("request %d was answered and not executed", i)
		}
		for k, g := range gates {
			want := 0
			if k < full {
				want = 1
			}
			if g.InFlight() != want {
				t.Fatalf("after request %d: gate %d has %d in flight, want %d", i, k, g.InFlight(), want)
			}
		}
		if b.InFlight("web") != 0 || tr.kept.Used() != 0 || h.InFlight() != 0 {
			t.Fatalf(
				"after request %d: %d own, %d bytes kept, handler %d", i, b.InFlight("web"), tr.kept.Used(),
				h.InFlight(),
			)
		}
	}
	if err := h.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
}
