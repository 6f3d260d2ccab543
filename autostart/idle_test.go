package autostart

import (
	"encoding/json"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestIdle(t *testing.T) {
	gaps := func(parts ...any) (i Idle) { // n, gap, n, gap...
		for k := 0; k < len(parts); k += 2 {
			for range parts[k].(int) {
				i.Gap(parts[k+1].(time.Duration))
			}
		}
		return i
	}
	const min = time.Minute
	for _, tc := range []struct {
		name     string
		idle     Idle
		explicit time.Duration
		from, to time.Duration // of the answer; the default is 5 min
	}{
		{"nothing is known", Idle{}, 0, 5 * min, 5 * min},
		{"too few", gaps(15, 20*min), 0, 5 * min, 5 * min},
		{"just enough", gaps(16, 20*min), 0, 22 * min, 27 * min},
		{"explicit beats learned", gaps(100, 20*min), 7 * sec, 7 * sec, 7 * sec},
		{"busy: asleep sooner", gaps(100, 10*sec), 0, 11 * sec, 14 * sec},
		{"shorter than counts", gaps(100, time.Millisecond), 0, 1100 * time.Millisecond, 1100 * time.Millisecond},
		{"one in two hundred is an outlier", gaps(199, 10*sec, 1, 3*time.Hour), 0, 11 * sec, 14 * sec},
		{"one in twenty is not", gaps(95, 10*sec, 5, 3*time.Hour), 0, 198 * min, 4 * time.Hour * 11 / 10},
		{"nights: no keep-alive bridges them", gaps(90, 10*sec, 10, 12*time.Hour), 0, 5 * min, 5 * min},
		{"rare weekends", gaps(400, 10*sec, 2, 60*time.Hour), 0, 11 * sec, 14 * sec},
		{"habits change", gaps(500, 2*time.Hour, 2000, 30*sec), 0, 33 * sec, 40 * sec},
		{"negative", gaps(100, -sec), 0, 5 * min, 5 * min},
		{"longest", gaps(100, 4*time.Hour), 0, 4 * time.Hour * 11 / 10, 4 * time.Hour * 11 / 10},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if d := tc.idle.KeepAlive(tc.explicit, 5*min); d < tc.from || d > tc.to {
				t.Errorf("%v, want %v to %v", d, tc.from, tc.to)
			}
			text, err := json.Marshal(tc.idle)
			if err != nil {
				t.Fatal(err)
			}
			var back Idle
			if err := json.Unmarshal(text, &back); err != nil || back != tc.idle {
				t.Errorf("%s: %v", text, err)
			}
		})
	}
	var i Idle
	if json.Unmarshal([]byte(`{"gaps":"x"}`), &i) == nil {
		t.Error("nonsense is taken")
	}
}

func TestIdleSeesGaps(t *testing.T) {
	var i Idle
	for _, st := range []struct {
		at       time.Duration
		requests int
		gaps     uint32
	}{{0, 1, 0}, {sec, 0, 0}, {2 * sec, 0, 0}, {60 * sec, 3, 1}, {61 * sec, 1, 1}, {62 * sec, 0, 1}, {0, 0, 1}, {10 * sec, 1, 2}, {20 * sec, 0, 2}, {15 * sec, 1, 2}} {
		if i.Seen(t0.Add(st.at), st.requests); i.n != st.gaps {
			t.Fatalf("at %v with %d: %d gaps, want %d", st.at, st.requests, i.n, st.gaps)
		}
	}
	if i.counts[idleBucket(59*sec)] != 1 {
		t.Error("the gap of 59 s is not there")
	}
}

// A longer gap never makes the keep-alive shorter, and what is learned covers 99 % of the gaps.
func TestIdleProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ds := rapid.SliceOfN(rapid.Int64Range(0, int64(idleMax)), gapsMin, 200).Draw(t, "gaps")
		var i Idle
		for _, d := range ds {
			i.Gap(time.Duration(d))
		}
		keep, ok := i.Learned()
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
		i.Gap(idleMax)
		if more, _ := i.Learned(); more < keep {
			t.Fatalf("%v, and %v after a longer gap", keep, more)
		}
	})
}
