package scaledown

import (
	"slices"
	"testing"
	"time"

	"github.com/ebbkit/ebb/downscale/policy"
)

const sec = time.Second

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

// Two owners without each other's loads learn longer pauses than the app has, never shorter ones;
// with them, the app's.
func TestPausesOfSeveralOwners(t *testing.T) {
	for _, shared := range []bool{false, true} {
		var a, b pauses
		var gaps [2][]time.Duration
		for at := 0; at <= 400; at += 10 { // a request every 20 s, by turns
			mine, others := at%40 == 0, at%40 == 20
			for k, p := range []*pauses{&a, &b} {
				s := policy.Situation{Machines: []policy.Seen{{Own: true, Owned: policy.Owned{Used: mine}}, {}}}
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
