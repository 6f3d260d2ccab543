package machine

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/autostart"
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
		{"it ends before", 20 * sec, nil, habits{boot: time.Hour, ends: 39 * sec, end: Exit{Code: 1}}, 0},
		{"a resume may become a cold boot", 20 * sec, []habits{{boot: 100 * sec}}, habits{boot: time.Hour, kind: BootResume}, 200 * sec},
		{"nor is a resume doubted sooner than a cold boot", 0, []habits{{boot: 30 * sec}, {boot: sec, kind: BootResume}}, habits{boot: time.Hour, kind: BootResume}, 60 * sec},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, Config{}, tc.slow, habits{})
				defer r.stop()
				r.fleet.Apply(balance.PutApp{App: balance.App{ID: "web", BootHint: tc.hint}})
				for _, h := range tc.past {
					r.d.mu.Lock()
					r.d.habits["m1"] = h
					r.d.mu.Unlock()
					r.start("m1")
					time.Sleep(h.boot + h.boot/100)
					r.d.crash("m1", Exit{Code: 1})
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
					if m := r.row("m0"); m.State != balance.StateStarted && tc.slow.ends == 0 || m.State == balance.StateStarted && m.Health != balance.HealthPassing {
						t.Errorf("in the end %v, %v", m.State, m.Health)
					}
				}
			})
		})
	}
}

// The first machine never gets healthy, the second does: all are answered, and two have been started.
func TestMachineThatNeverGetsHealthy(t *testing.T) {
	for _, hedge := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			app := balance.App{ID: "web", Autostart: true, BootHint: 5 * sec, Limits: balance.Limits{Soft: 50, Hard: 60}}
			r := newRig(t, Config{}, habits{}, habits{}, habits{})
			order := canonical("web", 3)
			r.d.habits[order[0]] = habits{boot: 24 * time.Hour}
			r.d.habits[order[1]] = habits{boot: 3 * sec}
			r.fleet.Apply(balance.PutApp{App: app})
			b, _ := balance.New(r.fleet, balance.Config{})
			var mu sync.Mutex
			hedged := 0
			a, err := autostart.New(b, r.s, autostart.Config{Hedge: hedge, Trace: autostart.Trace{Decided: func(d policy.Decision) {
				mu.Lock()
				defer mu.Unlock()
				if d.Hedge {
					hedged++
				}
			}}})
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
			time.Sleep(11 * time.Minute) // the cap: it is stopped, and nothing is started for nobody
			if starts, stops, running := r.d.counts(); starts != 2 || stops != 1 || running != 1 {
				t.Errorf("%d starts, %d stops, %d running; want 2, 1, 1", starts, stops, running)
			}
			cancel()
			all.Wait()
			r.stop()
		})
	}
}
