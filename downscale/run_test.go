package downscale

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale/policy"
)

func TestIdleAppSleeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, quick, stopApp, "m1", "m2")
		defer b.run()()
		time.Sleep(3500 * time.Millisecond)
		b.request("m1")() // came and went between two looks
		time.Sleep(5 * sec)
		b.want()
		time.Sleep(20 * sec)
		b.want(
			"9s cordon m2: keep-alive 5s over: no request since 5s",
			"9s cordon m1: keep-alive 5s over: no request since 5s",
			"10.1s stop m2: keep-alive 5s over: no request since 5s",
			"10.1s stop m1: keep-alive 5s over: no request since 5s",
			"10.2s stopped m2 in 100ms",
			"10.2s stopped m1 in 100ms",
		)
		b.wantStates("m1 stopped gone, m2 stopped gone")
		b.boot("m1")
		time.Sleep(7 * sec)
		b.wantStates("m1 stopped gone, m2 stopped gone")
	})
}

func TestTrafficDuringCordonAborts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, quick, stopApp, "m1")
		defer b.run()()
		time.Sleep(5450 * time.Millisecond)
		b.want("5s cordon m1: keep-alive 5s over: no request since 5s")
		b.request("m1")()
		time.Sleep(sec)
		b.want("5.5s uncordon m1: a request had no better machine")
		b.wantStates("m1 started running")
		time.Sleep(7 * sec)
		b.wantStates("m1 stopped gone")
	})
}

func TestARequestThatDidNotKnowTheCordonIsServedAndDoesNotAbort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, quick, stopApp, "m1", "m2")
		defer b.run()()
		open := b.request("m2") // keeps the app awake
		time.Sleep(10500 * time.Millisecond)
		b.want("10s cordon m1: window 10s peak 1 <= 0.8 x 10 without m1")
		if _, bounce := b.gate("m1").Enter(0, 0, 0); bounce != balance.BounceNone {
			t.Errorf("a soft-cordoned machine bounces: %v", bounce)
		}
		time.Sleep(2950 * time.Millisecond)
		b.gate("m1").Leave()
		time.Sleep(2 * sec)
		b.want("14.5s stop m1: window 10s peak 1 <= 0.8 x 10 without m1", "14.6s stopped m1 in 100ms")
		open()
	})
}

func TestARequestBetweenTwoLooksIsWaitedForToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, quick, stopApp, "m1", "m2")
		defer b.run()()
		defer b.request("m2")()
		time.Sleep(10950 * time.Millisecond)
		b.gate("m1").Enter(0, 0, 0)
		b.gate("m1").Leave()
		time.Sleep(2 * sec)
		b.want(
			"10s cordon m1: window 10s peak 1 <= 0.8 x 10 without m1",
			"12.1s stop m1: window 10s peak 1 <= 0.8 x 10 without m1", "12.2s stopped m1 in 100ms",
		)
	})
}

func TestOpenRequestVetoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, quick, stopApp, "m1", "m2")
		defer b.run()()
		one, two := b.request("m1"), b.request("m2") // connections that stay
		time.Sleep(39 * sec)
		b.want("10s cordon m1: window 10s peak 2 <= 0.8 x 10 without m1")
		time.Sleep(2 * sec)
		// The other is tried next, and after the back-off the first again; neither is ever stopped.
		b.want(
			"40s uncordon m1: it did not become idle in time",
			"40s cordon m2: window 10s peak 2 <= 0.8 x 10 without m2",
		)
		time.Sleep(10 * time.Minute)
		b.wantStates("m1 started running, m2 started running")
		one()
		two()
		b.forget()
		time.Sleep(time.Minute)
		b.wantStates("m1 stopped gone, m2 stopped gone")
	})
}

func TestMinimumStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		app := stopApp
		app.Min = 1
		b := newBench(t, quick, app, "m1", "m2", "m3")
		defer b.run()()
		time.Sleep(time.Minute)
		b.wantStates(
			"m1 stopped gone, m2 started running, m3 stopped gone",
		) // m2 is the first of the canonical order
	})
}

func TestLoadForTwoKeepsTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, quick, stopApp, "m1", "m2", "m3", "m4")
		defer b.run()()
		for range 10 {
			b.request("m1")
		}
		time.Sleep(10 * time.Minute)
		if s := b.states(); strings.Count(s, "started") != 2 || !strings.HasPrefix(s, "m1 started") {
			t.Errorf("at a load of 10 with a soft limit of 10: %s, want m1 and one more", s)
		}
	})
}

func TestSuspendFallsBackToStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		app := stopApp
		app.Autostop = balance.AutostopSuspend
		b := newBench(t, quick, app, "m1")
		defer b.run()()
		time.Sleep(8 * sec)
		b.want(
			"5s cordon m1: keep-alive 5s over: no request since 5s",
			"6.1s suspend m1: keep-alive 5s over: no request since 5s", "6.2s suspended m1 in 100ms",
		)
		b.wantStates("m1 suspended frozen")
		b.boot("m1")
		b.driver.set(func() { b.driver.suspend = fmt.Errorf("fake: suspend: %w", errors.ErrUnsupported) })
		time.Sleep(9 * sec)
		b.want("14s cordon m1: keep-alive 5s over: no request since 5s", "15.1s suspend m1: keep-alive 5s over: no request since 5s",
			"15.2s stop m1: keep-alive 5s over: no request since 5s", "15.3s stopped m1 in 100ms")
		b.wantStates("m1 stopped gone")
	})
}

func TestStartWantedWhileStoppingIsDoneAfterwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, quick, stopApp, "m1")
		b.fleet.Keep(balance.Keeper{Wanted: func(_ balance.AppID, id balance.MachineID) {
			if s := b.gate(id).State(); s != balance.StateStopped {
				t.Errorf("start of a machine that is %v", s)
			}
			b.say("start %s", id)
			b.boot(id)
		}})
		b.driver.takes = 2 * sec
		defer b.run()()
		time.Sleep(7 * sec)
		if _, a := b.gate("m1").Start(b.gate("m1").Load().Epoch); a != balance.StartRemembered {
			t.Errorf("start while stopping: %v", a)
		}
		time.Sleep(2 * sec)
		b.want(
			"5s cordon m1: keep-alive 5s over: no request since 5s",
			"6.1s stop m1: keep-alive 5s over: no request since 5s", "8.1s stopped m1 in 2s",
			"8.1s start m1",
		)
		b.wantStates("m1 started running")
	})
}

// recall ends the cordon of a machine at its gate, as its owner does on request.
func (b *bench) recall(id balance.MachineID) bool {
	s, _ := b.fleet.App("web")
	m, _ := s.Machine(id)
	return b.gate(id).Uncordon(m.CordonGen)
}

func TestRecall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, quick, stopApp, "m1")
		b.driver.takes = 2 * sec
		defer b.run()()
		time.Sleep(5550 * time.Millisecond)
		if !b.recall("m1") {
			t.Error("a cordoned machine cannot be recalled")
		}
		time.Sleep(100 * time.Millisecond)
		b.want(
			"5s cordon m1: keep-alive 5s over: no request since 5s", "5.6s uncordon m1: it was recalled",
		)
		time.Sleep(7850 * time.Millisecond)
		b.want(
			"11s cordon m1: keep-alive 5s over: no request since 5s",
			"12.1s stop m1: keep-alive 5s over: no request since 5s",
		)
		if b.recall("m1") {
			t.Error("a machine whose gate has closed was recalled")
		}
		b.forget()
	})
}

func TestNoAcknowledgementNoStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := quick
		c.Views = &views{silent: true}
		b := newBench(t, c, stopApp, "m1")
		defer b.run()()
		time.Sleep(35500 * time.Millisecond)
		b.want(
			"5s cordon m1: keep-alive 5s over: no request since 5s",
			"35s uncordon m1: not every node acknowledged the cordon in time",
		)
		time.Sleep(2 * sec)
		b.want("37s cordon m1: keep-alive 5s over: no request since 37s")
		b.wantStates("m1 started running")
	})
}

func TestParkedAndStaleHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, d := quick, &views{}
		c.Views = d
		d.stale.Store(true)
		b := newBench(t, c, stopApp, "m1")
		defer b.run()()
		time.Sleep(time.Minute - sec/2)
		b.want()
		d.stale.Store(false)
		time.Sleep(1100 * time.Millisecond)
		d.parked.Store(1)
		time.Sleep(time.Minute)
		b.want(
			"1m0s cordon m1: keep-alive 5s over: no request since 1m", "1m1s uncordon m1: 1 request parked",
		)
		b.wantStates("m1 started running")
	})
}

func TestNothingIsLeftCordoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, quick, stopApp, "m1", "m2")
		b.driver.takes = 3 * sec
		end := b.run()
		synctest.Wait()
		if err := b.down.Run(t.Context()); err == nil {
			t.Error("it runs twice")
		}
		time.Sleep(5500 * time.Millisecond)
		if err := end(); err != nil {
			t.Errorf("run: %v", err)
		}
		b.want("5s cordon m2: keep-alive 5s over: no request since 5s", "5s cordon m1: keep-alive 5s over: no request since 5s",
			"5.5s uncordon m2: the downscaler ends", "5.5s uncordon m1: the downscaler ends")

		b.gate("m1").Cordon() // as if the run had been cut off
		end = b.run()
		time.Sleep(7500 * time.Millisecond)
		b.want("5.5s uncordon m1: the cordon was left over from an earlier run",
			"10.5s cordon m2: keep-alive 5s over: no request since 5s", "10.5s cordon m1: keep-alive 5s over: no request since 5s",
			"11.6s stop m2: keep-alive 5s over: no request since 5s", "11.6s stop m1: keep-alive 5s over: no request since 5s")
		if err := end(); err != nil { // in the middle of a stop: it is waited for
			t.Errorf("run: %v", err)
		}
		b.wantStates("m1 stopped gone, m2 stopped gone")
		b.forget()
	})
}

func TestOthersMachinesAreNotTouched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, quick, stopApp, "m1")
		far := balance.Machine{
			ID: "m2", App: "web", Region: "nrt", Owner: "another", State: balance.StateStarted,
		}
		if err := b.fleet.Apply(balance.PutMachine{Machine: far, Version: balance.Version{Incarnation: 1, Seq: 1}}); err != nil {
			t.Fatal(err)
		}
		defer b.run()()
		time.Sleep(time.Minute)
		b.wantStates("m1 stopped gone, m2 started ")
	})
}

func TestAThousandIdleMachinesSleepInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ids []balance.MachineID
		for i := range 1000 {
			ids = append(ids, balance.MachineID(fmt.Sprint("m", i)))
		}
		c := quick
		b := newBench(t, c, stopApp, ids...)
		b.driver.takes = 200 * time.Millisecond
		defer b.run()()
		time.Sleep(quick.KeepAlive + 10*sec)
		synctest.Wait()
		if n := strings.Count(b.states(), "stopped gone"); n != 1000 {
			t.Errorf("%d of 1000 machines are asleep 10s after the keep-alive", n)
		}
		if b.driver.most != parallel {
			t.Errorf("the driver was called %d times at once, want %d", b.driver.most, parallel)
		}
	})
}

func TestDriverFailsHangsAndIsDeaf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := quick
		c.StopTimeout = 10 * sec
		b := newBench(t, c, stopApp, "m1")
		b.driver.refuse = errors.New("fake: no")
		end := b.run()
		time.Sleep(6500 * time.Millisecond)
		b.want("5s cordon m1: keep-alive 5s over: no request since 5s", "6.1s stop m1: keep-alive 5s over: no request since 5s",
			"6.2s failed m1: fake: no", "6.2s uncordon m1: the driver could not stop it")
		b.wantStates("m1 started running")

		b.driver.set(func() { b.driver.refuse, b.driver.takes = nil, time.Hour }) // runs into its timeout
		time.Sleep(15 * sec)
		b.want("9s cordon m1: keep-alive 5s over: no request since 9s", "10.1s stop m1: keep-alive 5s over: no request since 9s",
			"20.1s failed m1: context deadline exceeded", "20.1s stuck m1: the driver has left the machine in doubt; it will be told again to stop it")
		b.wantStates("m1 stopping running")

		deaf := make(chan struct{})
		b.driver.set(func() { b.driver.takes, b.driver.deaf = 0, deaf }) // does not look at its context
		time.Sleep(40 * sec)
		b.want(
			"40.1s stop m1: keep-alive 5s over: no request since 9s",
			"1m0.1s stuck m1: the driver does not answer",
		)
		time.Sleep(10 * sec)
		if err := end(); err == nil || !strings.Contains(err.Error(), "has left web/m1 in doubt") {
			t.Errorf("run with a deaf driver: %v", err)
		}
		b.forget()
		close(deaf) // its late answer leaves the gate closed: whether the machine runs is not known
		b.wantStates("m1 stopping running")
		b.driver.set(func() { b.driver.deaf = nil })
		defer b.run()()
		time.Sleep(sec)
		b.want("1m31.5s stop m1: an earlier stop was left in doubt", "1m31.5s stopped m1 in 0s")
		b.wantStates("m1 stopped gone")
	})
}

func TestMachinesComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, quick, stopApp, "m1", "m2")
		defer b.run()()
		time.Sleep(5500 * time.Millisecond) // both are cordoned
		s, _ := b.fleet.App("web")
		m, _ := s.Machine("m1")
		b.gate("m1").Exited(1, false) // what runs is not removed
		if err := b.fleet.Apply(balance.RemoveMachine{App: "web", ID: m.ID, Version: balance.Version{Incarnation: 1, Seq: 1 << 40}}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(200 * time.Millisecond)
		b.gate("m2").Exited(1, false)
		if err := b.fleet.Apply(balance.RemoveApp{ID: "web"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * sec)
		b.forget()
	})
}

func TestNewNamesBadConfiguration(t *testing.T) {
	f, err := balance.NewFleet(balance.FleetConfig{Node: node, Region: "nrt"})
	if err != nil {
		t.Fatal(err)
	}
	room := &machineroom{}
	for _, c := range []struct {
		c    Config
		want string
	}{
		{Config{Every: -1}, "Config.Every -1ns"},
		{Config{StopTimeout: -sec}, "Config.StopTimeout -1s"},
		{Config{Notify: balance.ClassWebSocket}, "Config.Notify websocket: want 0, or Connections"},
		{Config{Notify: 1 << 6}, "Config.Notify unknown: want classes of balance.ClassAll"},
		{Config{Quiet: time.Minute}, "Config.Quiet 1m0s: want less than 30s"},
	} {
		_, err := New(f, room, c.c)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.c, err, c.want)
		}
	}
	if _, err := New(nil, room, Config{}); err == nil {
		t.Error("no fleet, no error")
	}
	if _, err := New(f, nil, Config{}); err == nil {
		t.Error("no driver, no error")
	}
}

func TestHeldTellsChangesOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, quick, stopApp, "m1")
		var held []string
		b.down.config.Trace.Held = func(d policy.Decision) { held = append(held, d.Region+" "+d.Reason()) }
		end := b.run()
		b.request("m1")
		time.Sleep(time.Minute)
		end()
		want := []string{"nrt settling: 0s of 10s since the last start", "nrt the last machine is in use"}
		if !slices.Equal(held, want) {
			t.Errorf("held: %q, want %q", held, want)
		}
	})
}
