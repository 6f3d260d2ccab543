package backhaul

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"io"
	"net"
	"net/http"
	"runtime"
	"testing"
)

// echo is a machine that speaks a protocol of its own after an upgrade.
func echo(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "echo" || r.Header.Get("Connection") != "Upgrade" {
		http.Error(w, "upgrade?", 400)
		return
	}
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer c.Close()
	io.WriteString(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\nEbb-Load: 1 2 3\r\nX-App: yes\r\n\r\nhello ")
	rw.Flush()
	io.Copy(c, rw.Reader)
	io.WriteString(c, " bye") // after the client has closed its half
}

func TestUpgrade(t *testing.T) {
	both(t, func(t *testing.T, local bool) {
		var l log
		r := newRig(t, rigConfig{app: roomy, local: local, config: Config{Trace: l.trace()}})
		g := r.serve("m1", http.HandlerFunc(echo))
		c, err := net.Dial("tcp", r.front.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: echo\r\n\r\n")
		br := bufio.NewReader(c)
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "echo" || resp.Header.Get("X-App") != "yes" || resp.Header.Get("Ebb-Load") != "" {
			t.Fatalf("got %d %v", resp.StatusCode, resp.Header)
		}
		read := func(want string) {
			t.Helper()
			got := make([]byte, len(want))
			if _, err := io.ReadFull(br, got); err != nil || string(got) != want {
				t.Fatalf("got %q, %v; want %q", got, err, want)
			}
		}
		read("hello ")
		io.WriteString(c, "later")
		read("later")
		if n := g.InFlight(); n != 1 || r.b.InFlight("web") != 1 {
			t.Errorf("an open connection is load: gate %d, own %d", n, r.b.InFlight("web"))
		}
		c.(*net.TCPConn).CloseWrite()
		read(" bye")
		if _, err := br.ReadByte(); err != io.EOF {
			t.Errorf("at the end: %v", err)
		}
		r.quiet()
		if d := l.last(t, 1); d.Status != 101 || d.Received != int64(len("hello later bye")) {
			t.Errorf("done: %+v", d)
		}
	})
}

// What an edge sends on at once, before it has the answer, must not be lost in a buffer of the owner's.
func TestUpgradeWithEarlyBytes(t *testing.T) {
	r := newRig(t, rigConfig{app: roomy})
	r.serve("m1", http.HandlerFunc(echo))
	c, err := dialHop(t.Context(), r.hop.Listener.Addr().String(), testKey)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\nEbb-To: web;m1;0;edge\r\n\r\nearly")
	br := bufio.NewReader(c)
	if _, err := http.ReadResponse(br, nil); err != nil {
		t.Fatal(err)
	}
	c.(*net.TCPConn).CloseWrite()
	if b, err := io.ReadAll(br); err != nil || string(b) != "hello early bye" {
		t.Errorf("got %q, %v", b, err)
	}
	r.quiet()
}

func TestAnUpgradedConnectionCarriesBulk(t *testing.T) {
	both(t, func(t *testing.T, local bool) {
		r := newRig(t, rigConfig{app: roomy, local: local})
		r.serve("m1", http.HandlerFunc(echo))
		c, err := net.Dial("tcp", r.front.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		br := bufio.NewReader(c)
		if _, err := http.ReadResponse(br, nil); err != nil {
			t.Fatal(err)
		}
		io.ReadFull(br, make([]byte, len("hello ")))
		sent, got := sha256.New(), sha256.New()
		go func() {
			for _, size := range []int64{10, 1 << 20, 1, 2 << 10, 8 << 20, 5} { // buffers grow and shrink
				io.Copy(c, io.LimitReader(&noise{n: size, sum: sent}, size))
			}
			c.(*net.TCPConn).CloseWrite()
		}()
		const total = 10 + 1<<20 + 1 + 2<<10 + 8<<20 + 5
		n, err := io.CopyN(got, br, total)
		if err != nil || !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
			t.Errorf("got %d bytes of %d, %v", n, int64(total), err)
		}
		if rest, _ := io.ReadAll(br); string(rest) != " bye" {
			t.Errorf("at the end: %q", rest)
		}
		r.quiet()
	})
}

func TestAnUpgradedConnectionThatIsCutIsFreed(t *testing.T) {
	both(t, func(t *testing.T, local bool) {
		r := newRig(t, rigConfig{app: roomy, local: local})
		r.serve("m1", http.HandlerFunc(echo))
		for range 10 {
			c, err := net.Dial("tcp", r.front.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			http.ReadResponse(bufio.NewReader(c), nil)
			c.(*net.TCPConn).SetLinger(0) // a reset, not an end
			c.Close()
		}
		r.quiet()
	})
}

func TestShutdownWaitsForUpgradedConnections(t *testing.T) {
	r := newRig(t, rigConfig{app: roomy, config: Config{tuning: tuning{rounds: 1}}})
	r.serve("m1", http.HandlerFunc(echo))
	c, err := net.Dial("tcp", r.front.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	br := bufio.NewReader(c)
	if _, err := http.ReadResponse(br, nil); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- r.handler.Shutdown(t.Context()) }()
	for !r.handler.draining.Load() {
		runtime.Gosched()
	}
	resp, body := fetch(t, r.front.Client(), request(t, "GET", r.front.URL, nil))
	if resp.StatusCode != 503 {
		t.Errorf("while shutting down: %d %s", resp.StatusCode, body)
	}
	select {
	case err := <-done:
		t.Fatal("did not wait:", err)
	default:
	}
	io.WriteString(c, "still here")
	got := make([]byte, len("hello still here"))
	if _, err := io.ReadFull(br, got); err != nil || string(got) != "hello still here" {
		t.Errorf("got %q, %v", got, err)
	}
	c.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := r.handler.Shutdown(t.Context()); err != nil {
		t.Error("again:", err)
	}
	r.quiet()
}
