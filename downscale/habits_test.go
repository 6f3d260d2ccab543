package downscale

import (
	"encoding/json"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale/policy"
)

func TestPausesFindGaps(t *testing.T) {
	type look struct {
		at    int
		inUse bool
		gap   int // seconds; 0 for none
	}
	for _, tc := range []struct {
		name  string
		looks []look
	}{
		{"the first use ends no pause", []look{{0, false, 0}, {50, true, 0}, {51, false, 0}, {90, true, 40}}},
		{"use at each look is no pause", []look{{0, true, 0}, {1, true, 0}, {2, true, 0}}},
		{"from the last use, as the keep-alive counts", []look{{0, true, 0}, {5, true, 0}, {6, false, 0}, {20, false, 0}, {45, true, 40}, {46, true, 0}}},
		{"looks that are missing are no pause", []look{{0, true, 0}, {600, true, 0}, {601, false, 0}, {700, true, 100}}},
		{"time stands still", []look{{5, true, 0}, {5, false, 0}, {5, true, 0}}},
		{"time goes back", []look{{100, true, 0}, {101, false, 0}, {50, true, 0}, {51, false, 0}, {80, true, 30}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var p pauses
			for _, l := range tc.looks {
				gap, ended := p.look(time.Unix(int64(l.at), 0), l.inUse)
				if gap != time.Duration(l.gap)*sec || ended != (l.gap > 0) {
					t.Errorf("at %d s: %v, %v; want %d s", l.at, gap, ended, l.gap)
				}
			}
		})
	}
}

// periodic is an app with a short request each period, woken when it sleeps; it returns how often that was.
func periodic(t *testing.T, b *bench, periods int, every time.Duration) (woken int) {
	t.Helper()
	for range periods {
		if b.gate("m1").State() != balance.StateStarted {
			woken++
			b.boot("m1")
		}
		b.request("m1")() // far shorter than a look
		time.Sleep(every)
	}
	return woken
}

func habitual(h Habits) Config {
	return Config{Window: 10 * sec, KeepAlive: 30 * sec, Habits: h}
}

func TestAppLearnsItsPause(t *testing.T) {
	var learned []byte
	synctest.Test(t, func(t *testing.T) {
		var idles Idles
		b := newBench(t, habitual(&idles), stopApp, "m1")
		end := b.run()
		time.Sleep(300 * time.Millisecond)
		if n := periodic(t, b, 20, 40*sec); n < 10 {
			t.Errorf("woken %d times before anything is known, want nearly each time", n)
		}
		if d := idles.KeepAlive("web", 30*sec); d < 44*sec || d > 53*sec {
			t.Errorf("learned %v, want 44 s and what looks cost", d)
		}
		if n := periodic(t, b, 50, 40*sec); n != 0 {
			t.Errorf("woken %d times of 50 afterwards, want never", n)
		}
		b.forget()
		time.Sleep(time.Minute) // the requests end
		b.wantStates("m1 stopped gone")
		end()
		var err error
		if learned, err = json.Marshal(&idles); err != nil {
			t.Error(err)
		}
	})
	synctest.Test(t, func(t *testing.T) { // another process
		var idles Idles
		if err := json.Unmarshal(learned, &idles); err != nil {
			t.Fatal(err)
		}
		b := newBench(t, habitual(&idles), stopApp, "m1")
		defer b.run()()
		time.Sleep(300 * time.Millisecond)
		if n := periodic(t, b, 20, 40*sec); n != 0 {
			t.Errorf("woken %d times after a restart, want never", n)
		}
	})
}

func TestAppWithLongPausesSleepsAsUsual(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var idles Idles
		b := newBench(t, habitual(&idles), stopApp, "m1")
		defer b.run()()
		time.Sleep(300 * time.Millisecond)
		periodic(t, b, 30, time.Hour)
		idle := idles.Of("web")
		if d, ok := idle.Learned(); !ok || d < time.Hour {
			t.Errorf("its pauses are not known: %v, %v", d, ok)
		}
		b.forget()
		b.boot("m1")
		began := time.Since(b.start)
		b.request("m1")()
		time.Sleep(40 * sec)
		b.wantStates("m1 stopped gone")
		if time.Since(b.start)-began > 41*sec {
			t.Error("it was kept longer than usual")
		}
	})
}

// An app's own keep-alive is not learned against.
func TestExplicitKeepAliveAsksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var idles Idles
		for range 50 {
			idles.Gap("web", 40*sec)
		}
		app := stopApp
		app.KeepAlive = 15 * sec
		b := newBench(t, habitual(&idles), app, "m1")
		defer b.run()()
		time.Sleep(300 * time.Millisecond)
		b.request("m1")()
		time.Sleep(19 * sec)
		b.wantStates("m1 stopped gone")
	})
}

// Two owners without each other's loads learn longer pauses than the app has, never shorter ones; with them, the app's.
func TestPausesOfSeveralOwners(t *testing.T) {
	for _, shared := range []bool{false, true} {
		var a, b pauses
		var gaps [2][]time.Duration
		for at := 0; at <= 400; at += 10 { // a request every 20 s, by turns
			mine, others := at%40 == 0, at%40 == 20
			for k, p := range []*pauses{&a, &b} {
				s := policy.Situation{Machines: []policy.Seen{{Own: true, Used: mine}, {}}}
				if k == 1 {
					s.Machines[0].Used = others
				}
				if s.Machines[1].Known = shared; shared && !s.Machines[0].Used && (mine || others) {
					s.Machines[1].Load = 1
				}
				if gap, ended := p.look(time.Unix(int64(at), 0), s.InUse()); ended {
					gaps[k] = append(gaps[k], gap)
				}
			}
		}
		want := 40 * sec
		if shared {
			want = 20 * sec
		}
		for k := range gaps {
			if len(gaps[k]) < 9 || slices.Min(gaps[k]) != want || slices.Max(gaps[k]) != want {
				t.Errorf("shared %v: owner %d found %v, want %v each", shared, k, gaps[k], want)
			}
		}
	}
}
