package waitroom

import "github.com/ebbkit/ebb/balance"

// Leaving tracks requests that were in flight at machines under a soft cordon before the cordon
// began. They are served where they are, and the machine stops only after they end: they are no
// reason to recall the machine, nor to start another. Requests that came since are. Otherwise an
// idle connection, which only its owner can recognise, would recall its machine each time it is to
// stop.
type Leaving struct {
	held   map[balance.MachineID]holding // of machines where something is in flight; nil for none
	others int                           // of other nodes, at those that leave
}

// holding is what a machine has in flight; for one that leaves, only what it has had since before
// the cordon.
type holding struct {
	own int // of this node, throughout
	// of other nodes, at any time since: their reports come by another way and may be older
	others int
	seen   bool
}

// Begin begins a look at all machines.
func (l *Leaving) Begin() {
	l.others = 0
	for id, h := range l.held {
		h.seen = false
		l.held[id] = h
	}
}

// Look takes in what a machine has in flight and returns how much of this node's part is demand.
func (l *Leaving) Look(m *balance.Machine, own, others int) int {
	if m.State != balance.StateStarted || m.Cordon == balance.CordonHard {
		return own
	}
	goes := m.Cordon == balance.CordonSoft
	h, known := l.held[m.ID]
	if !goes {
		h = holding{own: own, others: others}
	} else {
		h.own, h.others = min(h.own, own), max(h.others, others)
		l.others += h.others
	}
	if h.own > 0 || h.others > 0 {
		if l.held == nil {
			l.held = map[balance.MachineID]holding{}
		}
		h.seen = true
		l.held[m.ID] = h
	} else if known {
		delete(l.held, m.ID)
	}
	if goes {
		return own - h.own
	}
	return own
}

// End ends the look.
func (l *Leaving) End() {
	for id, h := range l.held {
		if !h.seen {
			delete(l.held, id)
		}
	}
	if len(l.held) == 0 {
		l.held = nil
	}
}

// Elsewhere returns how much of the load reported by other nodes is demand; told includes theirs at
// these machines. Too low a number does no harm: each node plans for the requests it gets.
func (l *Leaving) Elsewhere(told int) int {
	return max(0, told-l.others)
}
