package backhaul

import (
	"fmt"
	"testing"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/balance"
)

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
	if s.p99("stays") == hop.UnknownHold || s.p99("app-1") != hop.UnknownHold {
		t.Errorf("known of the one that stays: %v; of one that is gone: %v", s.p99("stays"),
			s.p99("app-1"))
	}
}
