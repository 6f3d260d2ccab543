package balance

import (
	"fmt"
	"iter"
	"slices"
	"sync/atomic"
)

// Host makes this node the owner of m and returns its gate. From then on the row's State, Cordon,
// CordonGen and Epoch follow the gate, and [Fleet.Edit] changes the rest. The machine begins
// stopped, whatever the row says.
func (f *Fleet) Host(m Machine) (*Gate, error) {
	m.Owner, m.State, m.Cordon, m.CordonGen, m.Epoch = f.node, StateStopped, CordonNone, 0, 0
	if err := m.validate(); err != nil {
		return nil, err
	}
	gate, err := NewGate(m.Limits)
	if err != nil {
		return nil, err
	}
	err = f.locked(func() error {
		if f.app(m.App).cells.find(m.ID) != nil {
			return fmt.Errorf(
				"balance: machine %q of app %q is in the fleet already: choose another ID, or remove it first",
				m.ID, m.App,
			)
		}
		if err := gate.SetLimits(f.app(m.App).snap.Load().app.LimitsOf(m)); err != nil {
			return err
		}
		gate.changed = func() { f.follow(m.App, m.ID, nil) }
		gate.kept = &kept{&f.keepers, m.App, m.ID}
		// tokens of an earlier incarnation mean nothing here
		gate.slots.last = mix(f.incarnation, m.Key().Rank())
		f.seq++
		b := f.batch()
		defer b.commit()
		_, err := b.put(m, Version{f.incarnation, f.seq}, gate)
		return err
	})
	if err != nil {
		return nil, err
	}
	f.notify([]AppID{m.App})
	return gate, nil
}

// Gate returns the gate of a machine that this node owns, or nil.
func (f *Fleet) Gate(app AppID, id MachineID) *Gate {
	a, ok := (*f.apps.Load())[app]
	if !ok {
		return nil
	}
	c := a.cells.find(id)
	if c == nil {
		return nil
	}
	return c.gate
}

// Owned yields an app's machines that this node owns, by region and ID, with their gates.
func (f *Fleet) Owned(app AppID) iter.Seq2[*Machine, *Gate] {
	return func(yield func(*Machine, *Gate) bool) {
		s, ok := f.App(app)
		if !ok {
			return
		}
		for m := range s.rows() {
			if m.cell.gate != nil && !yield(m.machine(), m.cell.gate) {
				return
			}
		}
	}
}

// Edit changes the row of a machine that this node owns. What belongs to the machine's identity or
// to its gate (ID, App, Region, Owner, State, Cordon, CordonGen, Epoch) stays as it is. edit is
// called with no lock held, and once more, with the row as it is then, whenever the row has changed
// before its edit was in: it should set fields and do nothing else.
func (f *Fleet) Edit(app AppID, id MachineID, edit func(*Machine)) error {
	if f.Gate(app, id) == nil {
		return fmt.Errorf(
			"balance: machine %q of app %q is not owned by node %q: only its owner edits it", id, app,
			f.node,
		)
	}
	err := f.follow(app, id, edit)
	f.limitGates(app)
	return err
}

// limitGates brings the limits of the app's machines into the gates of those that this node owns.
func (f *Fleet) limitGates(app AppID) {
	s, ok := f.App(app)
	if !ok {
		return
	}
	for m := range s.rows() {
		if g := m.cell.gate; g != nil && g.Load().Limits != m.shared.limits {
			g.SetLimits(m.shared.limits) // valid: the row was
		}
	}
}

// follow writes the row anew from the gate, and from edit if there is one. It is level-triggered:
// however many transitions there were, and in whatever order their notices come, the row ends as
// the gate is.
func (f *Fleet) follow(app AppID, id MachineID, edit func(*Machine)) error {
	for {
		row := f.ownRow(app, id)
		if row == nil {
			return nil // removed meanwhile
		}
		m := row.unpack()
		if edit != nil {
			edit(&m)
			m.ID, m.App, m.Region, m.Owner = id, app, row.shared.region, f.node
			if err := m.validate(); err != nil {
				return err
			}
		}
		stands, changed, err := f.rewrite(row, m)
		if changed {
			f.notify([]AppID{app})
		}
		if stands {
			return err
		}
	}
}

// ownRow returns the row of a machine that this node owns; nil when it is not there.
func (f *Fleet) ownRow(app AppID, id MachineID) (r *row) {
	a, ok := (*f.apps.Load())[app]
	if !ok {
		return nil
	}
	c := a.cells.find(id)
	if c == nil || c.gate == nil {
		return nil
	}
	if r = c.row.Load(); r.shared == nil { // Host has not returned: its batch holds the lock
		f.locked(func() error { r = c.row.Load(); return nil })
	}
	return r
}

// rewrite replaces a row by m, with what the gate says now. stands is false when another row has
// taken its place.
func (f *Fleet) rewrite(row *row, m Machine) (stands, changed bool, err error) {
	err = f.locked(func() error {
		a, ok := (*f.apps.Load())[m.App]
		if stands = !ok || a.cells.find(m.ID) != row.cell; stands {
			return nil // removed meanwhile
		}
		if stands = row.cell.row.Load() == row; !stands {
			return nil
		}
		l := row.cell.gate.Load()
		m.State, m.Cordon, m.CordonGen, m.Epoch = l.State, l.Cordon, l.CordonGen, l.Epoch
		if m == row.unpack() {
			return nil
		}
		b := f.batch()
		f.seq++
		var err error
		changed, err = b.put(m, Version{f.incarnation, f.seq}, nil)
		b.commit()
		return err
	})
	return stands, changed, err
}

// Keeper is told what concerns whoever starts this node's machines. Its funcs are called
// from any goroutine with no lock held, and must not block. Each may be nil.
type Keeper struct {
	// Wanted: a stop is over during which a start was asked for, and answered with
	// [StartRemembered]. The keeper starts the machine.
	Wanted func(app AppID, id MachineID)
	// Suspect: a request that was let in found that nothing listens at the machine's address. It
	// may come many times.
	Suspect func(app AppID, id MachineID, epoch uint64)
	// Removed: the machine has left the fleet, and nothing of it needs to be kept.
	Removed func(app AppID, id MachineID)
}

// Keep makes k a keeper of the machines that this node owns, until release is called.
// machine.Starter of package autostart/machine is one while it runs. While there is none with
// Wanted, gates remember no start: they refuse it, since nobody would do it.
func (f *Fleet) Keep(k Keeper) (release func()) {
	held := &k
	f.keepers.change(func(ks []*Keeper) []*Keeper { return append(ks, held) })
	return func() {
		f.keepers.change(func(ks []*Keeper) []*Keeper {
			return slices.DeleteFunc(ks, func(o *Keeper) bool { return o == held })
		})
	}
}

// keepers is a list that is replaced on change.
type keepers struct{ list atomic.Pointer[[]*Keeper] }

func (k *keepers) all() []*Keeper {
	if l := k.list.Load(); l != nil {
		return *l
	}
	return nil
}

func (k *keepers) change(edit func([]*Keeper) []*Keeper) {
	for {
		old := k.list.Load()
		var next []*Keeper
		if old != nil {
			next = slices.Clone(*old)
		}
		if next = edit(next); k.list.CompareAndSwap(old, &next) {
			return
		}
	}
}

func (k *keepers) removed(m MachineKey) {
	for _, o := range k.all() {
		if o.Removed != nil {
			o.Removed(m.App, m.ID)
		}
	}
}

// kept is a gate's way to the keepers of its fleet.
type kept struct {
	keepers *keepers
	app     AppID
	id      MachineID
}

// remembers reports whether somebody does a start that is remembered. Of a gate of no fleet it is
// whoever calls Closed.
func (k *kept) remembers() bool {
	return k == nil ||
		slices.ContainsFunc(k.keepers.all(), func(o *Keeper) bool { return o.Wanted != nil })
}

func (k *kept) wanted() {
	if k == nil {
		return
	}
	for _, o := range k.keepers.all() {
		if o.Wanted != nil {
			o.Wanted(k.app, k.id)
		}
	}
}

func (k *kept) suspect(epoch uint64) {
	if k == nil {
		return
	}
	for _, o := range k.keepers.all() {
		if o.Suspect != nil {
			o.Suspect(k.app, k.id, epoch)
		}
	}
}
