package autostart

import (
	"math"

	"github.com/ebbkit/ebb/balance"
)

// leaving knows what is in flight at machines under a soft cordon since before the cordon. It is
// served where it is, and who stops the machine waits for its end: it is no reason to recall the
// machine, nor to start another. What has come since is. Otherwise a connection that is idle, which
// its owner alone knows, would have its machine recalled as often as it is to sleep.
type leaving struct {
	held   map[balance.MachineID]holding // of machines where something is in flight; nil for none
	others float64                       // of other nodes, at those that leave: as the present look estimates
}

// holding is what this node has in flight at a machine; at one that leaves, what it has had there
// all the time since before the cordon.
type holding struct {
	own  int
	seen bool // by the present look
}

// begin begins a look at all machines.
func (l *leaving) begin() {
	l.others = 0
	for id, h := range l.held {
		h.seen = false
		l.held[id] = h
	}
}

// look takes in a machine's load and returns how much of this node's is demand.
func (l *leaving) look(m *balance.Machine, own int, others float64) int {
	goes := m.State == balance.Started && m.Cordon == balance.CordonSoft
	if goes {
		l.others += max(0, others)
	}
	h, ok := l.held[m.ID]
	if own <= 0 || goes && !ok {
		return own
	}
	if goes {
		h.own = min(h.own, own)
	} else {
		h.own = own
	}
	h.seen = true
	if l.held == nil {
		l.held = map[balance.MachineID]holding{}
	}
	l.held[m.ID] = h
	if goes {
		return own - h.own
	}
	return own
}

// end ends the look.
func (l *leaving) end() {
	for id, h := range l.held {
		if !h.seen {
			delete(l.held, id)
		}
	}
	if len(l.held) == 0 {
		l.held = nil
	}
}

// elsewhere returns how much is demand of what other nodes tell, theirs at these machines among it.
func (l *leaving) elsewhere(told int) int {
	return max(0, told-int(math.Round(min(l.others, math.MaxInt32))))
}
