package backhaul

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// hush drops what net/http itself says about machines that say too much.
func hush(t *testing.T) {
	stdlog.SetOutput(io.Discard)
	t.Cleanup(func() { stdlog.SetOutput(os.Stderr) })
}

// Machines that say too much, asked by many at once: nobody gets what is left over from another's answer.
func TestNoAnswerIsTakenFromAnother(t *testing.T) {
	hush(t)
	for _, local := range []bool{false, true} {
		const evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL"
		r := newRig(t, rigConfig{app: roomy, local: local})
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		var conns, asked atomic.Int32
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				conns.Add(1)
				go func() {
					defer c.Close()
					br := bufio.NewReader(c)
					for {
						req, err := http.ReadRequest(br)
						if err != nil {
							return
						}
						id, err := io.ReadAll(req.Body)
						if err != nil {
							return
						}
						answer := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(id), id)
						switch n := asked.Add(1); {
						case n%7 == 0:
							answer += evil
						case n%11 == 0: // more than one read takes
							answer += strings.Repeat(evil, 2000)
						}
						io.WriteString(c, answer)
					}
				}()
			}
		}()
		r.host("m1", l.Addr().String())
		var wg sync.WaitGroup
		const clients, each = 16, 60
		for k := range clients {
			wg.Go(func() {
				for i := range each {
					id := fmt.Sprint(k, "-", i)
					resp, err := r.transport.RoundTrip(request(t, "POST", "http://web/", strings.NewReader(id)))
					if err != nil {
						t.Errorf("%s: %v", id, err)
						continue
					}
					if got := read(t, resp, err); got != id {
						t.Errorf("%s got %q", id, got)
					}
				}
			})
		}
		wg.Wait()
		if n := asked.Load(); n != clients*each {
			t.Errorf("%d requests were executed, want %d", n, clients*each)
		}
		t.Logf("local %v: %d connections for %d requests", local, conns.Load(), asked.Load())
		r.quiet()
	}
}

// A machine that has answered and reset the connection while the body was on its way has answered.
func TestAnAnswerBeforeAResetCounts(t *testing.T) {
	both(t, func(t *testing.T, local bool) {
		r := newRig(t, rigConfig{app: roomy, local: local})
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					head := make([]byte, 4096)
					for n := 0; !bytes.Contains(head[:n], []byte("\r\n\r\n")); {
						m, err := c.Read(head[n:])
						if err != nil {
							c.Close()
							return
						}
						n += m
					}
					io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 9\r\nConnection: close\r\n\r\ntoo large")
					c.(*net.TCPConn).SetLinger(0)
					c.Close() // with most of the body unread
				}()
			}
		}()
		r.host("m1", l.Addr().String())
		for range 30 {
			req := request(t, "POST", "http://web/", bytes.NewReader(make([]byte, 4<<20)))
			resp, err := r.transport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			if got := read(t, resp, err); resp.StatusCode != 413 || got != "too large" {
				t.Errorf("got %d %q", resp.StatusCode, got)
			}
		}
		r.quiet()
	})
}
