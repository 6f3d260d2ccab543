package downscale

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// awake never stops anything by itself.
var awake = Config{Window: -1, KeepAlive: -1}

func (b *bench) row(id balance.MachineID) balance.Machine {
	b.t.Helper()
	s, _ := b.fleet.App("web")
	m, ok := s.Machine(id)
	if !ok {
		b.t.Fatalf("no machine %s", id)
	}
	return m
}

// order gives an order in the background.
func (b *bench) order(ctx context.Context, id balance.MachineID, o Order) <-chan error {
	done := make(chan error, 1)
	m := b.row(id)
	go func() { done <- b.down.Stop(ctx, m, o) }()
	synctest.Wait()
	return done
}

// wantOrder waits for an order to end within a minute.
func (b *bench) wantOrder(done <-chan error, want string) {
	b.t.Helper()
	select {
	case err := <-done:
		if want == "" && err != nil ||
			want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			b.t.Errorf("the order ended with %v, want %q", err, want)
		}
	case <-time.After(2 * time.Minute):
		b.t.Errorf("the order has not ended, want %q", want)
	}
}

func TestOrders(t *testing.T) {
	var maintenance = Order{Reason: "maintenance"}
	drain := func(d time.Duration) Order { return Order{Reason: "deploy", Drain: d} }
	for _, c := range []struct {
		name   string
		config Config
		app    balance.App
		do     func(b *bench)
		log    []string
		states string
	}{
		{"an idle machine stops, minimum or not", awake, balance.App{Autostop: balance.AutostopOff, Min: 2}, func(b *bench) {
			b.wantOrder(b.order(b.t.Context(), "m1", maintenance), "")
		}, []string{"0s cordon m1: maintenance", "1.1s stop m1: maintenance", "1.2s stopped m1 in 100ms"}, "m1 stopped gone, m2 started running"},
		{"a request keeps the machine", awake, stopApp, func(b *bench) {
			done := b.order(b.t.Context(), "m1", maintenance)
			b.request("m1")()
			b.wantOrder(done, "the machine runs on: web/m1: a request had no better machine")
		}, nil, "m1 started running, m2 started running"},
		{"a request that came before keeps it too", awake, stopApp, func(b *bench) {
			leave := b.request("m1")
			done := b.order(b.t.Context(), "m1", maintenance)
			b.wantOrder(done, "it did not become idle in time")
			leave()
		}, []string{"0s cordon m1: maintenance", "30s uncordon m1: it did not become idle in time"}, "m1 started running, m2 started running"},
		{"with Drain the gate closes over requests, and waits for them", awake, stopApp, func(b *bench) {
			leave := b.request("m1")
			done := b.order(b.t.Context(), "m1", drain(time.Minute))
			time.Sleep(19950 * time.Millisecond)
			if l, bounce := b.gate("m1").Enter(0, 0, 0); bounce != balance.BounceClosing || l.InFlight != 1 {
				b.t.Errorf("while draining: %v with %d in flight", bounce, l.InFlight)
			}
			leave()
			b.wantOrder(done, "")
		}, []string{"0s cordon m1: deploy", "1.1s draining m1: deploy", "20s stop m1: deploy", "20.1s stopped m1 in 100ms"}, "m1 stopped gone, m2 started running"},
		{"what is in flight after Drain is cut off, and not suspended", awake, stopApp, func(b *bench) {
			b.driver.draining = true
			b.request("m1")
			b.wantOrder(b.order(b.t.Context(), "m1", Order{Reason: "deploy", Drain: 5 * sec, Suspend: true}), "")
		}, []string{"0s cordon m1: deploy", "1.1s draining m1: deploy", "6.1s stop m1: deploy", "6.2s stopped m1 in 100ms"}, "m1 stopped gone, m2 started running"},
		{"an order to suspend", awake, stopApp, func(b *bench) {
			b.wantOrder(b.order(b.t.Context(), "m1", Order{Suspend: true}), "")
		}, []string{"0s cordon m1: by order", "1.1s suspend m1: by order", "1.2s suspended m1 in 100ms"}, "m1 suspended frozen, m2 started running"},
		{"a node that acknowledges nothing is not waited for any longer", Config{Window: -1, KeepAlive: -1, Views: &views{silent: true}}, stopApp, func(b *bench) {
			b.wantOrder(b.order(b.t.Context(), "m1", maintenance), "")
		}, []string{"0s cordon m1: maintenance", "31.1s stop m1: maintenance", "31.2s stopped m1 in 100ms"}, "m1 stopped gone, m2 started running"},
		{"and with Drain the gate closes", Config{Window: -1, KeepAlive: -1, Views: &views{silent: true}}, stopApp, func(b *bench) {
			b.wantOrder(b.order(b.t.Context(), "m1", drain(sec)), "")
		}, []string{"0s cordon m1: deploy", "30s draining m1: deploy", "30.1s stop m1: deploy", "30.2s stopped m1 in 100ms"}, "m1 stopped gone, m2 started running"},
		{"who recalls it has nothing better: it stays", awake, stopApp, func(b *bench) {
			done := b.order(b.t.Context(), "m1", maintenance)
			b.recall("m1")
			b.wantOrder(done, "it was recalled")
		}, nil, "m1 started running, m2 started running"},
		{"with Drain a recall comes too late", awake, stopApp, func(b *bench) {
			done := b.order(b.t.Context(), "m1", drain(sec))
			b.recall("m1")
			b.wantOrder(done, "")
		}, []string{"0s cordon m1: deploy", "100ms draining m1: deploy", "200ms stop m1: deploy", "300ms stopped m1 in 100ms"}, "m1 stopped gone, m2 started running"},
		{"with Drain a request that knew the cordon does not keep it", awake, stopApp, func(b *bench) {
			done := b.order(b.t.Context(), "m1", drain(10*sec))
			leave := b.request("m1")
			time.Sleep(2950 * time.Millisecond)
			leave()
			b.wantOrder(done, "")
		}, []string{"0s cordon m1: deploy", "1.1s draining m1: deploy", "3s stop m1: deploy", "3.1s stopped m1 in 100ms"}, "m1 stopped gone, m2 started running"},
		{"surplus already: it counts as ordered from then on", quick, balance.App{Autostop: balance.AutostopStop, Min: 1}, func(b *bench) {
			time.Sleep(5450 * time.Millisecond)
			b.gate("m1").Enter(0, 0, 0) // keeps a surplus machine from being stopped
			done := b.order(b.t.Context(), "m1", drain(5*sec))
			b.driver.set(func() { b.driver.draining = true })
			b.wantOrder(done, "")
		}, nil, "m1 stopped gone, m2 started running"},
		{"the driver cannot", awake, stopApp, func(b *bench) {
			b.driver.refuse = errors.New("fake: no")
			b.wantOrder(b.order(b.t.Context(), "m1", maintenance), "the driver could not stop it")
		}, nil, "m1 started running, m2 started running"},
		{"an order that is withdrawn", awake, stopApp, func(b *bench) {
			ctx, cancel := context.WithCancel(b.t.Context())
			done := b.order(ctx, "m1", maintenance)
			cancel()
			b.wantOrder(done, "context canceled")
			time.Sleep(sec)
		}, []string{"0s cordon m1: maintenance", "0s uncordon m1: the order was withdrawn"}, "m1 started running, m2 started running"},
		{"one that is withdrawn behind the gate is carried out", awake, stopApp, func(b *bench) {
			ctx, cancel := context.WithCancel(b.t.Context())
			leave := b.request("m1")
			done := b.order(ctx, "m1", drain(time.Minute))
			time.Sleep(1950 * time.Millisecond)
			cancel()
			b.wantOrder(done, "context canceled")
			leave()
			time.Sleep(sec)
		}, []string{"0s cordon m1: deploy", "1.1s draining m1: deploy", "2s stop m1: deploy", "2.1s stopped m1 in 100ms"}, "m1 stopped gone, m2 started running"},
		{"two orders for one machine: the firm one holds", awake, stopApp, func(b *bench) {
			leave := b.request("m1")
			one := b.order(b.t.Context(), "m1", maintenance)
			two := b.order(b.t.Context(), "m1", drain(time.Minute))
			time.Sleep(10 * sec)
			leave()
			b.wantOrder(one, "")
			b.wantOrder(two, "")
		}, nil, "m1 stopped gone, m2 started running"},
		{"a machine that has stopped, and a run that is over", awake, stopApp, func(b *bench) {
			old := b.row("m1")
			b.gate("m1").Exited(1, false)
			b.wantOrder(b.order(b.t.Context(), "m1", maintenance), "")
			b.boot("m1")
			if err := b.down.Stop(b.t.Context(), old, maintenance); err != nil {
				b.t.Errorf("stop of a run that is over: %v", err)
			}
		}, nil, "m1 started running, m2 started running"},
		{"a machine that starts is waited for", awake, stopApp, func(b *bench) {
			g := b.gate("m1")
			g.Exited(1, false)
			token, _ := g.Start(1)
			done := b.order(b.t.Context(), "m1", maintenance)
			time.Sleep(5 * sec)
			g.Ready(token)
			b.wantOrder(done, "")
		}, nil, "m1 stopped gone, m2 started running"},
		{"a machine that ends by itself", awake, stopApp, func(b *bench) {
			leave := b.request("m1")
			done := b.order(b.t.Context(), "m1", maintenance)
			time.Sleep(sec)
			b.gate("m1").Exited(1, true)
			leave()
			b.wantOrder(done, "")
		}, nil, "m1 failed running, m2 started running"},
		{"a machine that leaves the fleet", awake, stopApp, func(b *bench) {
			defer b.request("m1")()
			done := b.order(b.t.Context(), "m1", maintenance)
			b.gate("m1").Exited(1, false) // what runs is not removed
			if err := b.fleet.Apply(balance.RemoveMachine{App: "web", ID: "m1", Version: balance.Version{Incarnation: 1, Seq: 1 << 40}}); err != nil {
				b.t.Fatal(err)
			}
			b.wantOrder(done, "")
		}, nil, "m2 started running"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, c.config, c.app, "m1", "m2")
				end := b.run()
				synctest.Wait()
				c.do(b)
				if c.log != nil {
					b.want(c.log...)
				}
				b.wantStates(c.states)
				if err := end(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestOrdersThatMakeNoSense(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, awake, stopApp, "m1")
		if err := b.down.Stop(t.Context(), balance.Machine{ID: "x", App: "web"}, Order{}); err == nil ||
			errors.Is(err, ErrBusy) {
			t.Errorf("somebody else's machine: %v", err)
		}
		if err := b.down.Stop(t.Context(), b.row("m1"), Order{Drain: -1}); err == nil ||
			!strings.Contains(err.Error(), "Order.Drain -1ns") {
			t.Errorf("negative drain: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), sec)
		defer cancel()
		if err := b.down.Stop(ctx, b.row("m1"), Order{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("without Run: %v", err)
		}
	})
}

func TestRunEndsWithOrdersOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, awake, stopApp, "m1", "m2", "m3")
		end := b.run()
		leave := b.request("m2")
		cordoned := b.order(t.Context(), "m1", Order{})
		draining := b.order(t.Context(), "m2", Order{Drain: time.Hour})
		time.Sleep(5 * sec)
		b.wantOrder(cordoned, "")
		again := b.request("m3")
		waits := b.order(t.Context(), "m3", Order{})
		if err := end(); err != nil {
			t.Error(err)
		}
		b.wantOrder(draining, "Run has ended")
		b.wantOrder(waits, "Run has ended")
		b.wantStates("m1 stopped gone, m2 started running, m3 started running")
		if c := b.row("m3").Cordon; c != balance.CordonNone {
			t.Errorf("m3 is left with cordon %v", c)
		}
		leave()
		again()
	})
}

// A look gives at most one command. What was seen before an order was carried out is not used after
// it: without Quiet, a cordon that does not exist yet would look like one that somebody has ended,
// and the gate would close at once over requests whose nodes know nothing of it.
func TestAnOrderDoesNotActOnAnOldLook(t *testing.T) {
	for _, row := range []struct {
		name  string
		views *views
		log   []string
	}{
		{"acknowledged: on the next look", &views{}, []string{
			"0s cordon m1: deploy", "100ms draining m1: deploy", "5.1s stop m1: deploy",
			"5.2s stopped m1 in 100ms",
		}},
		{"not acknowledged: after 30 s", &views{silent: true}, []string{
			"0s cordon m1: deploy", "30s draining m1: deploy", "35s stop m1: deploy",
			"35.1s stopped m1 in 100ms",
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := awake
				c.Quiet, c.Views = -1, row.views
				b := newBench(t, c, stopApp, "m1")
				b.driver.draining = true
				leave := b.request("m1")
				defer leave()
				defer b.run()()
				synctest.Wait()
				b.wantOrder(b.order(t.Context(), "m1", Order{Reason: "deploy", Drain: 5 * sec}), "")
				b.want(row.log...)
			})
		})
	}
}
