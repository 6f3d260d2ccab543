package balance

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
)

// FleetConfig says whose view a fleet is.
type FleetConfig struct {
	Node   NodeID // this node; required
	Region string // where it is; required
	// Incarnation counts this node's starts; it versions the rows of machines that this node owns. 0
	// means 1, which is right for a fleet that lives in one process only.
	Incarnation uint64
}

// Fleet is one node's catalogue of apps and machines, with the live counts beside it. Readers take
// an immutable [Snapshot] of an app; writers copy only the region that they change. All methods are
// safe for concurrent use; each row has a single writer, its owner.
type Fleet struct {
	node        NodeID
	region      string
	incarnation uint64
	tick        atomic.Int64 // coarse time, from 1, moved by the balancer

	apps atomic.Pointer[map[AppID]*app] // replaced when an app comes or goes

	ageing sync.Mutex // one tick at a time; taken before mu
	aged   int64      // tick up to which all machines have aged

	keepers keepers // of the machines that this node owns

	mu        sync.Mutex // serializes writers
	seq       uint64     // of the last row written here as an owner
	gone      map[NodeID]uint64
	watchers  map[*Watcher]struct{}
	listeners []*func(AppID)
}

type app struct {
	snap    atomic.Pointer[Snapshot]
	cells   index                  // reports find their cell without a lock
	live    map[string]*liveRegion // under Fleet.mu
	removed map[MachineID]removal  // under Fleet.mu: rows older than a removal stay out
	// the tick at which an owner granted a slot last; 0 when none does
	granted atomic.Int64
	quiet   atomic.Pointer[Snapshot] // set when nothing of it runs or has to age
	record  record                   // under Fleet.ageing: the answers of its machines
}

// removal is the record of a machine that was removed.
type removal struct {
	Version
	owner NodeID // who owned it; empty when no row was held
	tick  int64
}

// covers reports whether a row is one that the removal was about. Versions of different owners do
// not compare: a machine may move to another.
func (t removal) covers(owner NodeID, v Version) bool {
	return (t.owner == "" || t.owner == owner) && !v.after(t.Version)
}

// removalsKept is the least number of removals that are remembered. Beyond it, those older than
// removalTicks (ten minutes) are forgotten: no row is that late.
const removalsKept, removalTicks = 1000, 6000

// remove records that a machine was removed; Fleet.mu is held.
func (a *app) remove(id MachineID, t removal) {
	a.removed[id] = t
	if n := len(a.removed); n > removalsKept && n&(n-1) == 0 { // only sometimes
		maps.DeleteFunc(
			a.removed, func(_ MachineID, r removal) bool { return t.tick-r.tick > removalTicks },
		)
	}
}

// liveRegion returns the live part of a region, and makes it on demand; Fleet.mu is held.
func (a *app) liveRegion(region string) *liveRegion {
	r, ok := a.live[region]
	if !ok {
		r = &liveRegion{}
		r.turn.Store(1)
		a.live[region] = r
	}
	return r
}

// NewFleet returns an empty fleet.
func NewFleet(c FleetConfig) (*Fleet, error) {
	switch {
	case c.Node == "":
		return nil, fmt.Errorf("balance: FleetConfig.Node is empty: set it to this node's ID")
	case c.Region == "":
		return nil, fmt.Errorf("balance: FleetConfig.Region is empty: set it to this node's region")
	}
	f := &Fleet{
		node: c.Node, region: c.Region, incarnation: max(1, c.Incarnation), gone: map[NodeID]uint64{},
		watchers: map[*Watcher]struct{}{},
	}
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

// Apply changes the catalogue, in order; readers see all changes that a call makes to one app at
// once. An invalid update is refused with an error that names it; those before it are applied. An
// update older than what is held changes nothing and is no error. When Apply returns, this node
// picks by the new rows: so it has acknowledged the cordons in them.
func (f *Fleet) Apply(updates ...Update) error {
	var touched []AppID
	var freed []MachineKey
	err := f.locked(func() error {
		b := newBatch(f)
		defer func() { touched, freed = b.commit(), b.freed }()
		for _, u := range updates {
			if u == nil {
				return fmt.Errorf(
					"balance: nil update: use PutApp, RemoveApp, PutMachine, RemoveMachine or NodeGone",
				)
			}
			if err := u.check(); err != nil {
				return err
			}
			if err := b.apply(u); err != nil {
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
	for _, m := range freed {
		f.keepers.removed(m)
	}
	return err
}

func (f *Fleet) locked(do func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return do()
}

// notify tells the listeners of each app, with no lock held.
func (f *Fleet) notify(touched []AppID) {
	for _, id := range touched {
		for _, l := range f.listenersNow() {
			(*l)(id)
		}
	}
}

func (f *Fleet) listenersNow() []*func(AppID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.listeners
}

// OnChange registers a function that is called after each change of an app's settings or rows,
// until stop is called. It runs with no lock held, on the goroutine that made the change, and must
// not block.
func (f *Fleet) OnChange(changed func(AppID)) (stop func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.listeners = append(slices.Clip(f.listeners), &changed)
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.listeners = slices.DeleteFunc(
			slices.Clone(f.listeners), func(l *func(AppID)) bool { return l == &changed },
		)
	}
}

// app returns the app with that ID, and makes it on demand: rows may arrive before settings.
func (f *Fleet) app(id AppID) *app {
	apps := *f.apps.Load()
	if a, ok := apps[id]; ok {
		return a
	}
	a := &app{live: map[string]*liveRegion{}, removed: map[MachineID]removal{}}
	a.snap.Store(&Snapshot{app: App{ID: id}})
	next := maps.Clone(apps)
	next[id] = a
	f.apps.Store(&next)
	return a
}

// Report takes in a load report, in O(1) and without allocating. It returns false for a report that
// is older than what is known, comes from an earlier incarnation of the machine's owner, or is
// about an unknown machine.
func (f *Fleet) Report(r Report) bool {
	a, ok := (*f.apps.Load())[r.App]
	if !ok {
		return false
	}
	c := a.cells.find(r.ID)
	if c == nil {
		return false
	}
	if k := c.row.Load().shared; k == nil ||
		r.Incarnation != 0 && r.Incarnation < k.incarnation {
		return false
	}
	return c.observe(r.Load, r.Granted, false)
}

// age brings the estimates of all machines up to the tick, and moves outliers between the tiers.
// It returns false when another balancer over the same fleet has done it already.
func (f *Fleet) age(tick int64) bool {
	turned, ok := f.ageAll(tick)
	for id, ms := range turned {
		f.retier(id, ms)
	}
	return ok
}

func (f *Fleet) ageAll(tick int64) (turned map[AppID][]MachineID, ok bool) {
	f.ageing.Lock()
	defer f.ageing.Unlock()
	if tick <= f.aged {
		return nil, false
	}
	dt := tick - f.aged
	if f.aged == 0 {
		dt = 1
	}
	f.aged = tick
	for id, a := range *f.apps.Load() {
		s := a.snap.Load()
		if a.quiet.Load() == s {
			continue
		}
		granted := a.granted.Load()
		if granted > 0 && tick-granted >= guessTicks {
			a.granted.CompareAndSwap(granted, 0)
		}
		var ms []MachineID
		quiet := granted == 0
		j := &jury{record: &a.record, tick: tick}
		for _, r := range s.regions {
			j.out += len(r.byTier[TierFailing])
			j.usable += len(r.byTier[TierReady]) + len(r.byTier[TierFailing])
		}
		for _, r := range s.regions {
			r.live.granted = granted > 0 && tick-granted < guessTicks
			var moving bool
			ms, moving = r.step(ms, dt, int64(s.app.SlowStart/tickEvery), j)
			quiet = quiet && !moving
		}
		a.record.close()
		if quiet {
			a.quiet.Store(s)
		}
		if len(ms) > 0 {
			if turned == nil {
				turned = map[AppID][]MachineID{}
			}
			turned[id] = ms
		}
	}
	return turned, true
}

// retier recomputes the tiers of some machines, which this node has ejected as outliers or
// readmitted.
func (f *Fleet) retier(id AppID, ms []MachineID) {
	var touched []AppID
	f.locked(func() error {
		if _, ok := (*f.apps.Load())[id]; !ok {
			return nil // removed meanwhile
		}
		b := newBatch(f)
		d := b.draft(id)
		for _, id := range ms {
			if m := d.held(id); m != nil {
				d.store(d.region(m.shared.region), m.unpack(), m.version(), m)
			}
		}
		touched = b.commit()
		return nil
	})
	f.notify(touched)
}

// Watch returns a watcher that begins with everything the fleet holds. Close it when done.
func (f *Fleet) Watch() *Watcher {
	w := &Watcher{fleet: f, wake: make(chan struct{}, 1), pending: map[any]Update{}}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range f.Apps() {
		s, _ := f.App(id)
		if s.known {
			w.put(PutApp{s.app})
		}
		for m := range s.rows() {
			w.put(PutMachine{m.unpack(), m.version()})
		}
	}
	f.watchers[w] = struct{}{}
	return w
}

// toWatchers calls do for each watcher; f.mu is held.
func (f *Fleet) toWatchers(do func(*Watcher)) {
	for w := range f.watchers {
		do(w)
	}
}

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
		// tokens of an earlier incarnation are not valid here
		gate.slots.last = mix(f.incarnation, m.Key().Rank())
		f.seq++
		b := newBatch(f)
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

// Edit changes the row of a machine that this node owns. Fields that belong to the machine's
// identity or to its gate (ID, App, Region, Owner, State, Cordon, CordonGen, Epoch) stay as they
// are. edit is called with no lock held. It is called again with the new row if the row has changed
// meanwhile, so it should set fields and do nothing else.
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

// limitGates copies the limits of the app's machines into the gates of those that this node owns.
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

// follow rewrites the row from the gate, and from edit if there is one. It is level-triggered:
// however many transitions there were, and in whatever order their notices come, the row ends up as
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
		b := newBatch(f)
		f.seq++
		var err error
		changed, err = b.put(m, Version{f.incarnation, f.seq}, nil)
		b.commit()
		return err
	})
	return stands, changed, err
}

// Keeper is notified of what a component that starts this node's machines needs to know. Its funcs
// are called from any goroutine with no lock held, and must not block. Each may be nil.
type Keeper struct {
	// Wanted: a stop has ended during which a start was asked for and answered with
	// [StartRemembered]. The keeper starts the machine.
	Wanted func(app AppID, id MachineID)
	// Suspect: an admitted request found that nothing listens at the machine's address. It may be
	// called many times.
	Suspect func(app AppID, id MachineID, epoch uint64)
	// Removed: the machine has left the fleet; forget what is kept about it.
	Removed func(app AppID, id MachineID)
}

// Keep makes k a keeper of the machines that this node owns, until release is called. A
// machine.Starter of package autostart/machine is one while it runs. While no keeper has Wanted,
// gates remember no start: they refuse it, since nobody would carry it out.
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

// kept links a gate to the keepers of its fleet.
type kept struct {
	keepers *keepers
	app     AppID
	id      MachineID
}

// remembers reports whether somebody performs a start that is remembered. For a gate of no fleet
// that is whoever calls Closed.
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
