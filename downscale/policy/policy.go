package policy

import (
	"cmp"
	"slices"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Policy decides which machines of one app are surplus. It sees one app only, and is never called
// from two goroutines at once. [Decider] is the default; package policytest has another one, and
// checks yours.
//
// A policy decides and does not act. A decision against a bound is not carried out, see [Bounded];
// and the soft cordon stands between a decision and a stopped machine.
type Policy interface {
	// Decide returns the machines to spare and the leaving ones to recall, at time now. It is asked
	// each [Config.Every]. Time may stand still, and goes back only as far as clocks do. s and its
	// machines are valid until Decide returns, and the answer until the next call.
	Decide(now time.Time, s Situation) []Decision
}

// Seen is one machine as a [Decider] sees it.
type Seen struct {
	ID       balance.MachineID
	Region   string
	Revision string
	Rank     uint64 // its place in the canonical order: [balance.MachineKey.Rank]
	State    balance.State
	Failing  bool           // its checks fail: it has no capacity
	Hard     bool           // it is hard-cordoned: it counts for nothing
	Limits   balance.Limits // as they hold, the app's defaults filled in

	Leaving bool // soft-cordoned or closing: it is being stopped, and can still be recalled

	// Own says that this node owns the machine: only then can it be spared.
	Own bool
	Owned
	// Known says that another node owns the machine and has reported its load. Stale says that it
	// should have, but has not, or too long ago. With neither, machines of other owners count for
	// the minimums only.
	Known bool
	Stale bool

	Load int // own and known: requests in flight, long connections among them
	// Peak is the most that were in flight at once since the last Situation; the window remembers
	// it. A value below Load counts as Load. It includes the bursts that start machines, which one
	// look a second misses.
	Peak int
	// own and known: of Load, the long connections without data for App.IdleAfter: they count as
	// unused
	Idle int
}

// Owned is what only the owner of a machine knows; for other nodes' machines it is zero.
type Owned struct {
	Used  bool // something was admitted since the last Situation
	Began bool // it has come up since the last Situation, however short its start was
	// Veto says that the machine cannot be spared now, unless the whole app is idle: its last stop
	// was aborted a moment ago.
	Veto bool
	// Busy says that the machine cannot be spared now: it says so itself, or has long connections
	// that must not be told to end.
	Busy bool
	Long int           // long connections that may be told to end
	Open balance.Class // the classes of its long connections, without idle ones
}

// Situation is what a [Decider] decides on.
type Situation struct {
	App balance.App
	// Revision is the present one. Machines of any other go first, and if one of them cannot go for
	// the moment (Veto), the others wait for it. Empty means that all are equal; a Downscaler
	// leaves it empty. A policy that knows the revision sets it and then asks a Decider.
	Revision string
	// Machines are all machines of the app, whoever owns them and whatever their state, by Rank
	// and then ID. If they come in another order they are sorted in place.
	Machines []Seen
	Parked   int  // requests that wait at edges
	Stale    bool // Parked may be out of date: nothing is stopped
	// KeepAlive is how long the app's habits suggest keeping it without a request; 0 when they are
	// not known. App.KeepAlive takes precedence.
	KeepAlive time.Duration
}

// moves reports whether the machine runs, starts or stops.
func (m Seen) moves() bool {
	switch m.State {
	case balance.StateStopped, balance.StateSuspended, balance.StateFailed:
		return false
	}
	return true
}

// counts reports whether m runs or will, and stays.
func (m *Seen) counts() bool {
	return (m.State == balance.StateStarted || m.State == balance.StateStarting) && !m.Hard &&
		!m.Leaving
}

func (m *Seen) isLeaving() bool {
	return m.Own && m.Leaving && m.State == balance.StateStarted && !m.Hard
}

// capacity returns how much m can take.
func capacity(m *Seen) int {
	if m.Failing {
		return 0
	}
	return cmp.Or(m.Limits.Soft, m.Limits.Hard, unlimited)
}

// InUse reports whether requests are in flight, wait, or have come and gone since the last look. A
// start does not count as use: the request that caused it does.
func (s *Situation) InUse() bool {
	if s.Parked > 0 {
		return true
	}
	for i := range s.Machines {
		m := &s.Machines[i]
		if (m.Own || m.Known) && m.Load > m.Idle || m.Own && m.Used {
			return true
		}
	}
	return false
}

func (s *Situation) sort() {
	if !slices.IsSortedFunc(s.Machines, bySeen) {
		slices.SortFunc(s.Machines, bySeen)
	}
}

func bySeen(a, b Seen) int { return cmp.Or(cmp.Compare(a.Rank, b.Rank), cmp.Compare(a.ID, b.ID)) }

func (s *Situation) index(id balance.MachineID) int {
	for i := range s.Machines {
		if s.Machines[i].ID == id {
			return i
		}
	}
	return -1
}

// hold returns why nothing of the app is to be stopped.
func (s *Situation) hold() (of Decision, held bool) {
	switch {
	case s.App.Autostop == balance.AutostopOff:
		return Decision{Rule: ruleOff}, true
	case s.Parked > 0:
		return Decision{Rule: ruleParked, Count: s.Parked}, true
	case s.Stale:
		return Decision{Rule: ruleStale}, true
	}
	return Decision{}, false
}

// doubt reports whether the load of one of a region's machines is not known although it should be.
func (s *Situation) doubt(region string) bool {
	for i := range s.Machines {
		if m := &s.Machines[i]; m.Region == region && m.Stale && m.counts() {
			return true
		}
	}
	return false
}

// full reports whether all machines of a region whose load is known are at their soft limits.
func (s *Situation) full(region string) bool {
	for i := range s.Machines {
		m := &s.Machines[i]
		seen := m.Region == region && m.State == balance.StateStarted && m.counts() && (m.Own || m.Known)
		if seen && m.Load < max(1, capacity(m)) {
			return false
		}
	}
	return true
}
