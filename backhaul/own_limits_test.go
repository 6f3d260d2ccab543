//go:build unix

package backhaul

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/balance"
)

// noDescriptor is what a dial returns when the process has no descriptor left.
func noDescriptor(e syscall.Errno) error {
	return &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("socket", e)}
}

// A limit of this node or of the owner is no fault of the machine: nothing counts against it, the request goes elsewhere
// while there is somewhere, and else the client may come back, since nothing was sent.
func TestOwnLimitsAreNotTheMachinesFault(t *testing.T) {
	for _, e := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL} {
		for _, where := range []string{"local", "edge", "owner"} {
			t.Run(fmt.Sprint(e, "/", where), func(t *testing.T) {
				var l log
				var short atomic.Int32 // dials that the limit stops
				var faults []Failure
				dial := func(ctx context.Context, addr string) (net.Conn, error) {
					if short.Add(-1) >= 0 {
						return nil, noDescriptor(e)
					}
					return machineDialer.DialContext(ctx, "tcp", addr)
				}
				dialMachine := func(ctx context.Context, m balance.Machine) (net.Conn, error) { return dial(ctx, m.Addr) }
				c := rigConfig{app: roomy, local: where == "local", config: Config{Trace: l.trace()}}
				c.handler.Trace.Event = on(EventFail, func(e Event) { faults = append(faults, e.Failure) })
				var r *rig
				switch where {
				case "local":
					c.config.DialMachine = dialMachine
				case "edge":
					c.config.spare = -1
					c.config.Dial = func(ctx context.Context, _ balance.NodeID) (net.Conn, error) {
						return dial(ctx, r.hop.Listener.Addr().String())
					}
				case "owner":
					c.handler.DialMachine = dialMachine
				}
				r = newRig(t, c)
				r.serve("m1", says("ok"))
				r.serve("m2", says("ok"))

				short.Store(1)
				resp, body := fetch(t, r.front.Client(), request(t, "POST", r.front.URL, strings.NewReader("once")))
				if resp.StatusCode != 200 || body != "ok" || !strings.HasSuffix(l.String(), "failed: limit") {
					t.Errorf("with one dial short: %d %q, %s; want another try", resp.StatusCode, body, &l)
				}
				r.quiet()
				if r.transport.CloseIdleConnections(); where == "owner" {
					r.handler.machines.CloseIdle()
				}

				short.Store(1000)
				resp, body = fetch(t, r.front.Client(), request(t, "POST", r.front.URL, strings.NewReader("once")))
				if resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "1" || !strings.Contains(body, e.Error()) {
					t.Errorf("with no descriptor: %d, Retry-After %q, %q; want 503", resp.StatusCode, resp.Header.Get("Retry-After"), body)
				}
				r.quiet()
				d := l.last(t, 2)
				if d.Outcome != balance.OutcomeUnserved || d.Status != 503 || d.Cause != causeLimit {
					t.Errorf("done: %+v", d)
				}
				if ids := r.blamed(); len(ids) > 0 {
					t.Errorf("counted against %v", ids)
				}
				if where == "owner" &&
					(len(faults) == 0 || slices.ContainsFunc(faults, func(f hop.Failure) bool { return f != hop.FailureLimit })) {
					t.Errorf("the owner told of %v", faults)
				}
			})
		}
	}
}

// What nobody has sent may be sent again: 503 and Retry-After, however it failed. What may have been executed is 502.
func TestWhatWasNotSentMayComeBack(t *testing.T) {
	for _, local := range []bool{false, true} {
		t.Run(fmt.Sprint("local=", local), func(t *testing.T) {
			var l log
			r := newRig(
				t,
				rigConfig{
					app: roomy, local: local, config: Config{tuning: tuning{rounds: 1}, Trace: l.trace()},
				},
			)
			r.host("m1", "127.0.0.1:1") // nobody listens
			resp, _ := fetch(t, r.front.Client(), request(t, "POST", r.front.URL, strings.NewReader("x")))
			if d := l.last(t, 1); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" ||
				d.Status != 503 ||
				d.Cause != causeMachine ||
				d.Outcome != balance.OutcomeError {
				t.Errorf(
					"refused: %d, Retry-After %q, done %+v", resp.StatusCode, resp.Header.Get("Retry-After"), d,
				)
			}
			if ids := r.blamed(); len(ids) != 1 {
				t.Errorf("a machine that refuses connections: counted against %v", ids)
			}
		})
	}
}

// A request that its own deadline ends was given up here: no failure of the machine. Before it was sent the client may come
// back; afterwards it may have been executed.
func TestARequestsOwnDeadlineIsNotTheMachinesFault(t *testing.T) {
	for _, tt := range []struct {
		name    string
		waits   bool // for a machine, rather than at one
		dials   bool // for a connection
		status  int
		outcome balance.Outcome
		failure Failure // of the last step
	}{
		{name: "waiting for a machine", waits: true, status: 503, outcome: balance.OutcomeCanceled},
		{name: "connecting", dials: true, status: 503, outcome: balance.OutcomeCanceled, failure: FailureLimit},
		{name: "at the machine", status: 504, outcome: balance.OutcomeCanceled, failure: FailureDeadline},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, err := balance.NewFleet(balance.FleetConfig{Node: "n", Region: "nrt"})
				if err != nil {
					t.Fatal(err)
				}
				if err := f.Apply(balance.PutApp{App: balance.App{ID: "web", Limits: roomy.Limits}}); err != nil {
					t.Fatal(err)
				}
				g, err := f.Host(balance.Machine{ID: "m1", App: "web", Region: "nrt", Addr: "x"})
				if err != nil {
					t.Fatal(err)
				}
				token, _ := g.Start(0)
				g.Ready(token)
				b, err := balance.New(f, balance.Config{})
				if err != nil {
					t.Fatal(err)
				}
				var last Failure
				var done Done
				picker := NoWait(b)
				if tt.waits {
					picker = forever{}
				}
				tr, err := NewTransport(picker, Config{
					MachineConfig: MachineConfig{
						dialTimeout: -1,
						DialMachine: func(ctx context.Context, _ balance.Machine) (net.Conn, error) {
							if tt.dials {
								<-ctx.Done()
								return nil, ctx.Err()
							}
							a, z := net.Pipe()
							go io.Copy(io.Discard, z) // it reads and says nothing
							return a, nil
						},
					}, Trace: Trace{
						Done: func(d Done) { done = d },
						Trail: func(t Trail) {
							for _, s := range t.Events {
								last = cmp.Or(s.Failure, last)
							}
						},
					},
				})
				if err != nil {
					t.Fatal(err)
				}
				defer tr.Close()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				req, err := http.NewRequestWithContext(ctx, "GET", "http://web/", nil)
				if err != nil {
					t.Fatal(err)
				}
				_, err = tr.RoundTrip(req)
				status, cause := classify(req, err)
				if status != tt.status || cause != causeTimeout || done.Status != status ||
					done.Cause != cause ||
					done.Outcome != tt.outcome ||
					last != tt.failure {
					t.Errorf("%v: %d %s, failure %v, done %+v", err, status, cause, last, done)
				}
				r := &rig{b: b}
				want := 0
				if tt.failure == hop.FailureDeadline {
					want = 1 // the machine says nothing: it may still be at work
				}
				if n := g.InFlight(); n != want {
					t.Errorf("%d in flight, want %d", n, want)
				}
				time.Sleep(hop.MaxHold)
				synctest.Wait()
				if ids := r.blamed(); len(ids) > 0 || g.InFlight() != 0 {
					t.Errorf("counted against %v, %d in flight", ids, g.InFlight())
				}
			})
		})
	}
}

// forever is a picker that waits as long as it may.
type forever struct{}

func (forever) Acquire(ctx context.Context, _ *balance.Request) (balance.Reservation, error) {
	<-ctx.Done()
	return balance.Reservation{}, ctx.Err()
}
