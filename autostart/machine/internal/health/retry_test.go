package health

import (
	"strings"
	"testing"
	"time"
)

func TestRetries(t *testing.T) {
	const ms = time.Millisecond
	for _, tc := range []struct {
		name  string
		calls []string        // plain, or later and after how long
		least []time.Duration // until the next call; -1: none
	}{
		{"an ordinary error is tried again three times",
			[]string{"plain", "plain", "plain", "plain"},
			[]time.Duration{80 * ms, 240 * ms, 720 * ms, -1}},
		{"a passing one for as long as it lasts",
			[]string{"later 0s", "later 0s", "later 0s", "later 0s", "later 0s", "later 0s"},
			[]time.Duration{250 * ms, 500 * ms, sec, 2 * sec, 4 * sec, 5 * sec}},
		{"not before the time that it says",
			[]string{"later 3s", "later 7s", "later 1s"}, []time.Duration{3 * sec, 7 * sec, sec}},
		{"passing errors are no ordinary ones",
			[]string{"plain", "later 0s", "plain", "later 0s", "plain", "plain"},
			[]time.Duration{80 * ms, 250 * ms, 240 * ms, 250 * ms, 720 * ms, -1}},
		{"later than anybody waits", []string{"later 3m1s"}, []time.Duration{-1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, bits := range []uint64{0, 1 << 63, ^uint64(0)} {
				var r Retries
				for i, call := range tc.calls {
					word, arg, passes := strings.Cut(call, " ")
					after, _ := time.ParseDuration(arg)
					wait, ok := r.Again(passes, after, bits)
					least := tc.least[i]
					if ok != (least >= 0) {
						t.Fatalf("%s, call %d: again %v", word, i, ok)
					}
					if wait < max(least, 0) || bits == 0 && ok && wait != least || wait > least*3/2+passMin {
						t.Errorf("%s %d: again after %v, want %v and some chance", word, i, wait, least)
					}
				}
			}
		})
	}
}
