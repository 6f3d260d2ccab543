package backhaul

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/auth"
	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/backhaul/internal/tcp"
	"github.com/ebbkit/ebb/internal/nettest"
	"github.com/ebbkit/ebb/internal/tcpinfo"
)

// A reset is told once, to whoever writes or reads first. One that a write has been told of is no
// end to who reads after it, whatever is around the connection.
func TestAResetThatAWriteWasToldOfIsNoEnd(t *testing.T) {
	for name, around := range map[string]func(net.Conn) net.Conn{
		"nothing":   func(c net.Conn) net.Conn { return c },
		"an edge's": func(c net.Conn) net.Conn { return auth.NewEdgeConn(c, "worker", nil, false) },
		"an owner's": func(c net.Conn) net.Conn {
			o := auth.NewOwnerConn(c, &auth.Owner{AnyNode: true}, auth.NewPending(-1), time.Minute)
			if err := o.Authenticate(); err != nil {
				t.Error(err)
			}
			return &serverConn{Conn: o}
		},
		"a front's": func(c net.Conn) net.Conn { return &limited{Conn: c} },
	} {
		t.Run(name, func(t *testing.T) {
			for _, reset := range []bool{true, false} {
				near, far := nettest.Pair(t)
				far.Write([]byte("x")) // what an owner reads of a connection before it lets it in
				w := pool.NewWire(around(near), nil)
				w.Read(make([]byte, 1))
				if reset {
					tcp.Reset(far)
					for {
						if _, err := near.Write([]byte("x")); err != nil {
							break // it has been told
						}
					}
				} else {
					far.CloseWrite()
				}
				if _, err := w.Read(make([]byte, 1)); (err == io.EOF) == reset {
					t.Errorf("reset=%v: the reader got %v", reset, err)
				}
			}
		})
	}
}

// An upgraded connection that goes back to its pool before anybody has closed it has not ended
// well, also where net/http still has a hand on it.
func TestAnUpgradedConnectionThatIsGivenBackIsReset(t *testing.T) {
	for _, closed := range []bool{false, true} {
		near, far := nettest.Pair(t)
		p := pool.NewPool(pool.PoolConfig{Near: true})
		t.Cleanup(p.Close)
		w := pool.NewWire(near, nil)
		if closed {
			w.Close()
		}
		p.Put(&pool.Conn{Wire: w, Upgraded: true})
		if _, err := far.Read(make([]byte, 1)); (err == io.EOF) != closed {
			t.Errorf("closed before=%v: the peer got %v", closed, err)
		}
	}
}

// What ends an upgraded connection that neither of its sides has ended is no end: the request's
// context, or a proxy that gives up before the first byte. Who has used the connection and closes
// it, ends it.
func TestAnUpgradedConnectionThatIsCutIsReset(t *testing.T) {
	both(t, func(t *testing.T, local bool) {
		start := func(t *testing.T, ctx context.Context) (io.ReadWriteCloser, net.Conn, *rig) {
			r := newRig(t, rigConfig{app: roomy, local: local})
			s := script{"echo", make(chan net.Conn, 1)}
			r.serve("m1", s)
			req := request(t, "GET", "http://web/", nil).WithContext(ctx)
			req.Header.Set("Connection", "Upgrade")
			req.Header.Set("Upgrade", "echo")
			resp, err := r.transport.RoundTrip(req)
			if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
				t.Fatal(resp, err)
			}
			machine := <-s.conns
			t.Cleanup(func() { machine.Close() })
			machine.SetDeadline(time.Now().Add(time.Minute))
			return resp.Body.(io.ReadWriteCloser), machine, r
		}
		for _, tt := range []struct {
			name string
			end  func(c io.ReadWriteCloser, cancel func())
			well bool
		}{
			{"closed", func(c io.ReadWriteCloser, _ func()) { io.WriteString(c, "hello"); c.Close() }, true},
			{"closed unused", func(c io.ReadWriteCloser, _ func()) { c.Close() }, false},
			{"context", func(c io.ReadWriteCloser, cancel func()) { io.WriteString(c, "hello"); cancel(); c.Close() }, false},
		} {
			t.Run(tt.name, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				c, machine, r := start(t, ctx)
				tt.end(c, cancel)
				_, err := io.Copy(io.Discard, machine)
				if (err == nil) != tt.well {
					t.Errorf("the machine got %v; did it end well: want %v", err, tt.well)
				}
				machine.Close()
				r.quiet()
			})
		}
	})
}

// Where a proxy closes both connections because one direction failed, it does so after it is known
// how: a context that ends resets the client as well.
func TestAClientWhoseUpgradedRequestIsCutIsReset(t *testing.T) {
	both(t, func(t *testing.T, local bool) {
		r := newRig(t, rigConfig{app: roomy, local: local})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		proxy := r.front.Config.Handler
		r.front.Config.Handler = http.HandlerFunc(
			func(w http.ResponseWriter, q *http.Request) { proxy.ServeHTTP(w, q.WithContext(ctx)) },
		)
		client, fromMachine, machine := upgraded(t, r, "echo")
		io.WriteString(machine, "hello")
		expect(t, "the client", fromMachine, "hello")
		cancel()
		for who, c := range map[string]net.Conn{"client": client, "machine": machine} {
			if _, err := io.Copy(io.Discard, c); err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the %s got %v, want a reset", who, err)
			}
		}
		r.quiet()
	})
}

// An answer whose end is that of its connection has not ended where the machine broke off, also
// when it was the request's body that was told so.
func TestAnAnswerThatEndsInAResetDoesNotEndWell(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	for _, well := range []bool{true, false} {
		t.Run(fmt.Sprintf("well=%v", well), func(t *testing.T) {
			both(t, func(t *testing.T, local bool) {
				r := newRig(t, rigConfig{app: roomy, local: local})
				r.host("m1", l.Addr().String())
				broke := make(chan struct{})
				go func() {
					c, err := l.Accept()
					if err != nil {
						return
					}
					io.ReadFull(c, make([]byte, 512))
					io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf")
					if well {
						go io.Copy(io.Discard, c)
						c.(*net.TCPConn).CloseWrite()
					} else {
						tcp.Reset(c)
					}
					close(broke)
				}()
				pr, pw := io.Pipe()
				go func() {
					pw.Write(make([]byte, 4<<10))
					<-broke
					for range 4 {
						pw.Write(make([]byte, 4<<10))
					}
					pw.Close()
				}()
				resp, err := r.transport.RoundTrip(request(t, "POST", "http://web/", pr))
				if err == nil {
					_, err = io.ReadAll(resp.Body)
					resp.Body.Close()
				}
				if (err == nil) != well {
					t.Errorf("got %v; did it end well: want %v", err, well)
				}
				pr.Close()
				r.quiet()
			})
		})
	}
}

// over waits until the kernel has a connection closed.
func over(t *testing.T, c *net.TCPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var info tcpinfo.Reader
	poll(func() bool { i, ok := info.Info(raw); return ok && i.Closed })
}

// A reset that a write has been told of is found, whatever is around the connection.
func TestAResetIsFoundAfterItWasTold(t *testing.T) {
	a, b := nettest.Pair(t)
	tcp.Reset(b)
	over(t, a)
	if _, err := a.Write([]byte("x")); err == nil {
		t.Fatal("nobody is told of the reset")
	}
	for name, c := range map[string]any{
		"nothing": a, "LimitListener": &limited{Conn: a}, "Server": &serverConn{Conn: a}, "Handler": &auth.OwnerConn{Conn: a}, "an edge's": &auth.EdgeConn{Conn: a},
		"several": &serverConn{Conn: &auth.OwnerConn{Conn: &limited{Conn: a}}},
	} {
		if err := tcp.EndOf(c, false); err != tcp.ErrReset {
			t.Errorf("around it %s: %v", name, err)
		}
	}
}
