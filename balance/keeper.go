package balance

import (
	"slices"
	"sync/atomic"
)

// Keeper is told of what only whoever starts this node's machines can see to. Its funcs are called
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
// autostart.Starter is one while it runs. While there is none with Wanted, gates remember no start:
// they refuse it, since nobody would do it.
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
	return k == nil || slices.ContainsFunc(k.keepers.all(), func(o *Keeper) bool { return o.Wanted != nil })
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
