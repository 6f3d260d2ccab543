package downscale

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale/policy"
)

// The invariants of the stop protocol, one by one, on the real shell. The exhaustive model and the
// rapid machines check them in every order of events; this test is easier to read.
func TestInvariants(t *testing.T) {
	for _, row := range []struct {
		name string
		test func(t *testing.T)
	}{
		{"B1 the driver is told only behind a closed gate with nothing in flight", func(t *testing.T) {
			b := newBench(t, quick, stopApp, "m1", "m2", "m3") // whose driver insists on it
			defer b.run()()
			for i := range 400 {
				leave := b.maybe(balance.MachineID(fmt.Sprint("m", 1+i%3)), uint64(i%2))
				time.Sleep(time.Duration(100+i*7%900) * time.Millisecond)
				leave()
			}
			time.Sleep(20 * sec)
			b.wantStates("m1 stopped gone, m2 stopped gone, m3 stopped gone")
		}},
		{"B2 nothing is admitted from closing to stopped, and who is bounced learns why", func(t *testing.T) {
			b := newBench(t, quick, stopApp, "m1")
			b.driver.takes = 2 * sec
			defer b.run()()
			time.Sleep(7 * sec)
			if l, bounce := b.gate("m1").Enter(0, 1, 99); bounce != balance.BounceClosing || l.State != balance.StateStopping || l.Epoch != 1 {
				t.Errorf("while stopping: %v, %+v", bounce, l)
			}
			time.Sleep(2 * sec)
			if l, bounce := b.gate("m1").Enter(0, 1, 99); bounce != balance.BounceNotStarted || l.State != balance.StateStopped {
				t.Errorf("when stopped: %v, %+v", bounce, l)
			}
		}},
		{"B3 an admission that knew the cordon leads back to active", func(t *testing.T) {
			b := newBench(t, quick, stopApp, "m1")
			defer b.run()()
			for range 5 {
				for b.row("m1").Cordon != balance.CordonSoft {
					time.Sleep(50 * time.Millisecond)
				}
				b.request("m1")()
				time.Sleep(250 * time.Millisecond)
				if m := b.row("m1"); m.State != balance.StateStarted || m.Cordon != balance.CordonNone {
					t.Fatalf("after a request %v with cordon %v", m.State, m.Cordon)
				}
			}
		}},
		{"B4, B8 owners that only hear of each other late keep the minimum, and stop from the back of the order", func(t *testing.T) {
			app := stopApp
			app.Min = 2
			ids := [][]balance.MachineID{{"m1", "m2"}, {"m3", "m4"}, {"m5"}}
			var nodes []*bench
			for i, own := range ids {
				nodes = append(nodes, newBenchAt(t, balance.NodeID(fmt.Sprint("worker-", i)), quick, app, own...))
			}
			for _, b := range nodes {
				defer b.run()()
			}
			for seq := range uint64(60) {
				for _, from := range nodes {
					s, _ := from.fleet.App("web")
					var rows []balance.Update
					for m := range s.All() {
						if m.Owner == from.fleet.Node() {
							rows = append(rows, balance.PutMachine{Machine: *m, Version: balance.Version{Incarnation: 1, Seq: seq + 1}})
						}
					}
					time.AfterFunc(1500*time.Millisecond, func() {
						for _, to := range nodes {
							if to != from {
								if err := to.fleet.Apply(rows...); err != nil {
									t.Error(err)
								}
							}
						}
					})
				}
				time.Sleep(500 * time.Millisecond)
			}
			var all, up []balance.Machine
			for _, b := range nodes {
				s, _ := b.fleet.App("web")
				for m := range s.All() {
					if m.Owner != b.fleet.Node() {
						continue
					}
					if all = append(all, *m); m.State == balance.StateStarted {
						up = append(up, *m)
					}
				}
			}
			order := func(a, b balance.Machine) int { return a.Compare(&b) }
			slices.SortFunc(all, order)
			slices.SortFunc(up, order)
			if len(up) != 2 || up[0].ID != all[0].ID || up[1].ID != all[1].ID {
				t.Errorf("running: %v, want the first two of %v", up, all)
			}
		}},
		{"B5 one operation at a time, and an answer that comes too late changes nothing", func(t *testing.T) {
			c := quick
			c.StopTimeout = 2 * sec
			b := newBench(t, c, stopApp, "m1") // whose driver insists on the first
			b.driver.takes = 10 * sec
			defer b.run()()
			time.Sleep(30 * sec)
			b.driver.set(func() { b.driver.takes = 0 })
			time.Sleep(30 * sec)
			b.wantStates("m1 stopped gone")
			b.boot("m1")
			time.Sleep(sec)
			b.wantStates("m1 started running")
		}},
		{"B6 without load everything stops, however often a stop is aborted on the way", func(t *testing.T) {
			var ids []balance.MachineID
			for i := range 30 {
				ids = append(ids, balance.MachineID(fmt.Sprint("m", i)))
			}
			b := newBench(t, quick, stopApp, ids...)
			defer b.run()()
			defer b.request(ids[0])() // keeps the keep-alive from doing it all at once
			for range 30 {
				time.Sleep(700 * time.Millisecond)
				b.maybe("m7", 0)()
			}
			time.Sleep(10*sec + 30*(2*sec+300*time.Millisecond))
			synctest.Wait()
			if s := b.states(); strings.Count(s, "started") != 1 || !strings.HasPrefix(s, "m0 started") {
				t.Errorf("want m0 only: %s", s)
			}
		}},
		{"B9 acknowledgements that are late, repeated and lost change when, and nothing else", func(t *testing.T) {
			for n := range int64(8) {
				synctest.Wait()
				c := quick
				c.Views = &views{every: n + 1}
				b := newBench(t, c, stopApp, "m1")
				end := b.run()
				time.Sleep(2 * time.Minute)
				b.wantStates("m1 stopped gone")
				end()
			}
		}},
		{"B10 what was sent for an older epoch is refused after a resume", func(t *testing.T) {
			app := stopApp
			app.Autostop = balance.AutostopSuspend
			b := newBench(t, quick, app, "m1")
			defer b.run()()
			epoch := b.gate("m1").Load().Epoch
			time.Sleep(8 * sec)
			b.wantStates("m1 suspended frozen")
			b.boot("m1")
			if l, bounce := b.gate("m1").Enter(0, epoch, 0); bounce != balance.BounceWrongEpoch || l.Epoch != epoch+1 {
				t.Errorf("%v, %+v", bounce, l)
			}
		}},
		{"B11 wherever the downscaler is cut off, the next one leads the machine to active or stopped", func(t *testing.T) {
			for cut := time.Duration(0); cut < 9*sec; cut += 150 * time.Millisecond {
				c := quick
				c.Window, c.Views = -1, &views{every: 9}
				b := newBench(t, c, stopApp, "m1")
				b.driver.takes = 600 * time.Millisecond
				end := b.run()
				time.Sleep(cut)
				if err := end(); err != nil {
					t.Errorf("cut off after %v: %v", cut, err)
				}
				if m := b.row("m1"); m.Cordon != balance.CordonNone || m.State != balance.StateStarted && m.State != balance.StateStopped {
					t.Errorf("cut off after %v: %v with cordon %v", cut, m.State, m.Cordon)
				}
				end = b.run()
				time.Sleep(20 * sec)
				b.wantStates("m1 stopped gone")
				end()
			}
		}},
	} {
		t.Run(row.name, func(t *testing.T) { synctest.Test(t, row.test) })
	}
}

// maybe puts a request on a machine if the machine admits it. The request knows a cordon of that
// many generations ago.
func (b *bench) maybe(id balance.MachineID, old uint64) (leave func()) {
	g := b.gate(id)
	gen := g.Load().CordonGen
	if _, bounce := g.Enter(0, 0, gen-min(gen, old)); bounce != balance.BounceNone {
		return func() {}
	}
	return g.Leave
}

// Faults that were found elsewhere, so that they do not happen here.
func TestRegressions(t *testing.T) {
	for _, row := range []struct {
		name string
		test func(t *testing.T)
	}{
		{"karpenter 651: work that arrives between the decision and the stop is never stopped", func(t *testing.T) {
			for at := 4900 * time.Millisecond; at < 6500*time.Millisecond; at += 30 * time.Millisecond {
				b := newBench(t, quick, stopApp, "m1") // whose driver insists on nothing in flight
				end := b.run()
				time.Sleep(at)
				g := b.gate("m1")
				_, bounce := g.Enter(0, 0, g.Load().CordonGen)
				time.Sleep(5 * sec)
				if admitted, up := bounce == balance.BounceNone, g.State() == balance.StateStarted; admitted != up {
					t.Errorf("a request at %v: %v, and 5 s later the machine is %v", at, bounce, g.State())
				}
				if bounce == balance.BounceNone {
					g.Leave()
				}
				end()
			}
		}},
		{"karpenter 3185: who sees an idle machine because its view is old does not stop it", func(t *testing.T) {
			said := &views{}
			c := quick
			c.Views = said
			b := newBench(t, c, stopApp, "m1", "m2")
			defer b.run()()
			time.Sleep(4 * sec)
			said.stale.Store(true)
			time.Sleep(time.Minute)
			b.want()
			said.stale.Store(false)
			time.Sleep(500 * time.Millisecond)
			// Even if the decision is made on an old view, the gate prevents the stop.
			defer b.request("m1")()
			time.Sleep(10 * sec)
			if s := b.states(); !strings.HasPrefix(s, "m1 started") {
				t.Error(s)
			}
		}},
		{"sablier 576: a stream keeps its machine, however long nothing new comes", func(t *testing.T) {
			b := newBench(t, quick, stopApp, "m1")
			defer b.run()()
			leave := b.request("m1")
			time.Sleep(3 * time.Hour)
			b.want()
			leave()
			time.Sleep(10 * sec)
			b.wantStates("m1 stopped gone")
		}},
		{"sablier's expiry race: a start between expiry and stop is not killed by the late stop", func(t *testing.T) {
			for at := 5 * sec; at < 9*sec; at += 170 * time.Millisecond {
				b := newBench(t, quick, stopApp, "m1")
				b.fleet.Keep(balance.Keeper{Wanted: func(_ balance.AppID, id balance.MachineID) { b.boot(id) }})
				b.driver.takes = 2 * sec
				end := b.run()
				time.Sleep(at)
				leave := b.maybe("m1", 0)
				g := b.gate("m1")
				if token, a := g.Start(g.Load().Epoch); a == balance.StartAccepted {
					b.driver.set(func() { b.driver.is["m1"] = "running" })
					g.Ready(token)
				}
				time.Sleep(3 * sec)
				b.wantStates("m1 started running")
				leave()
				end()
			}
		}},
		{"argo-rollouts 4534: a third revision arrives while the second replaces the first", func(t *testing.T) {
			var revision atomic.Value
			revision.Store("v1")
			c := Config{Window: 5 * sec, KeepAlive: -1, Views: &views{every: 40}, Policy: func(balance.AppID) policy.Policy {
				d, err := policy.NewDecider(policy.Config{Window: 5 * sec, KeepAlive: -1})
				if err != nil {
					t.Fatal(err)
				}
				return policyFunc(func(now time.Time, s policy.Situation) []policy.Decision {
					s.Revision = revision.Load().(string)
					return d.Decide(now, s)
				})
			}}
			app := stopApp
			var ids []balance.MachineID
			for i := range 9 {
				ids = append(ids, balance.MachineID(fmt.Sprint("m", i)))
			}
			b := newBench(t, c, app, ids...)
			for i, id := range ids {
				if err := b.fleet.Edit("web", id, func(m *balance.Machine) { m.Revision = fmt.Sprint("v", 1+i/3) }); err != nil {
					t.Fatal(err)
				}
			}
			for _, id := range ids[6:] {
				b.gate(id).Exited(1, false) // of the third revision there is nothing yet
			}
			end := b.run()
			const demand = 20 // needs 3 of 10 at 0.8
			open := map[balance.MachineID][]func(){}
			for at := range 600 {
				switch at {
				case 60:
					revision.Store("v2")
				case 110: // in the middle of it
					revision.Store("v3")
					for _, id := range ids[6:] {
						b.boot(id)
					}
				}
				var up []balance.MachineID
				for _, id := range ids {
					if b.gate(id).State() == balance.StateStarted && b.row(id).Cordon == balance.CordonNone {
						up = append(up, id)
					}
					for _, leave := range open[id] {
						leave()
					}
					open[id] = nil
				}
				for k := range demand {
					id := up[k%len(up)]
					open[id] = append(open[id], b.request(id))
				}
				if len(up) < 3 {
					t.Fatalf("after %d steps %d machines for a load of %d", at, len(up), demand)
				}
				time.Sleep(150 * time.Millisecond)
			}
			for _, leaves := range open {
				for _, leave := range leaves {
					leave()
				}
			}
			if err := end(); err != nil {
				t.Error(err)
			}
			s, _ := b.fleet.App("web")
			for m := range s.All() {
				if m.State == balance.StateStarted && m.Revision != "v3" {
					t.Errorf("%s of an old revision still runs: %s", m.ID, b.states())
				}
			}
		}},
		{"http-add-on 882: the keep-alive counts from the last request, not from the start", func(t *testing.T) {
			b := newBench(t, quick, stopApp, "m1")
			defer b.run()()
			time.Sleep(450 * time.Millisecond)
			for range 20 {
				time.Sleep(3 * sec)
				b.request("m1")() // seen a second later at most
			}
			time.Sleep(5 * sec)
			b.want()
			time.Sleep(2 * sec)
			b.want("1m6s cordon m1: keep-alive 5s over: no request since 5s", "1m7.1s stop m1: keep-alive 5s over: no request since 5s", "1m7.2s stopped m1 in 100ms")
		}},
	} {
		t.Run(row.name, func(t *testing.T) { synctest.Test(t, row.test) })
	}
}

// An order through the maintenance endpoint stops a machine each second, under traffic in waves,
// and nothing is lost.
func TestMaintenanceUnderTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		wavesWith(t, balance.AutostopSuspend, func(b *bench) {
			for i := 0; ctx.Err() == nil; i++ {
				time.Sleep(sec)
				go b.down.Stop(
					ctx, b.row(balance.MachineID(fmt.Sprint("m", 1+i%4))),
					Order{Reason: "maintenance", Drain: 10 * sec, Suspend: i%2 == 0},
				)
			}
		}, cancel)
	})
}
