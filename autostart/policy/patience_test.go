package policy

import (
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/boots"
	"github.com/ebbkit/ebb/balance"
)

// A boot that is slower than all before it is waited for as long as it counts.
func TestPatienceFollowsTheStart(t *testing.T) {
	s := newStory(t, balance.App{}, "nrt: a")
	now := time.Duration(0)
	boot := func(d time.Duration) {
		s.see("a stopped")
		s.plan(now, 0, 1)
		s.p.answered(t0.Add(now), s.last.Start[0], balance.StartAccepted, nil)
		s.see("a starting")
		s.plan(now, 0, 1)
		now += d
	}
	for range 31 {
		boot(300 * time.Millisecond)
		s.see("a started")
		s.plan(now, 0, 0)
		now += time.Minute
	}
	s.plan(now, 3, 0)
	if s.last.Wait != boots.WaitMin || s.last.Await != 0 {
		t.Errorf("wait %v, await %v; want 10s: no start is in flight", s.last.Wait, s.last.Await)
	}
	boot(0)
	for _, tc := range []struct{ at, await time.Duration }{{0, 17 * sec}, {sec, 16 * sec}, {12 * sec, 5 * sec}, {16 * sec, sec}, {20 * sec, 0}} {
		s.plan(now+tc.at, 0, 1)
		if s.last.Wait != 17*sec || s.last.Await != tc.await {
			t.Errorf("%v into the slow boot: wait %v, await %v; want 17s and %v", tc.at, s.last.Wait, s.last.Await, tc.await)
		}
	}
}
