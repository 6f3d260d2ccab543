package backhaul

import (
	"fmt"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
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
		"nothing":                     {nil, unknownHold, unknownHold},
		"one that is quick":           {[]seen{{1, 3 * time.Millisecond}}, minHold, minHold},
		"one that is slow":            {[]seen{{1, 4 * time.Second}}, 4 * time.Second, 4800 * time.Millisecond},
		"exactly a bound":             {[]seen{{1, time.Second}}, minHold, minHold},
		"one of a hundred is slow":    {[]seen{{99, time.Millisecond}, {1, 30 * time.Second}}, minHold, minHold},
		"two of a hundred are slow":   {[]seen{{98, time.Millisecond}, {2, 30 * time.Second}}, 30 * time.Second, 36 * time.Second},
		"one of a hundred is slower":  {[]seen{{197, time.Millisecond}, {2, 30 * time.Second}, {1, 10 * time.Second}}, 10 * time.Second, 12 * time.Second},
		"one of fifty is slow":        {[]seen{{49, time.Millisecond}, {1, 30 * time.Second}}, 30 * time.Second, 36 * time.Second},
		"slower than is waited for":   {[]seen{{1, 3 * time.Hour}}, maxHold, maxHold},
		"negative, by a clock's jump": {[]seen{{1, -time.Second}}, minHold, minHold},
		"slow once, then quick":       {[]seen{{5000, 20 * time.Second}, {100_000, time.Millisecond}}, minHold, minHold},
		"quick once, then slow":       {[]seen{{100_000, time.Millisecond}, {100, 20 * time.Second}}, 20 * time.Second, 24 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			var s serviceTimes
			for _, o := range tt.seen {
				for range o.n {
					s.observe(o.d)
				}
			}
			if got := s.p99(); got < tt.from || got > tt.most {
				t.Errorf("p99 %v, want %v to %v", got, tt.from, tt.most)
			}
		})
	}
}

// What is known of apps that come and go is forgotten with them, and kept of those that stay.
func TestServiceTimesOfAppsThatAreGoneAreForgotten(t *testing.T) {
	var s services
	for n := range 100_000 {
		s.observe(balance.AppID(fmt.Sprint("app-", n)), 2*time.Second)
		s.observe("stays", 2*time.Second)
	}
	kept := 0
	s.of.Range(func(any, any) bool { kept++; return true })
	if kept > 4*servicesMin || int64(kept) != s.n.Load() {
		t.Errorf("%d apps of 100,000 that came and went are remembered, and %d are counted", kept,
			s.n.Load())
	}
	if s.p99("stays") == unknownHold || s.p99("app-1") != unknownHold {
		t.Errorf("known of the one that stays: %v; of one that is gone: %v", s.p99("stays"),
			s.p99("app-1"))
	}
}
