package waitroom

import "github.com/ebbkit/ebb/balance"

// Leaving knows what is in flight at machines under a soft cordon since before the cordon. It is
// served where it is, and who stops the machine waits for its end: it is no reason to recall the
// machine, nor to start another. What has come since is. Otherwise a connection that is idle, which
// its owner alone knows, would have its machine recalled as often as it is to sleep.
type Leaving struct {
	held   map[balance.MachineID]holding // of machines where something is in flight; nil for none
	others int                           // of other nodes, at those that leave
}

// holding is what a machine has in flight; of one that leaves, what it has had since before the
// cordon.
type holding struct {
	own int // of this node, all the time since
	// of other nodes, at any time since: what they say of it comes by another way, and may be older
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

// Look takes in what a machine has in flight and returns how much of this node's is demand.
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

// Elsewhere returns how much is demand of what other nodes tell, theirs at these machines among it.
// Too little does no harm: what comes to another node is that node's to see to.
func (l *Leaving) Elsewhere(told int) int {
	return max(0, told-l.others)
}
