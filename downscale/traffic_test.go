package downscale

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Clients come and go in waves while machines fall asleep and are woken: no request is lost, and
// none is ever on a machine that does not run.
func TestTrafficInWavesLosesNothing(t *testing.T) {
	for _, autostop := range []balance.Autostop{balance.AutostopStop, balance.AutostopSuspend} {
		t.Run(autostop.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { waves(t, autostop) })
		})
	}
}

func waves(t *testing.T, autostop balance.Autostop) {
	wavesWith(t, autostop, func(*bench) {}, func() {})
}

// wavesWith runs something else meanwhile, and calls ended at the end.
func wavesWith(t *testing.T, autostop balance.Autostop, meanwhile func(*bench), ended func()) {
	app := balance.App{Autostop: autostop, Limits: balance.Limits{Soft: 4, Hard: 8}}
	c := Config{Window: 10 * sec, KeepAlive: 2 * sec}
	b := newBench(t, c, app, "m1", "m2", "m3", "m4")
	b.fleet.Keep(balance.Keeper{Wanted: func(_ balance.AppID, id balance.MachineID) { go b.wake(id) }})
	lb, err := balance.New(b.fleet, balance.Config{})
	if err != nil {
		t.Fatal(err)
	}
	go lb.Run(t.Context())
	var served, stops atomic.Int64
	b.down.config.Trace.Stopped = func(balance.Machine, time.Duration) { stops.Add(1) }
	b.down.config.Trace.Suspended = b.down.config.Trace.Stopped
	end := b.run()
	var other sync.WaitGroup
	other.Go(func() { meanwhile(b) })
	until := time.Now().Add(2 * time.Minute)
	var clients sync.WaitGroup
	for i := range 16 {
		r := rand.New(rand.NewPCG(1, uint64(i)))
		clients.Go(func() {
			for time.Now().Before(until) {
				if time.Since(b.start)%(12*sec) >= 6*sec && i > 0 { // one of them is always there, sometimes
					time.Sleep(100 * time.Millisecond)
					continue
				}
				if i == 0 {
					time.Sleep(time.Duration(r.IntN(4000)) * time.Millisecond)
				}
				b.serve(lb, time.Duration(r.IntN(80)+1)*time.Millisecond)
				served.Add(1)
			}
		})
	}
	clients.Wait()
	ended()
	other.Wait()
	time.Sleep(15 * sec)
	if err := end(); err != nil {
		t.Error(err)
	}
	if lb.InFlight("web") != 0 {
		t.Errorf("%d requests are still counted", lb.InFlight("web"))
	}
	for _, id := range []balance.MachineID{"m1", "m2", "m3", "m4"} {
		if g := b.gate(id); g.State() == balance.StateStarted || g.InFlight() != 0 {
			t.Errorf("%s is %v with %d in flight after all that", id, g.State(), g.InFlight())
		}
	}
	if served.Load() < 1000 || stops.Load() < 4 {
		t.Errorf("%d requests and %d stops are no test", served.Load(), stops.Load())
	}
	t.Logf("%d requests, %d stops", served.Load(), stops.Load())
}

// serve brings one request to a machine and back, however often it has to try.
func (b *bench) serve(lb *balance.Balancer, takes time.Duration) {
	began := time.Now()
	for tries := 0; ; tries++ {
		if time.Since(began) > 30*sec {
			b.t.Errorf("a request found no machine in %d tries", tries)
			return
		}
		r, err := lb.Pick(balance.Request{App: "web"})
		if err != nil {
			b.wakeFirst()
			time.Sleep(50 * time.Millisecond)
			continue
		}
		m, g := *r.Machine(), r.Gate()
		load, bounce := g.Enter(0, m.Epoch, m.CordonGen)
		r.Observe(load)
		if bounce != balance.BounceNone {
			r.Release(balance.OutcomeBounced)
			time.Sleep(time.Millisecond)
			continue
		}
		b.runs(m.ID)
		time.Sleep(takes)
		b.runs(m.ID)
		g.Leave()
		r.Release(balance.OutcomeDone)
		return
	}
}

// runs checks that a machine with a request on it runs.
func (b *bench) runs(id balance.MachineID) {
	b.driver.set(func() {
		if is := b.driver.is[id]; is != "running" {
			b.t.Errorf("a request is on %s, which is %s", id, is)
		}
	})
}

// wakeFirst starts the first machine of the order that can be started; during a stop the start is
// remembered.
func (b *bench) wakeFirst() {
	for _, id := range []balance.MachineID{"m2", "m1", "m3", "m4"} {
		if s := b.gate(id).State(); s == balance.StateStarting {
			return
		} else if s != balance.StateStarted {
			b.wake(id)
			return
		}
	}
}

func (b *bench) wake(id balance.MachineID) {
	g := b.gate(id)
	token, a := g.Start(g.Load().Epoch)
	if a != balance.StartAccepted {
		return
	}
	go func() {
		time.Sleep(300 * time.Millisecond)
		b.driver.set(func() { b.driver.is[id] = "running" })
		if !g.Ready(token) {
			b.t.Error(fmt.Sprint("the start of ", id, " was lost"))
		}
	}()
}
