package downscale

import (
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// periodic runs an app with a short request each period, which wakes it if it sleeps; it returns
// how often it did.
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

func habitual(h *Habits) Config {
	return Config{Window: 10 * sec, KeepAlive: 30 * sec, Habits: h}
}

func TestAppLearnsItsPause(t *testing.T) {
	var learned []byte
	synctest.Test(t, func(t *testing.T) {
		var habits Habits
		b := newBench(t, habitual(&habits), stopApp, "m1")
		end := b.run()
		time.Sleep(300 * time.Millisecond)
		if n := periodic(t, b, 20, 40*sec); n < 10 {
			t.Errorf("woken %d times before anything is known, want nearly each time", n)
		}
		if d := habits.KeepAlive("web", 30*sec); d < 44*sec || d > 53*sec {
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
		if learned, err = json.Marshal(&habits); err != nil {
			t.Error(err)
		}
	})
	synctest.Test(t, func(t *testing.T) { // another process
		var habits Habits
		if err := json.Unmarshal(learned, &habits); err != nil {
			t.Fatal(err)
		}
		b := newBench(t, habitual(&habits), stopApp, "m1")
		defer b.run()()
		time.Sleep(300 * time.Millisecond)
		if n := periodic(t, b, 20, 40*sec); n != 0 {
			t.Errorf("woken %d times after a restart, want never", n)
		}
	})
}

func TestAppWithLongPausesSleepsAsUsual(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var habits Habits
		b := newBench(t, habitual(&habits), stopApp, "m1")
		defer b.run()()
		time.Sleep(300 * time.Millisecond)
		periodic(t, b, 30, time.Hour)
		if d := habits.KeepAlive("web", time.Hour); d <= time.Hour {
			t.Errorf("its pauses are not known: %v", d)
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

// An explicit keep-alive of an app overrides what was learned.
func TestExplicitKeepAliveAsksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var habits Habits
		for range 50 {
			habits.Gap("web", 40*sec)
		}
		app := stopApp
		app.KeepAlive = 15 * sec
		b := newBench(t, habitual(&habits), app, "m1")
		defer b.run()()
		time.Sleep(300 * time.Millisecond)
		b.request("m1")()
		time.Sleep(19 * sec)
		b.wantStates("m1 stopped gone")
	})
}

func TestHabits(t *testing.T) {
	var i Habits
	for range 20 {
		i.Gap("a", 40*sec)
		i.Gap("b", 20*time.Minute)
		i.Gap("c", sec) // no pause
	}
	check := func(i *Habits) {
		t.Helper()
		for app, want := range map[balance.AppID]time.Duration{"a": 44 * sec, "b": i.KeepAlive("b", 5*time.Minute), "c": 5 * time.Minute, "d": 5 * time.Minute} {
			if d := i.KeepAlive(app, 5*time.Minute); d != want {
				t.Errorf("%s: %v, want %v", app, d, want)
			}
		}
		if d := i.KeepAlive("b", 5*time.Minute); d < 22*time.Minute {
			t.Errorf("b: %v, want 22 min or more", d)
		}
	}
	check(&i)
	text, err := json.Marshal(&i)
	if err != nil {
		t.Fatal(err)
	}
	var back Habits
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	check(&back)
	for _, bad := range []string{`{}`, `[{"idle":3}]`, `[`} {
		if back.UnmarshalJSON([]byte(bad)) == nil {
			t.Errorf("%s is taken", bad)
		}
	}
	check(&back) // nonsense has replaced nothing
}

func TestHabitsAreBounded(t *testing.T) {
	var i Habits
	app := func(n int) balance.AppID { return balance.AppID(fmt.Sprint("app", n)) }
	for n := range habitsKept {
		i.Gap(app(n), time.Minute)
	}
	i.Gap(app(0), time.Minute) // now 1 is the oldest
	for n := range 10 {
		i.Gap(app(habitsKept+n), time.Minute)
	}
	if len(i.apps) != habitsKept {
		t.Errorf("%d apps, want %d", len(i.apps), habitsKept)
	}
	known := func(i *Habits, n int) bool { return i.apps[app(n)] != nil }
	if !known(&i, 0) || known(&i, 1) || known(&i, 10) || !known(&i, 11) || !known(&i, habitsKept+9) {
		t.Error("not the oldest were forgotten")
	}
	text, _ := json.Marshal(&i)
	var back Habits
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	for n := range 10 {
		back.Gap(app(2*habitsKept+n), time.Minute)
	}
	if !known(&back, 0) || known(&back, 11) || known(&back, 20) || !known(&back, 21) {
		t.Error("the order of forgetting did not last")
	}
}

func TestHabitsConcurrently(t *testing.T) {
	var i Habits
	var wg sync.WaitGroup
	for k := range 4 {
		wg.Go(func() {
			for n := range 200 {
				app := balance.AppID(fmt.Sprint(n % 5))
				i.Gap(app, time.Minute)
				i.KeepAlive(app, sec)
				if k == 0 && n%50 == 0 {
					text, err := json.Marshal(&i)
					if err != nil || i.UnmarshalJSON(text) != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
}
