package backhaul

import (
	"context"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// calling is a connection whose Close calls back.
type calling struct {
	net.Conn
	back func()
}

func (c *calling) Close() error {
	c.back()
	return c.Conn.Close()
}

// Hooks and connections of others may call back into the transport that calls them: it holds no
// lock meanwhile.
func TestHooksAndConnectionsMayCallBack(t *testing.T) {
	for name, h2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			var transport atomic.Pointer[Transport]
			var pressed, closed atomic.Int64
			back := func(n *atomic.Int64) {
				n.Add(1)
				if tr := transport.Load(); tr != nil {
					tr.CloseIdleConnections()
				}
			}
			var addr atomic.Value
			r := newRig(t, rigConfig{h2: h2, config: Config{
				Pressure: func() float64 { back(&pressed); return 0 },
				Dial: func(ctx context.Context, _ balance.NodeID) (net.Conn, error) {
					var d net.Dialer
					c, err := d.DialContext(ctx, "tcp", addr.Load().(string))
					return &calling{c, func() { back(&closed) }}, err
				},
			}})
			addr.Store(r.hop.Listener.Addr().String())
			transport.Store(r.transport)
			r.serve("m1", says("hello"))
			over := make(chan struct{})
			go func() {
				defer close(over)
				for range 3 {
					resp, err := r.front.Client().Post(r.front.URL, "text/plain", strings.NewReader("x"))
					if err != nil {
						t.Error(err)
						return
					}
					io.Copy(io.Discard, resp.Body) //nolint:errcheck // the end is what is waited for
					resp.Body.Close()
					r.transport.CloseIdleConnections()
				}
			}()
			select {
			case <-over:
			case <-time.After(time.Minute):
				t.Fatal("a hook that calls back waits for ever")
			}
			if closed.Load() == 0 || h2 && pressed.Load() == 0 {
				t.Errorf("%d connections were closed, the pressure was asked for %d times: nothing was tried",
					closed.Load(), pressed.Load())
			}
			r.quiet()
		})
	}
}

// A client's body is closed with no lock held: it may wait for who reads it.
func TestABodyIsClosedWithNoLockHeld(t *testing.T) {
	var s *source
	closes := 0
	s = &source{rc: &closing{Reader: strings.NewReader("x"), close: func() {
		closes++
		if !s.mu.TryLock() {
			t.Error("the body is closed under its lock")
			return
		}
		s.mu.Unlock()
	}}}
	r := newReader(s, false)
	var b [4]byte
	if n, err := r.Read(b[:]); n != 1 || err != nil {
		t.Errorf("read %d, %v", n, err)
	}
	s.close()
	s.close()
	if closes != 1 {
		t.Errorf("closed %d times, want once", closes)
	}
}

type closing struct {
	io.Reader
	close func()
}

func (c *closing) Close() error {
	c.close()
	return nil
}
