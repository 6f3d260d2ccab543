package balance

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// FleetConfig says who looks at the fleet.
type FleetConfig struct {
	Node   NodeID // this node; required
	Region string // where it is; required
	// Incarnation counts this node's starts; it versions the rows of machines that this node owns. 0 means 1, which is
	// right for a fleet that lives in one process only.
	Incarnation uint64
}

// Fleet is one node's catalogue of apps and machines, with the live counts beside it. Readers take an immutable
// [Snapshot] of an app; writers copy only the region that they change. All methods are safe for concurrent use; each row
// has a single writer, its owner.
type Fleet struct {
	node        NodeID
	region      string
	incarnation uint64
	tick        atomic.Int64 // coarse time, from 1, moved by the balancer

	apps atomic.Pointer[map[AppID]*app] // replaced when an app comes or goes

	mu        sync.Mutex // serializes writers
	seq       uint64     // of the last row written here as an owner
	gone      map[NodeID]uint64
	watchers  map[*Watcher]struct{}
	listeners []func(AppID)
}

type app struct {
	snap    atomic.Pointer[Snapshot]
	cells   sync.Map              // MachineID -> *entry: reports find their cell without a lock
	removed map[MachineID]Version // under Fleet.mu: rows older than a removal stay out
}

// entry is a machine's identity in an app: what does not change with its rows. The fields are written once or under
// Fleet.mu; readers of reports only use the cell.
type entry struct {
	region string
	owner  NodeID
	cell   *cell
	gate   *Gate
}

// NewFleet returns an empty fleet.
func NewFleet(c FleetConfig) (*Fleet, error) {
	switch {
	case c.Node == "":
		return nil, fmt.Errorf("balance: FleetConfig.Node is empty: set it to this node's ID")
	case c.Region == "":
		return nil, fmt.Errorf("balance: FleetConfig.Region is empty: set it to this node's region")
	}
	f := &Fleet{node: c.Node, region: c.Region, incarnation: max(1, c.Incarnation), gone: map[NodeID]uint64{}, watchers: map[*Watcher]struct{}{}}
	f.apps.Store(&map[AppID]*app{})
	f.tick.Store(1) // 0 is never
	return f, nil
}

// Node returns the node whose view this is.
func (f *Fleet) Node() NodeID { return f.node }

// Region returns that node's region.
func (f *Fleet) Region() string { return f.region }

// Incarnation returns the number of this node's start.
func (f *Fleet) Incarnation() uint64 { return f.incarnation }

// App returns the present snapshot of an app.
func (f *Fleet) App(id AppID) (*Snapshot, bool) {
	a, ok := (*f.apps.Load())[id]
	if !ok {
		return nil, false
	}
	return a.snap.Load(), true
}

// Apps returns the IDs of all apps, sorted.
func (f *Fleet) Apps() []AppID { return slices.Sorted(maps.Keys(*f.apps.Load())) }

// Apply makes changes of the catalogue, in order, each at once for readers. What makes no sense is refused with an error
// that names it, and everything before it stands. What is older than what is held changes nothing and is no error.
// When Apply returns, this node picks by the new rows: that is its acknowledgement of a cordon.
func (f *Fleet) Apply(updates ...Update) error {
	var touched []AppID
	err := f.locked(func() error {
		for _, u := range updates {
			if err := u.check(); err != nil {
				return err
			}
			t, err := f.apply(u)
			touched = append(touched, t...)
			if err != nil {
				return err
			}
		}
		return nil
	})
	for _, u := range updates {
		if p, ok := u.(PutApp); ok {
			f.limitGates(p.App.ID)
		}
	}
	f.notify(touched)
	return err
}

func (f *Fleet) locked(do func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return do()
}

// notify tells the listeners of each app, with no lock held.
func (f *Fleet) notify(touched []AppID) {
	slices.Sort(touched)
	for _, id := range slices.Compact(touched) {
		for _, l := range f.listenersNow() {
			l(id)
		}
	}
}

func (f *Fleet) listenersNow() []func(AppID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.listeners
}

func (f *Fleet) listen(l func(AppID)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.listeners = append(slices.Clip(f.listeners), l)
}

func (f *Fleet) apply(u Update) ([]AppID, error) {
	switch u := u.(type) {
	case PutApp:
		f.putApp(u.App)
		return []AppID{u.App.ID}, nil
	case RemoveApp:
		f.removeApp(u.ID)
		return []AppID{u.ID}, nil
	case PutMachine:
		if u.Version.Incarnation <= f.gone[u.Machine.Owner] {
			return nil, nil // the node that wrote it is gone
		}
		changed, err := f.put(u.Machine, u.Version, nil)
		if !changed {
			return nil, err
		}
		return []AppID{u.Machine.App}, nil
	case RemoveMachine:
		f.remove(u)
		return []AppID{u.App}, nil
	case NodeGone:
		return f.nodeGone(u), nil
	}
	return nil, fmt.Errorf("balance: update of type %T: not one of this package", u)
}

// app returns the app with that ID, made on demand: rows may arrive before settings.
func (f *Fleet) app(id AppID) *app {
	apps := *f.apps.Load()
	if a, ok := apps[id]; ok {
		return a
	}
	a := &app{removed: map[MachineID]Version{}}
	a.snap.Store(&Snapshot{app: App{ID: id}})
	next := maps.Clone(apps)
	next[id] = a
	f.apps.Store(&next)
	return a
}

func (f *Fleet) putApp(settings App) {
	a := f.app(settings.ID)
	old := a.snap.Load()
	next := &Snapshot{app: settings, known: true, regions: old.regions}
	if old.app.Limits != settings.Limits {
		for _, r := range old.regions { // limits are resolved in the rows
			rows := make([]*row, len(r.rows))
			for i, m := range r.rows {
				rows[i] = f.derive(*m, settings)
			}
			next = next.with(r.name, rows)
		}
	}
	a.snap.Store(next)
	f.tell(func(w *Watcher) { w.put(PutApp{settings}) })
}

func (f *Fleet) removeApp(id AppID) {
	next := maps.Clone(*f.apps.Load())
	delete(next, id)
	f.apps.Store(&next)
	f.tell(func(w *Watcher) { w.put(RemoveApp{id}) })
}

// put stores a row if it is newer than the one held. gate is given for machines that this node owns.
func (f *Fleet) put(m Machine, v Version, gate *Gate) (changed bool, err error) {
	a := f.app(m.App)
	if t, ok := a.removed[m.ID]; ok && !v.after(t) {
		return false, nil
	}
	e, known := a.entry(m.ID)
	switch {
	case !known:
		e = &entry{region: m.Region, owner: m.Owner, cell: &cell{}, gate: gate}
	case e.owner != m.Owner:
		return false, fmt.Errorf("balance: machine %q belongs to node %q, row says %q: a machine keeps its owner; remove it first", m.ID, e.owner, m.Owner)
	case e.region != m.Region:
		return false, fmt.Errorf("balance: machine %q is in region %q, row says %q: a machine keeps its region; remove it first", m.ID, e.region, m.Region)
	}
	s := a.snap.Load()
	rows := s.region(m.Region)
	i, held := (&regionRows{rows: rows}).find(m.ID)
	if held && !v.after(rows[i].version) {
		return false, nil
	}
	if held && (rows[i].Epoch != m.Epoch || rows[i].version.Incarnation != v.Incarnation) {
		e.cell.forget()
	}
	next := f.derive(row{Machine: m, version: v, cell: e.cell, gate: e.gate}, s.app)
	if held {
		rows = slices.Clone(rows)
		rows[i] = next
	} else {
		rows = slices.Insert(slices.Clone(rows), i, next)
		a.cells.Store(m.ID, e)
		delete(a.removed, m.ID)
	}
	a.snap.Store(s.with(m.Region, rows))
	f.tell(func(w *Watcher) { w.put(PutMachine{m, v}) })
	return true, nil
}

func (f *Fleet) derive(m row, settings App) *row {
	m.limits = settings.LimitsOf(m.Machine)
	m.tier = tierOf(&m.Machine)
	m.rank = Rank(m.App, m.ID)
	m.salt = hash2(string(f.node), string(m.ID))
	return &m
}

func (f *Fleet) remove(u RemoveMachine) {
	a := f.app(u.App)
	e, ok := a.entry(u.ID)
	if ok {
		s := a.snap.Load()
		rows := s.region(e.region)
		i, held := (&regionRows{rows: rows}).find(u.ID)
		if held && rows[i].version.after(u.Version) {
			return
		}
		if held {
			a.snap.Store(s.with(e.region, slices.Delete(slices.Clone(rows), i, i+1)))
		}
		a.cells.Delete(u.ID)
	}
	a.removed[u.ID] = u.Version
	f.tell(func(w *Watcher) { w.put(u) })
}

// nodeGone takes the machines of a vanished owner as stopped.
func (f *Fleet) nodeGone(u NodeGone) (touched []AppID) {
	f.gone[u.Node] = max(f.gone[u.Node], u.Incarnation)
	for id, a := range *f.apps.Load() {
		s := a.snap.Load()
		for _, r := range s.regions {
			rows := slices.Clone(r.rows)
			changed := false
			for i, m := range rows {
				if m.Owner == u.Node && m.version.Incarnation <= u.Incarnation && m.State != Stopped {
					stopped := *m
					stopped.State = Stopped
					rows[i] = f.derive(stopped, s.app)
					changed = true
				}
			}
			if changed {
				s = s.with(r.name, rows)
				a.snap.Store(s)
				touched = append(touched, id)
			}
		}
	}
	return touched
}

// Report takes in a load report, in O(1) and without allocating. It reports false for one that is older than what is
// known, or of a machine that is not.
func (f *Fleet) Report(r Report) bool {
	a, ok := (*f.apps.Load())[r.App]
	if !ok {
		return false
	}
	e, ok := a.entry(r.ID)
	return ok && e.cell.observe(r.Load, f.tick.Load())
}

func (a *app) entry(id MachineID) (*entry, bool) {
	e, ok := a.cells.Load(id)
	if !ok {
		return nil, false
	}
	return e.(*entry), true
}
