package policy

import (
	"cmp"
	"slices"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Policy decides which machines of one app are surplus. It sees one app only, and is not called
// from two goroutines at once. [Decider] is the default; package policytest has another, and
// checks yours.
//
// A policy decides and does not act. What it says against a bound is not carried out, see
// [Bounded], and between what is carried out and a stopped machine stands the soft cordon.
type Policy interface {
	// Decide returns the machines to spare and those of the leaving ones to recall, at time now.
	// It is asked each [Config.Every]. Time may stand still; it does not go back by more than
	// clocks do. s and its machines are valid until Decide returns, and the answer until the next
	// call.
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
	// Known says that another node owns the machine and has told its load; Stale, that it should
	// have and has not, or too long ago. With neither, what others own counts for the minimums
	// only.
	Known bool
	Stale bool

	Load int // own and known: requests in flight, long connections among them
	// Peak is the most that were in flight at once since the last Situation: what the window
	// remembers. Below Load it counts as Load. It sees the bursts that start machines, which one
	// look a second does not.
	Peak int
	// own and known: of Load, the long connections without data for App.IdleAfter: they are no use
	Idle int
}

// Owned is what only its owner knows of a machine: of others' it is zero.
type Owned struct {
	Used  bool // something was admitted since the last Situation
	Began bool // it has come up since the last Situation, however short its start was
	// Veto says that it cannot be spared now, unless the whole app is idle: its last stop was
	// aborted a moment ago.
	Veto bool
	// Busy says that it cannot be spared now: it says so itself, or has long connections that
	// nobody may tell.
	Busy bool
	Long int           // long connections that may be told
	Open balance.Class // the classes of its long connections, idle ones apart
}

// Situation is what a [Decider] decides on.
type Situation struct {
	App balance.App
	// Revision is the present one: machines of any other go first, and one that cannot for the
	// moment (Veto) is waited for. Empty means that all are equal, and so a Downscaler leaves it: a
	// policy that knows better fills it in, and asks a Decider.
	Revision string
	// Machines are all machines of the app, whoever owns them and whatever their state, by Rank
	// and then ID. If they come in another order they are sorted in place.
	Machines []Seen
	Parked   int  // requests that wait at edges
	Stale    bool // Parked is not known to be current: nothing is stopped
	// KeepAlive is how long the app is kept without a request by its habits; 0 when these are not
	// known. App.KeepAlive beats it.
	KeepAlive time.Duration
}

// moves reports whether the machine runs or is on its way.
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

// InUse reports whether requests are in flight, wait, or have come and gone since the last look.
// A start is no use: what is started for a request shows in that request.
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

// doubt reports whether the load of a region's machines is not known where it should be.
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
