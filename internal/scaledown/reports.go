package scaledown

import (
	"cmp"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Reports keeps the last load report of each machine of another owner. The zero value is empty.
type Reports struct {
	MaxAge time.Duration // how old a report may be to count

	last map[balance.MachineKey]report
}

type report struct {
	incarnation uint64
	seq         uint64
	inFlight    int
	idle        int
	at          time.Time // of arrival: by this node's clock, whatever the owner's says
}

// Put takes in a report that arrives at time now, and reports whether it is newer than what is
// known.
func (r *Reports) Put(now time.Time, of balance.Report) bool {
	key := balance.MachineKey{App: of.App, ID: of.ID}
	next := report{
		incarnation: of.Version.Incarnation, seq: of.Load.Seq, at: now,
		// a slot that is only reserved is not demand
		inFlight: max(0, of.Load.InFlight-max(0, of.Granted)),
	}
	next.idle = min(max(0, of.Idle), next.inFlight)
	was, ok := r.last[key]
	newer := cmp.Or(cmp.Compare(next.incarnation, was.incarnation), cmp.Compare(next.seq, was.seq)) > 0
	if ok && !newer {
		return false
	}
	if r.last == nil {
		r.last = map[balance.MachineKey]report{}
	}
	r.last[key] = next
	return true
}

// Load returns what is in flight on a machine, and how much of it is idle, as last reported.
func (r *Reports) Load(now time.Time, key balance.MachineKey) (inFlight, idle int, fresh bool) {
	last, ok := r.last[key]
	if !ok || now.Sub(last.at) > r.MaxAge {
		return 0, 0, false
	}
	return last.inFlight, last.idle, true
}

// Forget drops what is known of a machine.
func (r *Reports) Forget(key balance.MachineKey) { delete(r.last, key) }
