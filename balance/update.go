package balance

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Version orders what one node says about one thing: first by incarnation, then by sequence number.
type Version struct {
	Incarnation uint64 // of the writing node, from 1: grows with each of its starts
	Seq         uint64 // grows with each write
}

func (v Version) after(w Version) bool {
	if v.Incarnation != w.Incarnation {
		return v.Incarnation > w.Incarnation
	}
	return v.Seq > w.Seq
}

// Update is one change of the catalogue: [PutApp], [RemoveApp], [PutMachine], [RemoveMachine] or
// [NodeGone].
type Update interface{ check() error }

// PutApp adds an app or replaces its settings.
type PutApp struct{ App App }

// RemoveApp removes an app and all its machines. While one that this node owns runs, it is refused
// with [ErrRuns].
type RemoveApp struct{ ID AppID }

// PutMachine is a row as its owner wrote it. A row that is not newer than the one held changes
// nothing. The app may still be unknown.
type PutMachine struct {
	Machine Machine
	Version Version
}

// RemoveMachine removes a machine, unless a newer row is held. For a machine that this node owns
// no Version is needed; while it runs, removal is refused with [ErrRuns].
type RemoveMachine struct {
	App     AppID
	ID      MachineID
	Version Version
}

// NodeGone says that a node of that incarnation has ended: the machines it owns are [StateGone]
// until a later incarnation reports them.
type NodeGone struct {
	Node        NodeID
	Incarnation uint64
}

func (u PutApp) check() error { return u.App.validate() }

func (u PutMachine) check() error { return u.Machine.validate() }

func (u RemoveApp) check() error {
	if u.ID == "" {
		return fmt.Errorf("balance: RemoveApp without an ID: set RemoveApp.ID")
	}
	return nil
}

func (u RemoveMachine) check() error {
	if u.ID == "" || u.App == "" {
		return fmt.Errorf(
			"balance: RemoveMachine of machine %q of app %q: both have to be set", u.ID, u.App,
		)
	}
	return nil
}

func (u NodeGone) check() error {
	if u.Node == "" {
		return fmt.Errorf("balance: NodeGone without a node: set NodeGone.Node")
	}
	return nil
}

// Report is a load report: what an owner periodically says about one of its machines.
type Report struct {
	App     AppID
	ID      MachineID
	Load    Load
	Granted int // of Load.InFlight, as [Gate.Granted] says; 0 where the owner grants no slots
	// of Load.InFlight, long connections that carried no data for App.IdleAfter; they do not count
	// as load in the decision which machines stop
	Idle int
	// of the machine's owner; reports are ordered by it and Load.Seq. 0 means the incarnation that
	// is known
	Incarnation uint64
}

// ErrRuns is why [Fleet.Apply] does not remove a machine that this node owns: it has not been
// stopped, and after the removal nobody would stop it.
var ErrRuns = errors.New("balance: the machine has not been stopped")

// Grant is a slot of a machine that its owner has reserved for a node. The gate counts it as in
// flight already; the request that uses it enters with [Gate.Enter] and the token. It can be sent
// over a network.
type Grant struct {
	App     AppID
	Machine MachineID
	Epoch   uint64
	Token   uint64
	For     time.Duration // how long the node may use it, from when it is received
	// the owner takes the slot back: another node needs it more, or the machine goes to sleep
	Revoked bool
}

// batch gathers the changes of one call and makes them visible together, so that a region is copied
// once however many of its machines change. The fleet's lock is held from the first change to
// commit.
type batch struct {
	f      *Fleet
	drafts map[AppID]*draft
	order  []AppID      // touched apps, removed ones too
	freed  []MachineKey // machines of this node that were removed
}

// draft is an app under change.
type draft struct {
	app     *app
	next    *Snapshot
	regions map[string]*regionRows // the drafts among next.regions
	rows    []*row                 // new rows, to be put into their cells
	gone    []*row                 // rows of machines that left
}

func newBatch(f *Fleet) *batch { return &batch{f: f, drafts: map[AppID]*draft{}} }

// draft returns the draft of an app, and makes it on demand: rows may arrive before settings.
func (b *batch) draft(id AppID) *draft {
	if d, ok := b.drafts[id]; ok {
		return d
	}
	a := b.f.app(id)
	s := a.snap.Load()
	d := &draft{
		app: a, next: &Snapshot{app: s.app, known: s.known, regions: slices.Clone(s.regions)},
		regions: map[string]*regionRows{},
	}
	b.drafts[id] = d
	b.touch(id)
	return d
}

func (b *batch) touch(id AppID) { b.order = append(b.order, id) }

// region returns the draft of a region, made on demand.
func (d *draft) region(name string) *regionRows {
	if r, ok := d.regions[name]; ok {
		return r
	}
	i, ok := d.next.region(name)
	var r *regionRows
	if ok {
		r = d.next.regions[i].edit()
		d.next.regions[i] = r
	} else {
		r = &regionRows{name: name, live: d.app.liveRegion(name)}
		d.next.regions = slices.Insert(d.next.regions, i, r)
	}
	d.regions[name] = r
	return r
}

// commit publishes the drafts and returns the apps that have changed: first the snapshots, then the
// scores. A pick that finds a score without its row notices it and looks again.
func (b *batch) commit() []AppID {
	for _, d := range b.drafts {
		d.next.regions = slices.DeleteFunc(
			d.next.regions, func(r *regionRows) bool { return len(r.byID) == 0 },
		)
		for _, r := range d.regions {
			r.chunks = r.live.chunks
		}
		d.app.snap.Store(d.next)
		for _, m := range d.gone {
			d.app.liveRegion(m.shared.region).retire(m.cell, m.pos, b.f.tick.Load())
		}
		for _, m := range d.rows {
			m.cell.turnTo(m)
		}
	}
	slices.Sort(b.order)
	touched := slices.Compact(b.order)
	b.drafts, b.order = map[AppID]*draft{}, nil
	return touched
}

func (b *batch) apply(u Update) error {
	switch u := u.(type) {
	case PutApp:
		b.putApp(u.App)
	case RemoveApp:
		return b.removeApp(u.ID)
	case PutMachine:
		if u.Version.Incarnation <= b.f.gone[u.Machine.Owner] {
			return nil // the node that wrote it is gone
		}
		_, err := b.put(u.Machine, u.Version, nil)
		return err
	case RemoveMachine:
		return b.remove(u)
	case NodeGone:
		b.nodeGone(u)
	default:
		return fmt.Errorf("balance: update of type %T: not one of this package", u)
	}
	return nil
}

func (b *batch) putApp(settings App) {
	d := b.draft(settings.ID)
	limits := d.next.app.Limits != settings.Limits
	d.next.app, d.next.known = settings, true
	if limits {
		for _, r := range slices.Clone(d.next.regions) { // limits are resolved in the rows
			r = d.region(r.name)
			for _, p := range r.byID {
				m := r.rows[p]
				d.store(r, m.unpack(), m.version(), m)
			}
		}
	}
	b.f.toWatchers(func(w *Watcher) { w.put(PutApp{settings}) })
}

func (b *batch) removeApp(id AppID) error {
	freed := len(b.freed)
	for m := range b.current(id).rows() {
		if err := b.retire(m); err != nil {
			for _, k := range b.freed[freed:] {
				b.f.app(id).cells.find(k.ID).gate.Retire(false)
			}
			b.freed = b.freed[:freed]
			return err
		}
	}
	delete(b.drafts, id) // what it held goes with it
	next := maps.Clone(*b.f.apps.Load())
	delete(next, id)
	b.f.apps.Store(&next)
	b.touch(id)
	b.f.toWatchers(func(w *Watcher) { w.put(RemoveApp{id}) })
	return nil
}

// put stores a row if it is newer than the one held. gate is given for machines that this node
// owns.
func (b *batch) put(m Machine, v Version, gate *Gate) (changed bool, err error) {
	d := b.draft(m.App)
	if t, ok := d.app.removed[m.ID]; ok && t.covers(m.Owner, v) {
		return false, nil
	}
	held := d.held(m.ID)
	switch {
	case held == nil:
	case held.shared.owner != m.Owner:
		return false, fmt.Errorf(
			"balance: machine %q belongs to node %q, row says %q: a machine keeps its owner; remove it first",
			m.ID, held.shared.owner, m.Owner,
		)
	case held.shared.region != m.Region:
		return false, fmt.Errorf(
			"balance: machine %q is in region %q, row says %q: a machine keeps its region; remove it first",
			m.ID, held.shared.region, m.Region,
		)
	case !v.after(held.version()):
		return false, nil
	}
	r := d.region(m.Region)
	if held == nil {
		c, pos := r.live.newCell(b.f.node, m.ID, b.f.tick.Load(), gate)
		held = &row{id: m.ID, cell: c, pos: pos}
		c.row.Store(held)
		if gate != nil {
			gate.cell = c
		}
		d.app.cells.put(c)
		delete(d.app.removed, m.ID)
	} else {
		if held.epoch != m.Epoch || held.shared.incarnation != v.Incarnation {
			held.cell.forget()
		}
		if m := held.cell.mem.Load(); m != nil && held.shared.incarnation != v.Incarnation {
			if t := m.tickets.Load(); t != nil {
				t.clear(held.cell)
			}
		}
		if m.State == StateStarted && (held.state != StateStarted || held.epoch != m.Epoch) && d.next.app.SlowStart > 0 {
			held.cell.slowStart(b.f.tick.Load())
		}
	}
	d.store(r, m, v, held)
	if d.app.granted.Load() > 0 {
		held.cell.underGrants(d.next.app.LimitsOf(m))
	}
	b.f.toWatchers(func(w *Watcher) { w.put(PutMachine{m, v}) })
	return true, nil
}

// store packs m into a row, with the place and the cell of old.
func (d *draft) store(r *regionRows, m Machine, v Version, old *row) {
	like := r.live.like
	if old.shared != nil {
		like = old.shared
	}
	next := pack(&m, v, &d.next.app, like)
	r.live.like = next.shared
	next.cell, next.pos = old.cell, old.pos
	next.tier = next.rowTier()
	if next.tier == TierReady && next.cell.ejected() {
		next.tier = TierFailing
	}
	r.set(next)
	d.rows = append(d.rows, next)
}

// held returns the row of a machine as the batch has it, or nil.
func (d *draft) held(id MachineID) *row {
	c := d.app.cells.find(id)
	if c == nil {
		return nil
	}
	k := c.row.Load().shared
	if k == nil { // new in this batch
		for _, r := range d.regions {
			if m := r.get(id); m != nil {
				return m
			}
		}
		return nil
	}
	if i, ok := d.next.region(k.region); ok {
		return d.next.regions[i].get(id)
	}
	return nil
}

// retire returns an error for a machine of this node that has not been stopped; any other can no
// longer be started.
func (b *batch) retire(m *row) error {
	if m.cell.gate == nil {
		return nil
	}
	if s, ok := m.cell.gate.remove(); !ok {
		return fmt.Errorf(
			"%w: machine %q of app %q is %v: stop it first, as downscale.Downscaler's RemoveMachine and RemoveApp do",
			ErrRuns, m.id, m.shared.app, s,
		)
	}
	b.freed = append(b.freed, m.key())
	return nil
}

func (b *batch) remove(u RemoveMachine) error {
	d := b.draft(u.App)
	owner := d.app.removed[u.ID].owner
	if m := d.held(u.ID); m != nil {
		owner = m.shared.owner
		if m.cell.gate != nil && u.Version == (Version{}) {
			b.f.seq++
			u.Version = Version{b.f.incarnation, b.f.seq}
		}
		if m.version().after(u.Version) {
			return nil
		}
		if err := b.retire(m); err != nil {
			return err
		}
		d.region(m.shared.region).drop(m)
		d.app.cells.remove(m.id)
		d.gone = append(d.gone, m)
		d.rows = slices.DeleteFunc(d.rows, func(n *row) bool { return n.id == m.id })
	}
	d.app.remove(u.ID, removal{u.Version, owner, b.f.tick.Load()})
	b.f.toWatchers(func(w *Watcher) { w.put(u) })
	return nil
}

// nodeGone marks the machines of a vanished owner as gone.
func (b *batch) nodeGone(u NodeGone) {
	b.f.gone[u.Node] = max(b.f.gone[u.Node], u.Incarnation)
	for id := range *b.f.apps.Load() {
		var of []*row
		for m := range b.current(id).rows() {
			if m.shared.owner == u.Node && m.shared.incarnation <= u.Incarnation && m.state != StateGone {
				of = append(of, m)
			}
		}
		for _, m := range of {
			d := b.draft(id)
			gone := m.unpack()
			gone.State = StateGone
			d.store(d.region(m.shared.region), gone, m.version(), m)
			b.f.toWatchers(func(w *Watcher) { w.put(PutMachine{gone, m.version()}) })
		}
	}
}

func (b *batch) current(id AppID) *Snapshot {
	if d, ok := b.drafts[id]; ok {
		return d.next
	}
	return b.f.app(id).snap.Load()
}

// Watcher hands out the changes of a fleet, conflated: of several changes of one row a slow reader
// gets the last, so it holds at most one copy of the catalogue. It is for one reader.
type Watcher struct {
	fleet   *Fleet
	wake    chan struct{}
	pending map[any]Update // under fleet.mu; by what the update is about
	order   []any
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

// put records a change; fleet.mu is held.
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
