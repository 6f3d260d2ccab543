package exchange

import (
	"fmt"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/balance/exchange/internal/core"
)

// quarantineMax bounds the refused rows of one node that are kept to be retried.
const quarantineMax = 1000

// rows puts the rows of other nodes into the fleet. It belongs to Run's goroutine.
//
// It counts the fleet's versions of those rows itself instead of taking them from the owner. The
// follower has put the rows in order already, and the changes that a node is gone, or heard again,
// need versions among them.
type rows struct {
	l       *Link
	version uint64
	// rows that conflict with what the fleet holds, which may soon be removed there
	refused map[balance.NodeID]map[balance.MachineKey]balance.PutMachine
}

func (r *rows) next(incarnation uint64) balance.Version {
	r.version++
	return balance.Version{Incarnation: incarnation, Seq: r.version}
}

// apply puts a node's rows into the fleet. A row that is refused is left out; the others are
// applied.
func (r *rows) apply(a core.Apply) {
	var us []balance.Update
	for _, row := range a.Rows {
		v, k := r.next(a.Incarnation), row.Machine.Key()
		delete(r.refused[a.Node], k)
		switch {
		case row.Err != nil:
			r.bad(a.Node, k, row.Err)
			us = r.markGone(us, a.Node, k, v)
		case row.Removed:
			if m, ok := r.held(k); ok && m.Owner == a.Node {
				us = append(us, balance.RemoveMachine{App: k.App, ID: k.ID, Version: v})
			}
		default:
			row.Machine.Owner = a.Node
			us = append(us, balance.PutMachine{Machine: row.Machine, Version: v})
		}
	}
	r.put(a.Node, us, true)
}

func (r *rows) held(k balance.MachineKey) (balance.Machine, bool) {
	s, ok := r.l.fleet.App(k.App)
	if !ok {
		return balance.Machine{}, false
	}
	return s.Machine(k.ID)
}

// gone marks the machines of a node that is gone.
func (r *rows) gone(a core.Gone) {
	var us []balance.Update
	for _, k := range a.Machines {
		us = r.markGone(us, a.Node, k, r.next(a.Incarnation))
	}
	delete(r.refused, a.Node)
	r.put(a.Node, us, true)
}

// markGone appends an update that marks a node's machine as gone.
func (r *rows) markGone(
	us []balance.Update, node balance.NodeID, k balance.MachineKey, v balance.Version,
) []balance.Update {
	m, ok := r.held(k)
	if !ok || m.Owner != node || m.State == balance.StateGone {
		return us
	}
	m.State = balance.StateGone
	return append(us, balance.PutMachine{Machine: m, Version: v})
}

// put applies updates at once or, where one of them is refused, one by one.
func (r *rows) put(node balance.NodeID, us []balance.Update, tell bool) {
	if len(us) == 0 {
		return
	}
	if r.try(us...) == nil {
		r.l.count.rows.Add(uint64(len(us)))
		return
	}
	for _, u := range us {
		err := r.try(u)
		if err == nil {
			r.l.count.rows.Add(1)
			continue
		}
		p, ok := u.(balance.PutMachine)
		if ok {
			r.quarantine(node, p)
		}
		if tell {
			r.bad(node, p.Machine.Key(), err)
		}
	}
}

// try applies updates. Data of another node must not crash this one: a panic becomes an error.
func (r *rows) try(us ...balance.Update) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("exchange: panic: %v", p)
		}
	}()
	return r.l.fleet.Apply(us...)
}

// quarantine keeps a refused row. What the fleet holds of the machine by the same owner is older
// and must not be used.
func (r *rows) quarantine(node balance.NodeID, p balance.PutMachine) {
	if us := r.markGone(nil, node, p.Machine.Key(), r.next(p.Version.Incarnation)); us != nil {
		r.try(us...)
	}
	of := r.refused[node]
	if of == nil {
		of = map[balance.MachineKey]balance.PutMachine{}
		r.refused[node] = of
	}
	if len(of) < quarantineMax {
		of[p.Machine.Key()] = p
	}
}

// again retries the refused rows.
func (r *rows) again() {
	for node, of := range r.refused {
		var us []balance.Update
		for k, p := range of {
			p.Version = r.next(p.Version.Incarnation)
			us = append(us, p)
			delete(of, k)
		}
		if len(of) == 0 {
			delete(r.refused, node)
		}
		r.put(node, us, false)
	}
}

func (r *rows) bad(node balance.NodeID, k balance.MachineKey, err error) {
	r.l.count.badRows.Add(1)
	r.l.refuse(node, k, err)
}
