package pool

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/balance"
)

// Nobody waits for a slot that is free.
func TestTheWaitForASlotEndsWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Lingering{left: time.Now(), gone: make(chan struct{}), Free: func() {}}
		time.AfterFunc(time.Second, func() { l.end(hop.FreedEnded) })
		if l.hold(time.Hour); time.Since(l.left) != time.Second {
			t.Errorf("waited %v for a slot that was free after 1 s", time.Since(l.left))
		}
	})
}

// What is known of apps that come and go is forgotten with them, and kept of those that stay.
func TestServiceTimesOfAppsThatAreGoneAreForgotten(t *testing.T) {
	var s AppTimes
	for n := range 100_000 {
		s.Observe(balance.AppID(fmt.Sprint("app-", n)), 2*time.Second)
		s.Observe("stays", 2*time.Second)
	}
	kept := 0
	s.of.Range(func(any, any) bool { kept++; return true })
	if kept > 4*servicesMin || int64(kept) != s.n.Load() {
		t.Errorf("%d apps of 100,000 that came and went are remembered, and %d are counted", kept,
			s.n.Load())
	}
	if s.P99("stays") == hop.UnknownHold || s.P99("app-1") != hop.UnknownHold {
		t.Errorf("known of the one that stays: %v; of one that is gone: %v", s.P99("stays"),
			s.P99("app-1"))
	}
}
