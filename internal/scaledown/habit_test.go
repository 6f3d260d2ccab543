package scaledown

import (
	"encoding/json"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestHabit(t *testing.T) {
	gaps := func(parts ...any) (h Habit) { // n, gap, n, gap...
		for k := 0; k < len(parts); k += 2 {
			for range parts[k].(int) {
				h.Gap(parts[k+1].(time.Duration))
			}
		}
		return h
	}
	const min = time.Minute
	for _, tc := range []struct {
		name     string
		habit    Habit
		from, to time.Duration // of the answer; the default is 5 min
	}{
		{"nothing is known", Habit{}, 5 * min, 5 * min},
		{"too few", gaps(15, 20*min), 5 * min, 5 * min},
		{"just enough", gaps(16, 20*min), 22 * min, 27 * min},
		{"busy: a tenth of the usual time at least", gaps(100, 10*sec), 30 * sec, 30 * sec},
		{"a regular pause", gaps(50, 40*sec), 44 * sec, 44 * sec},
		{"shorter than counts", gaps(100, 9*sec), 5 * min, 5 * min},
		{"between bursts", gaps(1000, sec, 20, 6*min), 396 * sec, 475 * sec},
		{"not shorter than a pause that is remembered", gaps(300, 20*sec, 2, 3*min), 198 * sec, 237 * sec},
		{"nor longer than usual for that", gaps(300, 20*sec, 2, 299*sec), 5 * min, 5 * min},
		{"a pause beyond the usual is no reason", gaps(300, 40*sec, 2, 301*sec), 44 * sec, 5 * min},
		{"hours: it would hardly ever sleep", gaps(100, time.Hour), 5 * min, 5 * min},
		{"one in two hundred is an outlier", gaps(199, 50*sec, 1, 3*time.Hour), 55 * sec, 66 * sec},
		{"one in twenty is not", gaps(95, 50*sec, 5, 20*min), 22 * min, 27 * min},
		{"nights: no keep-alive bridges them", gaps(90, 10*sec, 10, 12*time.Hour), 5 * min, 5 * min},
		{"rare weekends", gaps(400, 50*sec, 2, 60*time.Hour), 55 * sec, 66 * sec},
		{"habits change", gaps(500, 2*time.Hour, 2000, 50*sec), 55 * sec, 66 * sec},
		{"negative", gaps(100, -sec), 5 * min, 5 * min},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if d := tc.habit.KeepAlive(5 * min); d < tc.from || d > tc.to {
				t.Errorf("%v, want %v to %v", d, tc.from, tc.to)
			}
			text, err := json.Marshal(tc.habit)
			if err != nil {
				t.Fatal(err)
			}
			var back Habit
			if err := json.Unmarshal(text, &back); err != nil || back != tc.habit {
				t.Errorf("%s: %v", text, err)
			}
		})
	}
	var h Habit
	if json.Unmarshal([]byte(`{"gaps":"x"}`), &h) == nil {
		t.Error("nonsense is taken")
	}
}

// A longer gap never makes the keep-alive shorter, and what is learned covers 99 % of the gaps.
func TestHabitProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ds := rapid.SliceOfN(rapid.Int64Range(int64(idleMin), int64(idleMax)), gapsMin, 200).
			Draw(t, "gaps")
		var h Habit
		for _, d := range ds {
			h.Gap(time.Duration(d))
		}
		keep, ok := h.learned()
		if !ok {
			t.Fatal("nothing learned")
		}
		longer := 0
		for _, d := range ds {
			if time.Duration(d) > keep {
				longer++
			}
		}
		if longer > len(ds)/100 {
			t.Fatalf("%d of %d gaps are longer than %v", longer, len(ds), keep)
		}
		h.Gap(idleMax)
		if more, _ := h.learned(); more < keep {
			t.Fatalf("%v, and %v after a longer gap", keep, more)
		}
	})
}

// A learned keep-alive stays near the usual one. A shorter one cuts short no pause that the usual
// one bridges.
func TestLearnedKeepAliveProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		usual := time.Duration(rapid.Int64Range(int64(sec), int64(time.Hour)).Draw(t, "usual"))
		var h Habit
		ds := rapid.SliceOfN(rapid.Int64Range(0, 4*int64(usual)), 0, 200).Draw(t, "gaps")
		for _, d := range ds {
			h.Gap(time.Duration(d))
		}
		keep := h.KeepAlive(usual)
		if keep < usual/shrink || keep/stretch > usual {
			t.Fatalf("%v where %v is usual", keep, usual)
		}
		for _, d := range ds {
			if d := time.Duration(d); d >= idleMin && d > keep && d <= usual {
				t.Fatalf("%v cuts a pause of %v short, and %v is usual", keep, d, usual)
			}
		}
	})
}
