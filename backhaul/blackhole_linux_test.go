package backhaul

import (
	"context"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// holes dials connections that can be made to lead nowhere.
type holes struct {
	mu    sync.Mutex
	conns []*net.TCPConn
}

func (h *holes) dial(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conns = append(h.conns, c.(*net.TCPConn))
	return c, nil
}

// swallow has the kernel drop whatever arrives on the connections there are, acknowledgements included, as when the way
// back has broken. Later ones work.
func (h *holes) swallow(t *testing.T) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.conns {
		raw, err := c.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) {
			nothing := []syscall.SockFilter{{Code: syscall.BPF_RET | syscall.BPF_K}}
			//lint:ignore SA1019 what stands in for it is a module more
			if err := syscall.AttachLsf(int(fd), nothing); err != nil {
				t.Skipf("the kernel takes no filter: %v", err)
			}
		})
	}
}

// An established connection that leads nowhere any more is given up after some 5 s, whatever it carries, where the kernel
// by itself would try for a quarter of an hour; and what may be sent again is.
func TestABlackHoleIsGivenUp(t *testing.T) {
	const bound = 30 * time.Second // 5 s and whatever a busy machine takes
	for _, h2 := range []bool{false, true} {
		for _, method := range []string{"GET", "POST"} {
			t.Run(map[bool]string{false: "HTTP1 ", true: "HTTP2 "}[h2]+method, func(t *testing.T) {
				t.Parallel()
				var l log
				var h holes
				var r *rig
				r = newRig(t, rigConfig{app: roomy, h2: h2, config: Config{
					tuning: tuning{
						spare: -1,
					}, Trace: l.trace(), Dial: func(ctx context.Context, _ balance.NodeID) (net.Conn, error) {
						return h.dial(ctx, r.hop.Listener.Addr().String())
					},
				}})
				var served atomic.Int32
				for _, id := range []balance.MachineID{"m1", "m2"} {
					r.serve(id, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						served.Add(1)
						io.Copy(io.Discard, r.Body)
						io.WriteString(w, "ok")
					}))
				}
				fetch(
					t, r.front.Client(), request(t, "GET", r.front.URL, nil),
				) // a connection to the owner, idle now
				h.swallow(t)
				began := time.Now()
				resp, body := fetch(t, r.front.Client(), request(t, method, r.front.URL, strings.NewReader("x")))
				took := time.Since(began)
				status := resp.StatusCode
				t.Logf("%d after %v: %s", status, took, &l)
				if took > bound {
					t.Errorf("given up after %v", took)
				}
				if method == "GET" && (status != http.StatusOK || body != "ok") ||
					method == "POST" && status != http.StatusBadGateway && status != http.StatusGatewayTimeout {
					t.Errorf(
						"%d %q; want 200 for GET, and for POST, which may have been executed, 502 or 504", status,
						body,
					)
				}
				if n := served.Load(); method == "POST" && n > 2 {
					t.Errorf("executed %d times, want once", n-1)
				}
				h.mu.Lock()
				conns := slices.Clone(h.conns)
				h.mu.Unlock()
				if method == "GET" && len(conns) < 2 {
					t.Error("no other connection was made")
				}
				r.quiet()
			})
		}
	}
}

// Also one in the middle of an answer in which nothing moves: only probes of the connection itself can tell.
func TestABlackHoleUnderASilentAnswerIsFound(t *testing.T) {
	t.Parallel()
	var h holes
	var r *rig
	r = newRig(t, rigConfig{app: roomy, config: Config{tuning: tuning{spare: -1}, Dial: func(ctx context.Context, _ balance.NodeID) (net.Conn, error) {
		return h.dial(ctx, r.hop.Listener.Addr().String())
	}}})
	gone := make(chan struct{})
	r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		close(gone)
	}))
	resp, err := r.front.Client().Get(r.front.URL) // an answer in which nothing moves
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	h.swallow(t)
	began := time.Now()
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("an answer that broke off is taken for whole")
	}
	t.Logf("noticed after %v", time.Since(began))
	<-gone
}
