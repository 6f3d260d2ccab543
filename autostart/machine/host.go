package machine

import (
	"sync"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/boots"
	"github.com/ebbkit/ebb/autostart/machine/internal/health"
	"github.com/ebbkit/ebb/balance"
)

// hosted is a starter's entry for one machine, whether it runs or not.
type hosted struct {
	run   *run           // the last start; Starter.mu guards it
	boots [2]boots.Boots // by kind; learned.mu guards them

	mu        sync.Mutex
	notBefore time.Time // the driver must not be called before this
	restarts  int       // restarts in a row that have not helped
	restarted time.Time // the last restart; ready is the last time it became ready
	ready     time.Time
}

// untilCallable returns how long the driver must not be called.
func (h *hosted) untilCallable() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Until(h.notBefore)
}

// callAgain records that the driver must not be called again before d has passed.
func (h *hosted) callAgain(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.notBefore = time.Now().Add(d)
}

// becameReady records that a boot has succeeded.
func (h *hosted) becameReady() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ready = time.Now()
}

// tries returns how many restarts in a row have not helped.
func (h *hosted) tries() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.restarts
}

func (h *hosted) setTries(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.restarts = n
}

// restarting records that the machine is being restarted, for the n-th time in a row.
func (h *hosted) restarting(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.restarts, h.restarted = n, time.Now()
}

// trial returns what the machine, whose row is m, shows about others that fail their checks. h is
// nil for a machine of another node.
func (h *hosted) trial(m *balance.Machine, after time.Duration) health.Trial {
	well := m.State == balance.StateStarted && !m.Recent
	if h == nil {
		if well {
			return health.TrialPassed
		}
		return health.TrialNone
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	comes := m.State == balance.StateStarting || m.State == balance.StateStopping ||
		m.State == balance.StateSuspending
	switch {
	case well && time.Since(h.ready) >= after:
		return health.TrialPassed
	case time.Since(h.restarted) < after || h.restarts > 0 && comes:
		return health.TrialOpen
	}
	return health.TrialNone
}
