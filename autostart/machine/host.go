package machine

import (
	"sync"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/boots"
	"github.com/ebbkit/ebb/autostart/machine/internal/health"
	"github.com/ebbkit/ebb/balance"
)

// hosted is what a starter holds of one machine, whether it runs or not.
type hosted struct {
	run   *run           // the last start; Starter.mu guards it
	boots [2]boots.Boots // by kind; learned.mu guards them

	mu        sync.Mutex
	notBefore time.Time // the driver wants to be called again
	restarts  int       // in a row that have not helped
	restarted time.Time // the last time; so is ready
	ready     time.Time
}

// untilCallable returns for how long the driver wants not to be called.
func (h *hosted) untilCallable() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Until(h.notBefore)
}

// callAgain notes that the driver wants to be called again after d.
func (h *hosted) callAgain(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.notBefore = time.Now().Add(d)
}

// becameReady notes that a boot has ended well.
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

// restarting notes that the machine is restarted, the n-th time in a row.
func (h *hosted) restarting(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.restarts, h.restarted = n, time.Now()
}

// trial says what the machine, whose row is m, tells of others that fail their checks. h is nil for
// a machine of another node.
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
