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

func TestDrainWaitsForRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, quick, stopApp, "m1", "m2", "m3", "m4")
		defer b.run()()
		b.gate("m2").Exited(1, false) // stopped
		leave := b.request("m1")
		b.gate("m3").Exited(1, false)
		b.gate("m3").Start(1) // starting
		g := b.gate("m4")
		gen, _ := g.Cordon()
		token, _ := g.Close(gen, true)
		g.Closed(token, true) // suspended
		done := make(chan error, 1)
		go func() { done <- b.down.Drain(t.Context()) }()
		time.Sleep(3 * sec)
		b.wantStates("m1 stopping running, m2 stopped running, m3 stopped gone, m4 stopped gone")
		if _, bounce := b.gate("m1").Enter(0, 0, 0); bounce != balance.BounceClosing {
			t.Errorf("a draining machine says %v", bounce)
		}
		leave()
		if err := <-done; err != nil {
			t.Errorf("drain: %v", err)
		}
		b.wantStates("m1 stopped gone, m2 stopped running, m3 stopped gone, m4 stopped gone") // the second was not ours to end
		if d := time.Since(b.start); d > 4*sec {
			t.Errorf("drain took %v", d)
		}
	})
}

func TestDrainDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, quick, stopApp, "m1", "m2")
		b.driver.draining = true
		b.request("m1")
		ctx, cancel := context.WithTimeout(t.Context(), 5*sec)
		defer cancel()
		if err := b.down.Drain(ctx); err != nil {
			t.Errorf("drain: %v", err)
		}
		b.wantStates("m1 stopped gone, m2 stopped gone")
		b.want("0s stop m2: draining", "100ms stopped m2 in 100ms", "5s stop m1: draining", "5.1s stopped m1 in 100ms")
	})
}

func TestDrainDuringAStopOfRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, quick, stopApp, "m1")
		b.fleet.Keep(balance.Keeper{Wanted: func(_ balance.AppID, id balance.MachineID) { t.Errorf("start of %s while draining", id) }})
		b.driver.takes = 3 * sec
		defer b.run()()
		time.Sleep(7 * sec)
		b.gate("m1").Start(1)
		if err := b.down.Drain(t.Context()); err != nil {
			t.Errorf("drain: %v", err)
		}
		b.wantStates("m1 stopped gone")
	})
}

func TestDrainNamesWhatItCouldNotStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, quick, stopApp, "m1", "m2")
		b.driver.refuse = errors.New("fake: no")
		ctx, cancel := context.WithTimeout(t.Context(), 5*sec)
		defer cancel()
		err := b.down.Drain(ctx)
		if err == nil || !strings.Contains(err.Error(), "stop web/m1: fake: no") || !strings.Contains(err.Error(), "stop web/m2: fake: no") {
			t.Errorf("drain: %v", err)
		}
		b.wantStates("m1 started running, m2 started running")
		if time.Since(b.start) > 10*sec {
			t.Errorf("drain took %v", time.Since(b.start))
		}
	})
}

// Drain completes a stop that Run has left in doubt: the gate says that nobody is carrying it out.
func TestDrainTakesOverWhatWasLeftInDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := quick
		c.StopTimeout = 10 * sec
		b := newBench(t, c, stopApp, "m1")
		b.driver.set(func() { b.driver.takes = time.Hour }) // runs into its timeout
		end := b.run()
		time.Sleep(20 * sec)
		if err := end(); err == nil {
			t.Fatal("Run has left nothing in doubt")
		}
		b.wantStates("m1 stopping running")
		b.driver.set(func() { b.driver.refuse, b.driver.takes = errors.New("fake: no"), 0 })
		ctx, cancel := context.WithTimeout(t.Context(), sec)
		defer cancel()
		if err := b.down.Drain(ctx); err == nil {
			t.Error("the driver refused, and Drain says nothing")
		}
		b.wantStates("m1 stopping running") // still in doubt
		b.driver.set(func() { b.driver.refuse = nil })
		if err := b.down.Drain(t.Context()); err != nil {
			t.Errorf("drain: %v", err)
		}
		b.wantStates("m1 stopped gone")
	})
}
