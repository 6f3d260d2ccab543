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

// A removed machine is stopped first: when the call returns nothing of it runs, whatever its state
// was, and nothing starts it again.
func TestRemovalStopsWhatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		app := stopApp
		app.Autostop, app.Min = balance.AutostopOff, 3 // neither keeps a machine that is removed
		b := newBench(t, quick, app, "m1", "m2", "m3", "m4")
		defer b.fleet.Keep(
			balance.Keeper{Wanted: func(balance.AppID, balance.MachineID) { t.Error("started again") }},
		)()
		defer b.run()()
		gates := map[balance.MachineID]*balance.Gate{}
		for _, id := range []balance.MachineID{"m1", "m2", "m3", "m4"} {
			gates[id] = b.gate(id)
		}
		if err := b.fleet.Apply(balance.RemoveMachine{App: "web", ID: "m1"}); !errors.Is(err,
			balance.ErrRuns) {
			t.Errorf("removal of a machine that runs, without the downscaler: %v", err)
		}
		row := func(id balance.MachineID) balance.Machine {
			s, _ := b.fleet.App("web")
			m, _ := s.Machine(id)
			return m
		}
		if err := b.down.RemoveMachine(t.Context(), row("m1"), Order{}); err != nil {
			t.Fatal(err)
		}
		if err := b.down.Stop(t.Context(), row("m2"), Order{Suspend: true}); err != nil {
			t.Fatal(err)
		}
		leave := b.request("m3")
		time.AfterFunc(3*sec, leave) // it ends within the time that it is given
		rows := b.fleet.Watch()
		defer rows.Close()
		rows.Take()
		if err := b.down.RemoveApp(t.Context(), "web", Order{Drain: 10 * sec}); err != nil {
			t.Fatal(err)
		}
		if _, ok := b.fleet.App("web"); ok || len(b.driver.is) != 4 {
			t.Error("the app is still there")
		}
		b.driver.mu.Lock()
		for id, is := range b.driver.is {
			if is != "gone" {
				t.Errorf("%s is %s", id, is)
			}
		}
		b.driver.mu.Unlock()
		for id, g := range gates {
			if _, a := g.Start(g.Load().Epoch); a != balance.StartRefused {
				t.Errorf("%s can be started after its removal: %v", id, a)
			}
		}
		b.forget()
	})
}

// A machine that cannot be stopped stays in the fleet, with the reason, and may be started as
// before.
func TestRemovalThatFailsChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, quick, stopApp, "m1", "m2")
		defer b.run()()
		b.driver.set(func() { b.driver.refuse = errors.New("fake: no") })
		if err := b.down.RemoveApp(t.Context(), "web", Order{}); err == nil ||
			!strings.Contains(err.Error(), "web/m1") ||
			!strings.Contains(err.Error(), "web/m2") {
			t.Errorf("removal: %v", err)
		}
		b.driver.set(func() { b.driver.refuse = nil })
		leave := b.request("m1")
		ctx, cancel := context.WithTimeout(t.Context(), sec)
		defer cancel()
		s, _ := b.fleet.App("web")
		m, _ := s.Machine("m1")
		if err := b.down.RemoveMachine(ctx, m, Order{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("removal of a busy machine, for as long as its context lasts: %v", err)
		}
		leave()
		if err := b.down.Stop(t.Context(), m, Order{}); err != nil {
			t.Error(err)
		}
		b.boot("m1")
		b.wantStates("m1 started running, m2 started running")
		b.forget()
	})
}
