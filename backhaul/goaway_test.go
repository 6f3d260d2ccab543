package backhaul

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/pool"
	"github.com/ebbkit/ebb/balance"
)

// A machine that ends its connections now and then, and says so before, is well: each request is served once, whatever it
// has as a body, and none counts as failed. nginx does that after keepalive_requests, gRPC servers after MaxConnectionAge.
func TestTheGracefulEndOfAConnectionIsNoFailure(t *testing.T) {
	clients, each := 20, 8
	if *huge {
		clients, each = 50, 200
	}
	for _, body := range []struct {
		name string
		make func(s string) io.Reader
	}{
		{"of known length", func(s string) io.Reader { return strings.NewReader(s) }},
		{"of unknown length", func(s string) io.Reader { return struct{ io.Reader }{strings.NewReader(s)} }},
		{"of 40 KiB", func(s string) io.Reader { return strings.NewReader(s + strings.Repeat("x", 40<<10)) }},
	} {
		for _, front2 := range []bool{false, true} {
			for _, local := range []bool{false, true} {
				t.Run(fmt.Sprintf("body %s, front h2=%v, local=%v", body.name, front2, local), func(t *testing.T) {
					var served, failures, notDone atomic.Int64
					r := newRig(t, rigConfig{app: roomy, local: local, h2: true, config: Config{Trace: Trace{Done: func(d Done) {
						failures.Add(int64(d.failures))
						if d.Outcome != balance.OutcomeDone {
							notDone.Add(1)
						}
					}}}})
					r.serve("m1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						b, _ := io.ReadAll(r.Body)
						if served.Add(1)%10 == 0 {
							w.Header().Set("Connection", "close") // over HTTP/2 net/http says GOAWAY then
						}
						w.Write(b)
					}))
					var wg sync.WaitGroup
					for c := range clients {
						wg.Go(func() {
							for n := range each {
								id := fmt.Sprint("order ", c, "-", n)
								req := request(t, "POST", "http://web/", body.make(id))
								if front2 {
									over2(req)
								}
								resp, err := r.transport.RoundTrip(req)
								if got := read(t, resp, err); !strings.HasPrefix(got, id) {
									t.Errorf("%s: got %.80q", id, got)
								}
							}
						})
					}
					wg.Wait()
					if n := int64(clients * each); served.Load() != n || failures.Load() != 0 || notDone.Load() != 0 {
						t.Errorf("%d requests were executed %d times, %d failures were counted, %d did not end well", n, served.Load(), failures.Load(), notDone.Load())
					}
					r.quiet()
				})
			}
		}
	}
}

// refuser is a machine, or an owner, that lets nobody in: each stream is refused, and each connection ends.
func refuser(opened *atomic.Int32) pool.Dialer {
	return fakeOwner(func(say func(...[]byte), s uint32) {
		opened.Add(1)
		say(frame(7, 0, 0, binary.BigEndian.AppendUint32(make([]byte, 4), 0)...))
	})
}

// A machine that refuses for ever is told of in the end, by whoever speaks with it.
func TestAMachineThatRefusesForEverIsToldOf(t *testing.T) {
	for _, local := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			var opened atomic.Int32
			dial := refuser(&opened)
			speaks := func(balance.Machine) bool { return true }
			var tr *Transport
			var done Done
			c := Config{tuning: tuning{failures: -1}, Trace: Trace{Event: func(e Event) { t.Logf("%+v", e) }, Done: func(d Done) { done = d }}}
			if local {
				c.H2, c.DialMachine = speaks, func(ctx context.Context, _ balance.Machine) (net.Conn, error) { return dial(ctx) }
				tr = newBubble(t, c, nil).t
			} else {
				tr, _ = newPair(t, c, HandlerConfig{MachineConfig: MachineConfig{H2: speaks, DialMachine: func(ctx context.Context, _ balance.Machine) (net.Conn, error) { return dial(ctx) }}}, nil)
			}
			_, err := tr.RoundTrip(request(t, "POST", "http://web/", strings.NewReader("pay")))
			if e, ok := errors.AsType[*MachineError](err); !ok || e.Failure != hop.FailureRefused {
				t.Errorf("local %v: got %v", local, err)
			}
			if n := opened.Load(); n == 0 || n > 2*(defaultRounds+1)*(pool.MaxStale+pool.MaxOwn) {
				t.Errorf("local %v: %d streams were opened", local, n)
			}
			if done.failures != 0 || done.Outcome != balance.OutcomeBounced {
				t.Errorf("local %v: done: %+v", local, done)
			}
		})
	}
}
