package machine_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/balance"
)

func TestStartIsDoubtedWhenItTakesTooLong(t *testing.T) {
	for _, tc := range []struct {
		name  string
		hint  time.Duration
		past  []habits // starts of another machine before
		slow  habits
		after time.Duration // 0: it is not doubted
	}{
		{"nothing is known", 0, nil, habits{boot: time.Hour}, 180 * sec},
		{"a hint", 20 * sec, nil, habits{boot: time.Hour}, 40 * sec},
		{"short boots are not doubted at once", sec, nil, habits{boot: time.Hour}, 5 * sec},
		{"another machine's boot", 0, []habits{{boot: 10 * sec}}, habits{boot: time.Hour}, 20 * sec},
		{"it beats a shorter hint", 4 * sec, []habits{{boot: 10 * sec}}, habits{boot: time.Hour}, 20 * sec},
		{"in time", 20 * sec, nil, habits{boot: 39 * sec}, 0},
		{"late, and well in the end", 20 * sec, nil, habits{boot: 60 * sec}, 40 * sec},
		{"it ends before", 20 * sec, nil, habits{boot: time.Hour, ends: 39 * sec, end: machine.Exit{Code: 1}}, 0},
		{"a resume may become a cold boot", 20 * sec, []habits{{boot: 100 * sec}}, habits{boot: time.Hour, resumes: true}, 200 * sec},
		{"nor is a resume doubted sooner than a cold boot", 0, []habits{{boot: 30 * sec}, {boot: sec, resumes: true}}, habits{boot: time.Hour, resumes: true}, 60 * sec},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, machine.Config{}, tc.slow, habits{})
				defer r.stop()
				r.fleet.Apply(balance.PutApp{App: balance.App{ID: "web", BootHint: tc.hint}})
				for _, h := range tc.past {
					r.d.mu.Lock()
					r.d.habits["m1"] = h
					r.d.mu.Unlock()
					r.start("m1")
					time.Sleep(h.boot + h.boot/100)
					r.d.crash("m1", machine.Exit{Code: 1})
					synctest.Wait()
				}
				r.start("m0")
				began := time.Now()
				for r.row("m0").State == balance.StateStarting && time.Since(began) < 10*time.Minute-sec {
					if m := r.row("m0"); m.Health == balance.HealthFailing {
						if got := time.Since(began).Truncate(sec); got != tc.after || m.Recent {
							t.Errorf("failing after %v, recent %v; want after %v", got, m.Recent, tc.after)
						}
						break
					}
					time.Sleep(sec / 2)
				}
				if tc.after == 0 && r.row("m0").State == balance.StateStarting {
					t.Error("failing, want not")
				}
				if tc.slow.boot < time.Minute+1 {
					time.Sleep(time.Minute)
					if m := r.row("m0"); m.State != balance.StateStarted && tc.slow.ends == 0 ||
						m.State == balance.StateStarted && m.Health != balance.HealthPassing {
						t.Errorf("in the end %v, %v", m.State, m.Health)
					}
				}
			})
		})
	}
}

// The first machine never gets healthy, the second does: all requests are answered, and two
// machines have been started.
func TestMachineThatNeverGetsHealthy(t *testing.T) {
	for _, hedge := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			app := balance.App{
				ID: "web", Autostart: true, BootHint: 5 * sec, Limits: balance.Limits{Soft: 50, Hard: 60},
			}
			r := newRig(t, machine.Config{}, habits{}, habits{}, habits{})
			order := canonical("web", 3)
			r.d.habits[order[0]] = habits{boot: 24 * time.Hour}
			r.d.habits[order[1]] = habits{boot: 3 * sec}
			r.fleet.Apply(balance.PutApp{App: app})
			b, _ := balance.New(r.fleet, balance.Config{})
			var mu sync.Mutex
			hedged := 0
			a, err := autostart.New(
				b, r.s,
				autostart.Config{
					Policy: func(balance.AppID) policy.Policy { return &policy.Planner{Hedge: hedge} },
					Trace: autostart.Trace{Decided: func(d policy.Decision) {
						mu.Lock()
						defer mu.Unlock()
						if d.Hedge {
							hedged++
						}
					}},
				},
			)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			var all sync.WaitGroup
			all.Go(func() { b.Run(ctx) })
			all.Go(func() { a.Run(ctx) })
			w := &edge{t, a}
			began := time.Now()
			if errs := w.many(50, 0); len(errs) > 0 {
				t.Errorf("%d not answered; the first: %v", len(errs), errs[0])
			}
			if took := time.Since(began); took < 13*sec || took > 14*sec {
				t.Errorf("answered after %v, want twice the hint and a boot", took)
			}
			if starts, _, _ := r.d.counts(); starts != 2 || hedged != 1 {
				t.Errorf("%d starts, %d of them extra; want 2 and 1", starts, hedged)
			}
			time.Sleep(11 * time.Minute) // BootCap: it is stopped, and nothing is started without demand
			if starts, stops, running := r.d.counts(); starts != 2 || stops != 1 || running != 1 {
				t.Errorf("%d starts, %d stops, %d running; want 2, 1, 1", starts, stops, running)
			}
			cancel()
			all.Wait()
			r.stop()
		})
	}
}

// If an app never listens where it should, a request is told within 6 s what is wrong, and so is
// each later one, whether the app hangs or listens elsewhere, with one machine or with several.
// When the app is repaired, it is served without further action, within the time that a start is
// given. A slow boot is waited for as long as it does something, or is known to be slow.
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
				r := newRigWith(t, d.fakeDriver, d, machine.Config{}, hs...)
				r.restartAfter(-1)
				defer r.stop()
				r.s.Dials(true)
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
