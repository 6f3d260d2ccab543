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
	quiet   atomic.Pointer[Snapshot] // the one in which nothing runs and nothing is left to age
	record  record                   // under Fleet.ageing: what its machines answered
}

// removal is what is remembered of a machine that was taken out.
type removal struct {
	Version
	tick int64
}

// removalsKept is how many removals are remembered at least; beyond it those are forgotten that are
// older than removalTicks (ten minutes): no row is that late.
const removalsKept, removalTicks = 1000, 6000

// remove remembers that a machine was taken out; Fleet.mu is held.
func (a *app) remove(id MachineID, v Version, tick int64) {
	a.removed[id] = removal{v, tick}
	if n := len(a.removed); n > removalsKept && n&(n-1) == 0 { // now and then
		maps.DeleteFunc(
			a.removed, func(_ MachineID, r removal) bool { return tick-r.tick > removalTicks },
		)
	}
}

// liveRegion returns the live part of a region, which is made on demand; Fleet.mu is held.
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

// Apply makes changes of the catalogue, in order; readers see all of a call's changes of one app at
// once. An update that makes no sense is refused with an error that names it, and the ones before
// it stand. An update older than what is held changes nothing and is no error. When Apply returns,
// this node picks by the new rows: that is its acknowledgement of a cordon.
func (f *Fleet) Apply(updates ...Update) error {
	var touched []AppID
	var freed []MachineKey
	err := f.locked(func() error {
		b := f.batch()
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

// OnChange has changed called after each change of an app's settings or rows, until stop is called.
// It is called with no lock held, on the goroutine that made the change, and must not block.
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

// app returns the app with that ID, made on demand: rows may arrive before settings.
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

// Report takes in a load report, in O(1) and without allocating. It reports false for one that is
// older than what is known, of an earlier incarnation of the machine's owner, or of a machine that
// is not known.
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

// age lets what is believed of all machines age to the tick, and moves outliers between the tiers.
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
		if granted > 0 && tick-granted >= lapse {
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
			r.live.granted = granted > 0 && tick-granted < lapse
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

// retier derives the tiers of some machines anew: this node has ejected them as outliers, or let
// them back.
func (f *Fleet) retier(id AppID, ms []MachineID) {
	var touched []AppID
	f.locked(func() error {
		if _, ok := (*f.apps.Load())[id]; !ok {
			return nil // removed meanwhile
		}
		b := f.batch()
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

// Watcher hands out the changes of a fleet, conflated: of several changes of one row a slow reader
// gets the last, so that it costs at most one copy of the catalogue. It is for one reader.
type Watcher struct {
	fleet   *Fleet
	wake    chan struct{}
	pending map[any]Update // under fleet.mu; by what the update is about
	order   []any
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

// C receives when there is something to take.
func (w *Watcher) C() <-chan struct{} { return w.wake }

// Take returns what has changed since the last Take, in order, ready for another fleet's
// [Fleet.Apply].
func (w *Watcher) Take() []Update {
	w.fleet.mu.Lock()
	defer w.fleet.mu.Unlock()
	us := make([]Update, 0, len(w.order))
	for _, k := range w.order {
		us = append(us, w.pending[k])
	}
	clear(w.pending)
	w.order = w.order[:0]
	return us
}

// Close ends the watch.
func (w *Watcher) Close() {
	w.fleet.mu.Lock()
	defer w.fleet.mu.Unlock()
	delete(w.fleet.watchers, w)
}

// put notes a change; fleet.mu is held.
func (w *Watcher) put(u Update) {
	var k any
	switch u := u.(type) {
	case PutApp:
		k = u.App.ID
	case RemoveApp:
		k = u.ID
	case PutMachine:
		k = u.Machine.Key()
	case RemoveMachine:
		k = MachineKey{u.App, u.ID}
	}
	if _, ok := w.pending[k]; !ok {
		w.order = append(w.order, k)
	}
	w.pending[k] = u
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// toWatchers calls do for each watcher; f.mu is held.
func (f *Fleet) toWatchers(do func(*Watcher)) {
	for w := range f.watchers {
		do(w)
	}
}
