package downscale

import (
	"cmp"
	"fmt"
	"sync"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/scaledown"
)

// Demand tells how many requests wait for an app's machines, on all edges.
type Demand interface {
	// Parked returns the number as last reported; fresh is false when some edge's report is
	// missing or too old. It must not block.
	Parked(app balance.AppID) (n int, fresh bool)
}

// Acks tells what other nodes know.
type Acks interface {
	// Acked reports whether every live node picks by that generation of the machine's cordon, or
	// a later one. Live is a node that may still send something: one that is silent counts until
	// it cannot any longer, say since its lease has ended, and one that has begun anew has
	// acknowledged nothing. It must not block.
	Acked(app balance.AppID, id balance.MachineID, gen uint64) bool
}

// Loads tells the load of machines that other nodes own, as their owners reported it. [Reports]
// is one.
type Loads interface {
	// Load returns what is in flight on the machine, and how much of that are long connections that
	// have carried no data for App.IdleAfter; fresh is false when the report is missing or too old. It
	// must not block.
	Load(app balance.AppID, id balance.MachineID) (inFlight, idle int, fresh bool)
}

// Reports keeps the load reports of other owners' machines for [Config].Loads. Give it each
// report that arrives, as you give it to the fleet. Make one with [NewReports]; all methods are
// safe for concurrent use.
//
// It holds one entry for each machine that was ever reported; see [Reports.Forget].
type Reports struct {
	mu   sync.RWMutex
	core scaledown.Reports
}

// NewReports returns an empty Reports. maxAge is how old a report may be to count, from its arrival
// here: a few times the interval of reports. 0 means 3 s; less is an error.
func NewReports(maxAge time.Duration) (*Reports, error) {
	if maxAge < 0 {
		return nil, fmt.Errorf("downscale: NewReports with a maxAge of %v: want 0 (3s) or more", maxAge)
	}
	return &Reports{core: scaledown.Reports{MaxAge: cmp.Or(maxAge, 3*time.Second)}}, nil
}

// Put takes in a report that arrives now, and reports false for one that is not newer than what
// is known: a message that came twice makes nothing fresh. Reports of one owner's incarnation are
// ordered by Load.Seq, which each look at a gate counts on.
func (r *Reports) Put(of balance.Report) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.core.Put(time.Now(), of)
}

// Load implements [Loads], in O(1).
func (r *Reports) Load(app balance.AppID, id balance.MachineID) (inFlight, idle int, fresh bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.core.Load(time.Now(), balance.MachineKey{App: app, ID: id})
}

// Forget drops what is known of a machine that has been removed.
func (r *Reports) Forget(app balance.AppID, id balance.MachineID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.core.Forget(balance.MachineKey{App: app, ID: id})
}
