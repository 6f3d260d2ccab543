package backhaul

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale"
)

// bedroom suspends machines and looks whether it may.
type bedroom struct {
	r     *rig
	conns *Connections
}

func (d bedroom) Suspend(_ context.Context, m balance.Machine) error {
	if f, l := d.r.gates[m.ID].InFlight(), d.conns.Long(m, balance.ClassAll); f+l > 0 {
		d.r.t.Errorf("%s is suspended under %d exchanges, %d of them long", m.ID, f, l)
	}
	return nil
}

func (d bedroom) Stop(ctx context.Context, m balance.Machine) error { return d.Suspend(ctx, m) }

// Clients come and go with connections of all kinds, some reset, while machines are suspended all the time: none ever under a
// connection that is open, and no connection that was told ends but well.
func TestNoMachineSleepsUnderAConnection(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, local bool) {
		const sleeps = 3
		conns := &Connections{StreamAge: time.Millisecond}
		r := newRig(t, rigConfig{
			app: roomy, local: local, config: Config{tuning: tuning{rounds: 1000}, Connections: conns}, handler: HandlerConfig{Connections: conns},
			picker: func(b *balance.Balancer) Picker { return patient(b) },
		})
		var told, slept atomic.Int64
		mux := http.NewServeMux()
		mux.HandleFunc("/short", says("short").ServeHTTP)
		mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, "data: x\n"); err != nil {
					return
				}
				http.NewResponseController(w).Flush()
				select {
				case <-r.Context().Done():
				case <-time.After(time.Millisecond):
				}
			}
		})
		mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
			c, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer c.Close()
			io.WriteString(
				c,
				"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x02hi",
			)
			io.ReadFull(rw, make([]byte, 1)) // the client leaves, or closes
		})
		mux.Handle("/call", new(calls))
		for _, id := range []balance.MachineID{"m1", "m2"} {
			r.serve(id, mux)
		}
		wake := func(m balance.Machine, _ time.Duration) {
			slept.Add(1)
			g := r.gates[m.ID]
			if token, a := g.Start(g.Load().Epoch); a == balance.StartAccepted {
				g.Ready(token)
			}
		}
		if err := r.worker.Apply(balance.PutApp{App: balance.App{ID: "web", Autostop: balance.AutostopSuspend, Min: 1, Limits: roomy.Limits, AbandonedHold: shortHold}}); err != nil {
			t.Fatal(err)
		}
		scaler, err := downscale.New(r.worker, bedroom{r, conns}, downscale.Config{
			Window: 20 * time.Millisecond, Every: 5 * time.Millisecond, Quiet: time.Millisecond,
			Connections: conns, Notify: balance.ClassAll,
			Trace: downscale.Trace{
				Suspended: wake, Stopped: wake, Notified: func(balance.Machine, balance.Class) { told.Add(1) },
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var running, clients sync.WaitGroup
		running.Go(func() {
			if err := scaler.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		running.Go(func() { r.b.Run(ctx) }) // forgets that a machine slept when it bounced somebody
		running.Go(func() {                 // rows travel
			for ctx.Err() == nil {
				r.sync()
				<-time.After(time.Millisecond)
			}
		})
		var failed atomic.Bool
		done := func() bool { return failed.Load() || slept.Load() >= sleeps && told.Load() >= sleeps }
		for _, kind := range []string{"/short", "/events", "/events", "/ws", "/ws", "/call"} {
			clients.Go(func() {
				for !done() {
					if err := visit(r, kind); err != nil {
						t.Errorf("%s: %v", kind, err)
						failed.Store(true)
						return
					}
				}
			})
		}
		clients.Wait() // however long that many sleeps take
		r.quiet()
		stop()
		running.Wait()
		r.long(conns, balance.ClassAll, 0)
	})
}

// patient waits while no machine is known to run: for a moment both may sleep, or be held to.
func patient(b *balance.Balancer) Picker {
	return picking(func(ctx context.Context, r *balance.Request) (balance.Reservation, error) {
		for {
			res, err := b.Pick(*r)
			if err == nil || !errors.Is(err, balance.ErrNoMachine) {
				return res, err
			}
			r.Tried = nil
			select {
			case <-time.After(time.Millisecond):
			case <-ctx.Done():
				return res, ctx.Err()
			}
		}
	})
}

// visit is a client: it leaves by itself after some time, or is told to.
func visit(r *rig, kind string) error {
	stays := time.Duration(rand.IntN(200)) * time.Millisecond
	ctx, cancel := context.WithTimeout(context.Background(), stays)
	defer cancel()
	if kind == "/ws" {
		c, err := net.Dial("tcp", r.front.Listener.Addr().String())
		if err != nil {
			return err
		}
		defer c.Close()
		defer context.AfterFunc(ctx, func() { c.Close() })()
		io.WriteString(
			c, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
		)
		br := bufio.NewReader(c)
		if resp, err := http.ReadResponse(br, nil); err != nil && ctx.Err() == nil ||
			err == nil && resp.StatusCode != 101 {
			return fmt.Errorf("%v, %w", resp, err)
		}
		// It may be told before the machine's first word has come through, which is then left out.
		if got, err := io.ReadAll(br); err == nil &&
			strings.TrimPrefix(string(got), "\x81\x02hi") != string(hop.GoingAway) &&
			ctx.Err() == nil {
			return fmt.Errorf("a WebSocket ends in %q", got) // else it was we who left
		} else if len(got) > 4 {
			io.WriteString(c, maskedBye)
		}
		return nil
	}
	var body io.Reader
	if kind == "/call" {
		pr, pw := io.Pipe()
		defer context.AfterFunc(ctx, func() { pw.Close() })() // net/http waits for it
		body = pr
	}
	if kind == "/short" {
		ctx = context.WithoutCancel(ctx)
	}
	req, err := http.NewRequestWithContext(ctx, "POST", r.front.URL+kind, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/grpc")
	resp, err := r.front.Client().Do(req)
	if err != nil && ctx.Err() != nil {
		return nil
	} else if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil && ctx.Err() == nil ||
		resp.StatusCode != 200 && ctx.Err() == nil {
		return fmt.Errorf("%d, ends in %v", resp.StatusCode, err)
	}
	return nil
}
