package autostart

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// What tells a boot that hangs from one that is slow: it does nothing, and neither what is known of
// the app's boots nor its check's grace allows for that.
func TestDoubtfulBoots(t *testing.T) {
	for _, tc := range []struct {
		name            string
		k               known
		age             time.Duration
		elsewhere, idle time.Duration
		doubtful, hangs bool
	}{
		{"it works", known{}, time.Hour, 0, sec, false, false},
		{"it does nothing", known{}, 2 * sec, 0, 2 * sec, true, false},
		{"not for long yet", known{}, 2 * sec, 0, 1500 * time.Millisecond, false, false},
		{"another one has been doubted", known{doubted: 1}, 2 * sec, 0, sec, true, false},
		{"it listens elsewhere", known{}, 2 * sec, 2 * sec, 0, true, false},
		{"its boots take 12 s: the second one may take 24", known{longest: 12 * sec, suspect: 24 * sec}, 23 * sec, 0, 23 * sec, false, false},
		{"beyond that", known{longest: 12 * sec, suspect: 24 * sec}, 24 * sec, 0, 24 * sec, true, true},
		{"quick boots", known{longest: sec, suspect: 2 * sec}, 3 * sec, 0, 3 * sec, true, false},
		{"a grace", known{grace: 20 * sec}, 19 * sec, 0, 19 * sec, false, false},
		{"beyond the grace", known{grace: 20 * sec}, 20 * sec, 0, 20 * sec, true, true},
		{"for as long as a wait may take", known{}, 15 * sec, 0, 14 * sec, true, true},
		{"it did something at the beginning", known{}, 15 * sec, 0, 9 * sec, true, false},
		{"twice as long the next time", known{hung: 1}, 29 * sec, 0, 29 * sec, true, false},
		{"and then it has failed", known{hung: 1}, 30 * sec, 0, 29 * sec, true, true},
		{"and no longer for some times", known{hung: 4}, time.Minute, 0, time.Minute, true, true},
		{"then longer", known{hung: 5}, 119 * sec, 0, 119 * sec, true, false},
		{"not for ever", known{hung: 1000}, 8 * time.Minute, 0, 8 * time.Minute, true, true},
	} {
		if d, h := tc.k.doubtful(tc.age, tc.elsewhere, tc.idle), tc.k.hangs(tc.age, tc.idle); d != tc.doubtful ||
			h != tc.hangs {
			t.Errorf("%s: doubtful %v, hangs %v; want %v, %v", tc.name, d, h, tc.doubtful, tc.hangs)
		}
	}
	for _, d := range []Description{{Idle: sec}, {Idle: sec, Known: true, Listens: []string{"[::1]:1"}}} {
		if got := idleFor(d); got != 0 {
			t.Errorf("%+v: idle for %v", d, got)
		}
	}
}

// Nobody is told to go while anything in flight may still serve.
func TestDoubtOfStarts(t *testing.T) {
	type look struct {
		at    time.Duration
		see   string
		doubt string // "" while there is hope
	}
	for _, tc := range []struct {
		name     string
		machines string
		looks    []look
	}{
		{"the only one is doubtful", "nrt: a", []look{
			{0, "", ""}, {0, "a starting", ""}, {3 * sec, "a doubtful", "a: hangs"}, {9 * sec, "", "a: hangs"}, {10 * sec, "a starts well", ""},
		}},
		{"another one is started, and then it is doubtful as well", "nrt: a b", []look{
			{0, "", ""}, {0, "a starting", ""}, {3 * sec, "a doubtful", ""}, {3 * sec, "b starting", ""}, {5 * sec, "b doubtful", "a: hangs"},
		}},
		{"one that may still serve", "nrt: a b c", []look{
			{0, "", ""}, {0, "a starting, b starting", ""}, {3 * sec, "a doubtful", ""}, {60 * sec, "", ""},
		}},
		{"the third only repeats two that have failed", "nrt: a b, hkg: c", []look{
			{0, "", ""}, {0, "a starting", ""}, {3 * sec, "a failed", ""}, {3 * sec, "b starting", ""}, {4 * sec, "b failed", "b: broken"},
			{4 * sec, "c starting", "b: broken"}, {10 * sec, "", "b: broken"}, {12 * sec, "", ""},
		}},
		{"those that began before the second failed may be better", "nrt: a b c d", []look{
			{0, "", ""}, {0, "a starting, b starting, c starting", ""}, {sec, "a failed", ""}, {2 * sec, "b failed", ""}, {3 * sec, "d starting", ""},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newStory(t, balance.App{}, tc.machines)
			for _, l := range tc.looks {
				for part := range strings.SplitSeq(l.see, ", ") {
					switch name, what, _ := strings.Cut(part, " "); what {
					case "doubtful":
						m := new(*s.row(name))
						m.Doubtful, m.Health, m.Fault = true, balance.HealthFailing, "hangs"
						s.replace(m)
					case "starts well":
						m := new(*s.row(name))
						m.Doubtful, m.Health, m.Fault = false, balance.HealthUnknown, ""
						s.replace(m)
					default:
						s.see(part)
					}
				}
				s.plan(l.at, 0, 1)
				for _, m := range s.last.Start {
					s.p.Answered(t0.Add(l.at), m, balance.StartAccepted, nil)
				}
				got := strings.TrimPrefix(s.last.Doubt, "machine ")
				for id, name := range s.names {
					got = strings.ReplaceAll(got, string(id)+":", name+":")
				}
				if got != l.doubt {
					t.Errorf("at %v, %q: doubt %q, want %q", l.at, l.see, got, l.doubt)
				}
			}
		})
	}
}

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
				r := newRigWith(t, d.fakeDriver, d, StarterConfig{RestartAfter: -1}, hs...)
				defer r.stop()
				r.s.probe.dials = true
				r.fleet.Apply(balance.PutApp{App: balance.App{ID: "web", Autostart: true, BootHint: tc.hint}})
				b, err := balance.New(r.fleet, balance.Config{})
				if err != nil {
					t.Fatal(err)
				}
				a, err := New(b, r.s, Config{})
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
					e, ok := errors.AsType[*Error](err)
					if !ok || e.Class != ErrStart || took > 6*sec || e.After <= 0 {
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
