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
				tuning: tuning{
					pressure: func() float64 { back(&pressed); return 0 },
				}, Dial: func(ctx context.Context, _ balance.NodeID) (net.Conn, error) {
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
