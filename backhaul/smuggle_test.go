package backhaul

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/internal/nettest"
)

// raw sends bytes as they are and returns the status lines of the answers, until the server closes.
func raw(t *testing.T, addr, request string, half bool) []string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(c, request); err != nil {
		return nil // closed already, which is an answer as well
	}
	if half { // and then no more; net/http takes that for a client that has left
		c.(*net.TCPConn).CloseWrite()
	}
	var got []string
	for br := bufio.NewReader(c); ; {
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			return got
		}
		io.Copy(io.Discard, resp.Body)
		got = append(got, fmt.Sprint(resp.StatusCode))
	}
}

// What two servers could read as different requests never reaches a machine as more than the one that the front has read.
func TestSmuggledRequests(t *testing.T) {
	both(t, func(t *testing.T, local bool) {
		r := newRig(t, rigConfig{app: roomy, local: local})
		var mu sync.Mutex
		var seen []string
		r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, err := io.ReadAll(r.Body)
			mu.Lock()
			defer mu.Unlock()
			if r.URL.Path == "/evil" || r.Header.Get("X-Evil") != "" || r.Host == "evil" {
				seen = append(seen, "EVIL")
			}
			if err == nil {
				seen = append(seen, r.Method+" "+string(b))
			}
		}))
		const evil = "GET /evil HTTP/1.1\r\nHost: evil\r\n\r\n"
		for _, tt := range []struct {
			name, request string
			answers, seen string
		}{
			{"both lengths", "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + evil, "200", "POST "},
			{"two lengths", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nContent-Length: 5\r\n\r\nhello!", "400", ""},
			{"a list of lengths", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 5\r\n\r\nhello", "400", ""},
			{"a signed length", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello", "400", ""},
			{"a hexadecimal length", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x5\r\n\r\nhello", "400", ""},
			{"an unknown coding", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "501", ""},
			{"two codings", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", "501", ""},
			{"a coding after a space", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", "400", ""},
			{"a coding with a control", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", "400 501", ""},
			{"a name with a space", "GET / HTTP/1.1\r\nHost: x\r\nX Y: 1\r\n\r\n", "400", ""},
			{"a bare CR in a value", "GET / HTTP/1.1\r\nHost: x\r\nA: b\rX-Evil: 1\r\n\r\n", "400", ""},
			{"a NUL in a value", "GET / HTTP/1.1\r\nHost: x\r\nA: b\x00\r\n\r\n", "400", ""},
			{"a folded line at the beginning", "GET / HTTP/1.1\r\n X-Evil: 1\r\nHost: x\r\n\r\n", "400", ""},
			{"a bad chunk size", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n" + evil, "400", ""},
			{"a negative chunk size", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n" + evil, "400", ""},
			{"a huge chunk size", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n" + evil, "400", ""},
			{"a chunk longer than said", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n", "400", ""},
			{"a chunk size after a bare LF", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n", "400", ""},
			{"a chunk extension with a bare LF", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;a\nx\r\n0\r\n\r\n", "400", ""},
			{"no host", "GET / HTTP/1.1\r\n\r\n", "400", ""},
			{"two hosts", "GET / HTTP/1.1\r\nHost: x\r\nHost: evil\r\n\r\n", "400", ""},
			{"a body shorter than said", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\nhello", "400 499", ""},
			{"a connection header that names the length", "POST / HTTP/1.1\r\nHost: x\r\nConnection: close, Content-Length\r\nContent-Length: 5\r\n\r\nhello", "200", "POST hello"},
			{"CONNECT", "CONNECT evil:80 HTTP/1.1\r\nHost: evil:80\r\nConnection: close\r\n\r\n", "501", ""},
			{"a good one", "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n", "200", "POST hello"},
		} {
			seen = nil
			answers := strings.Join(
				raw(t, r.front.Listener.Addr().String(), tt.request, strings.Contains(tt.answers, "499")), " ",
			)
			r.quiet()
			mu.Lock()
			if got := strings.Join(seen, ", "); got != tt.seen || !strings.Contains(tt.answers, answers) {
				t.Errorf(
					"%s: answered %q, want %q; machine saw %q, want %q", tt.name, answers, tt.answers, got,
					tt.seen,
				)
			}
			mu.Unlock()
		}
	})
}

// The same from the other side: an answer that could be read in two ways is none, and the next client gets its own.
func TestSmuggledAnswers(t *testing.T) {
	hush(t)
	for _, local := range []bool{false, true} {
		for _, tt := range []struct{ name, answer, want string }{
			{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", "502"},
			{"a signed length", "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello", "502"},
			{"an unknown coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "502"},
			{"a bare CR", "HTTP/1.1 200 OK\r\nA: b\rX-Evil: 1\r\nContent-Length: 0\r\n\r\n", "502"},
			{"more than said", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL", "200 ok"},
			{"both lengths", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL", "200 ok"},
		} {
			r := newRig(t, rigConfig{app: roomy, local: local})
			addr, served := cutter(t, tt.answer)
			r.host("m1", addr)
			for range 20 {
				resp, body := fetch(t, r.front.Client(), request(t, "POST", r.front.URL, nil))
				got := fmt.Sprint(resp.StatusCode)
				if resp.StatusCode == 200 {
					got += " " + body
				}
				if got != tt.want || resp.Header.Get("X-Evil") != "" {
					t.Errorf("local %v, %s: got %q, want %q", local, tt.name, got, tt.want)
				}
			}
			if n := served.Load(); n != 20 {
				t.Errorf("local %v, %s: the machine got %d requests, want 20", local, tt.name, n)
			}
			r.quiet()
		}
	}
}

// Whoever opens connections and says little or nothing is closed in time, and costs a goroutine and half a kilobyte.
func TestSlowClientsOfTheHopAreClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := NewServer(says("hello"), ServerConfig{})
		if err != nil {
			t.Fatal(err)
		}
		l := nettest.NewPipes()
		served := make(chan error, 1)
		go func() { served <- s.Serve(l) }()
		for _, first := range []string{"", "G", "PRI * HT", "GET / HTTP/1.1\r\nHost: x\r\n", hop.ClientPreface} {
			c, err := l.Dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			if first != "" {
				go io.WriteString(c, first)
			}
			_, err = io.Copy(io.Discard, c)
			if took := time.Since(began); took > 12*time.Second {
				t.Errorf("%q: closed after %v: %v", first, took, err)
			}
			c.Close()
		}
		s.Close()
		if err := <-served; err != http.ErrServerClosed {
			t.Errorf("Serve: %v", err)
		}
	})
}

func TestLimitListener(t *testing.T) {
	if _, err := LimitListener(nil, LimitConfig{}); err == nil {
		t.Error("no listener, no error")
	}
	refused := make(chan string, 10)
	inner := nettest.NewPipes()
	l, err := LimitListener(inner, LimitConfig{
		PerClient: 2, Total: 3,
		Refused: func(client string) { refused <- client },
	})
	if err != nil {
		t.Fatal(err)
	}
	l.(*limitListener).clientOf = func(c net.Conn) string {
		b := make([]byte, 1)
		io.ReadFull(c, b)
		return string(b)
	}
	accepted := make(chan net.Conn, 10)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
		}
	}()
	open := func(client string) bool {
		c, err := inner.Dial(context.Background())
		if err != nil {
			t.Error(err)
			return false
		}
		io.WriteString(c, client)
		if _, err := c.Read(make([]byte, 1)); err != nil { // an accepted one gets a byte
			select { // told after it was closed
			case got := <-refused:
				if got != client {
					t.Errorf("%s was closed, told of %s", client, got)
				}
			case <-time.After(time.Minute):
				t.Error("closed and not told")
			}
			return false
		}
		return true
	}
	var held []net.Conn
	try := func(client string, want bool) {
		t.Helper()
		done := make(chan bool)
		go func() { done <- open(client) }()
		select {
		case c := <-accepted:
			held = append(held, c)
			c.Write([]byte{1})
			if !<-done || !want {
				t.Errorf("%s was let in", client)
			}
		case ok := <-done:
			if ok || want {
				t.Errorf("%s was not let in", client)
			}
		}
	}
	try("a", true)
	try("a", true)
	try("a", false)
	try("b", true)
	try("c", false) // all together
	held[0].Close()
	held[0].Close() // counts once
	try("c", true)
	try("a", false)
	held[1].Close()
	try("a", true)
	l.Close()
	for _, c := range held {
		c.Close()
	}
	if known := l.(*limitListener).open; len(known) != 0 {
		t.Errorf("clients that have left are remembered: %v", known)
	}
	for addr, want := range map[string]string{"10.1.2.3:5": "10.1.2.3", "[::ffff:10.1.2.3]:5": "10.1.2.3", "[2001:db8::1]:5": "2001:db8::/64", "pipe": "pipe"} {
		if got := clientAddr(addressed(addr)); got != want {
			t.Errorf("%s: got %s, want %s", addr, got, want)
		}
	}
}

type addressed string

func (a addressed) RemoteAddr() net.Addr { return a }

func (a addressed) Network() string { return "tcp" }

func (a addressed) String() string { return string(a) }

func (addressed) Read([]byte) (int, error) { return 0, io.EOF }

func (addressed) Write([]byte) (int, error) { return 0, io.EOF }

func (addressed) Close() error { return nil }

func (a addressed) LocalAddr() net.Addr { return a }

func (addressed) SetDeadline(t time.Time) error { return nil }

func (addressed) SetReadDeadline(t time.Time) error { return nil }

func (addressed) SetWriteDeadline(t time.Time) error { return nil }

// An app learns its epoch, whatever the client says.
func TestAMachineLearnsItsEpoch(t *testing.T) {
	both(t, func(t *testing.T, local bool) {
		r := newRig(t, rigConfig{app: roomy, local: local, config: Config{MachineConfig: MachineConfig{EpochHeader: "Ebb-Epoch"}}, handler: HandlerConfig{MachineConfig: MachineConfig{EpochHeader: "ebb-epoch"}}})
		g := r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header["Ebb-Epoch"]) }))
		req := request(t, "GET", r.front.URL, nil)
		req.Header.Set("Ebb-Epoch", "99")
		if _, body := fetch(t, r.front.Client(), req); body != fmt.Sprint([]uint64{g.Load().Epoch}) {
			t.Errorf("got %s, want %d", body, g.Load().Epoch)
		}
	})
}
