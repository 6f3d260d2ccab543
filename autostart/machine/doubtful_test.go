package machine

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/balance"
)

// With an app that never listens where it should, a request is told within 6 s what is wrong, and
// so is each later one; whether the app hangs or listens elsewhere, with one machine or with
// several. When it is mended it is served, without anything else being done, within the time that a
// start is given. A slow boot is waited for as long as it does something, or is known to be slow.
func TestBrokenAppIsNamedWithinSixSecondsAndCured(t *testing.T) {
	const hangs, astray = "it listens nowhere and does nothing (set App.BootHint if its boots take longer); " +
		"it last wrote: loading", "it listens at 127.0.0.1:8081"
	for _, tc := range []struct {
		name     string
		machines int
		hint     time.Duration
		listens  string
		works    bool // it does something while it boots
		boot     time.Duration
		want     string // in the answer; empty for an app that is served
	}{
		{"it hangs", 1, 0, "", false, time.Hour, hangs},
		{"it hangs, and there are more machines", 6, 0, "", false, time.Hour, hangs},
		{"the wrong port", 1, 0, "127.0.0.1:8081", false, time.Hour, astray},
		{"the wrong port of several machines", 6, 0, "127.0.0.1:8081", false, time.Hour, astray},
		{"it loads for 12 s", 2, 0, "", true, 12 * sec, ""},
		{"it waits for 12 s, as is known", 2, 6 * sec, "", false, 12 * sec, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &seeing{
					fakeDriver: newFakeDriver(), broken: !tc.works, begun: map[balance.MachineID]time.Time{},
				}
				d.see("loading", strings.Fields(tc.listens)...)
				hs := make([]habits, tc.machines)
				for i := range hs {
					hs[i].boot = tc.boot
				}
				r := newRigWith(t, d.fakeDriver, d, Config{RestartAfter: -1}, hs...)
				defer r.stop()
				r.s.probe.dials = true
				r.fleet.Apply(balance.PutApp{App: balance.App{ID: "web", Autostart: true, BootHint: tc.hint}})
				b, err := balance.New(r.fleet, balance.Config{})
				if err != nil {
					t.Fatal(err)
				}
				a, err := autostart.New(b, r.s, autostart.Config{})
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				var all sync.WaitGroup
				all.Go(func() { b.Run(ctx) })
				all.Go(func() { a.Run(ctx) })
				defer all.Wait()
				defer cancel()
				ask := func() (time.Duration, error) {
					began := time.Now()
					slot, err := a.Acquire(ctx, &balance.Request{App: "web"})
					if err == nil {
						slot.Release(balance.OutcomeDone)
					}
					return time.Since(began), err
				}
				if tc.want == "" {
					if took, err := ask(); err != nil || took > tc.boot+sec {
						t.Errorf("after %v: %v", took, err)
					}
					return
				}
				for n := range 6 {
					took, err := ask()
					e, ok := errors.AsType[*autostart.Error](err)
					if !ok || e.Class != autostart.ErrStart || took > 6*sec || e.After <= 0 {
						t.Fatalf("request %d: after %v: %v", n, took, err)
					}
					failed := strings.Contains(e.Fault, "it has done nothing for") && tc.listens == ""
					if !strings.Contains(e.Fault, tc.want) && (n == 0 || !failed) {
						t.Fatalf("request %d: %v; want %q", n, err, tc.want)
					}
					time.Sleep(e.After)
				}
				d.mu.Lock()
				d.broken = false
				d.mu.Unlock()
				d.fakeDriver.mu.Lock()
				for id := range d.habits {
					d.habits[id] = habits{boot: sec}
				}
				d.fakeDriver.mu.Unlock()
				mended := time.Now()
				for {
					if _, err := ask(); err == nil {
						break
					}
					if time.Since(mended) > time.Minute {
						t.Fatalf("not served a minute after it has been mended: %v", r.events)
					}
					time.Sleep(sec)
				}
			})
		})
	}
}
