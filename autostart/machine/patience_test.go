package machine

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// In a fleet of quick and slow boots those who wait for a slow one are served by it.
func TestSlowBootOfAQuickApp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hs := []habits{{boot: 300 * time.Millisecond}, {boot: 12 * sec}}
		n := newNode(t, balance.App{KeepAlive: time.Hour, Limits: balance.Limits{Hard: 1}}, Config{}, hs...)
		defer n.stop()
		var held []balance.Reservation
		for range 2 { // the second one waits for the slow machine, and nothing else can serve
			slot, err := n.a.Acquire(t.Context(), &balance.Request{App: "web"})
			if err != nil {
				t.Fatalf("request %d: %v", len(held), err)
			}
			held = append(held, slot)
		}
		for i := range held {
			held[i].Release(balance.OutcomeDone)
		}
	})
}

// A start that has not begun is waited for, as it is no slow one; but not for ever.
func TestPatienceWhileAStartIsHeld(t *testing.T) {
	for busy, served := range map[time.Duration]bool{2 * time.Minute: true, time.Hour: false} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			d := &cloud{fakeDriver: newFakeDriver()}
			d.start = func(context.Context, call) error {
				if time.Since(began) < busy {
					return TryAgain{After: sec, Err: errors.New("429")}
				}
				return nil
			}
			w := newStorm(t, d, d.check, Config{}, 1, 1)
			defer w.stop()
			w.fleet.Apply(balance.PutApp{App: balance.App{ID: "app000", Autostart: true, BootHint: sec}})
			errs := w.ask(t, 1)
			if took := time.Since(began); served != (len(errs) == 0) || took > 5*time.Minute+sec {
				t.Errorf("busy for %v: %v after %v", busy, errs, took)
			}
		})
	}
}
