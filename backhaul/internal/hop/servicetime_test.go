package hop

import (
	"testing"
	"time"
)

func TestServiceTimes(t *testing.T) {
	type seen struct {
		n int
		d time.Duration
	}
	for name, tt := range map[string]struct {
		seen       []seen
		from, most time.Duration
	}{
		"nothing":                     {nil, UnknownHold, UnknownHold},
		"one that is quick":           {[]seen{{1, 3 * time.Millisecond}}, MinHold, MinHold},
		"one that is slow":            {[]seen{{1, 4 * time.Second}}, 4 * time.Second, 4800 * time.Millisecond},
		"exactly a bound":             {[]seen{{1, time.Second}}, MinHold, MinHold},
		"one of a hundred is slow":    {[]seen{{99, time.Millisecond}, {1, 30 * time.Second}}, MinHold, MinHold},
		"two of a hundred are slow":   {[]seen{{98, time.Millisecond}, {2, 30 * time.Second}}, 30 * time.Second, 36 * time.Second},
		"one of a hundred is slower":  {[]seen{{197, time.Millisecond}, {2, 30 * time.Second}, {1, 10 * time.Second}}, 10 * time.Second, 12 * time.Second},
		"one of fifty is slow":        {[]seen{{49, time.Millisecond}, {1, 30 * time.Second}}, 30 * time.Second, 36 * time.Second},
		"slower than is waited for":   {[]seen{{1, 3 * time.Hour}}, MaxHold, MaxHold},
		"negative, by a clock's jump": {[]seen{{1, -time.Second}}, MinHold, MinHold},
		"slow once, then quick":       {[]seen{{5000, 20 * time.Second}, {100_000, time.Millisecond}}, MinHold, MinHold},
		"quick once, then slow":       {[]seen{{100_000, time.Millisecond}, {100, 20 * time.Second}}, 20 * time.Second, 24 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			var s ServiceTimes
			for _, o := range tt.seen {
				for range o.n {
					s.Observe(o.d)
				}
			}
			if got := s.P99(); got < tt.from || got > tt.most {
				t.Errorf("p99 %v, want %v to %v", got, tt.from, tt.most)
			}
		})
	}
}
