package balance

import (
	"cmp"
	"iter"
	"slices"
	"sync/atomic"
)

// Snapshot is everything the fleet knows of one app at one moment. It is immutable and safe for
// concurrent use.
type Snapshot struct {
	app     App
	known   bool          // the app's settings have been put; else only machines are known
	regions []*regionRows // sorted by name
}

// App returns the app's settings. Of an app of which only machines are known so far they are zero
// but for the ID.
func (s *Snapshot) App() App { return s.app }

// All returns the machines by region and ID.
func (s *Snapshot) All() iter.Seq[*Machine] {
	return func(yield func(*Machine) bool) {
		for m := range s.rows() {
			if !yield(m.machine()) {
				return
			}
		}
	}
}

func (s *Snapshot) rows() iter.Seq[*row] {
	return func(yield func(*row) bool) {
		for _, r := range s.regions {
			for _, p := range r.byID {
				if !yield(r.rows[p]) {
					return
				}
			}
		}
	}
}

// Len returns the number of machines.
func (s *Snapshot) Len() (n int) {
	for _, r := range s.regions {
		n += len(r.byID)
	}
	return n
}

// Machine returns the row of one machine.
func (s *Snapshot) Machine(id MachineID) (Machine, bool) {
	for _, r := range s.regions {
		if m := r.get(id); m != nil {
			return *m.machine(), true
		}
	}
	return Machine{}, false
}

// Regions returns the names of the regions that have machines of the app, sorted.
func (s *Snapshot) Regions() []string {
	var names []string
	for _, r := range s.regions {
		names = append(names, r.name)
	}
	return names
}

func (s *Snapshot) region(name string) (int, bool) {
	return slices.BinarySearchFunc(
		s.regions, name, func(r *regionRows, name string) int { return cmp.Compare(r.name, name) },
	)
}

// row is a machine in a snapshot, packed: what machines have in common is in shared. It is
// immutable.
type row struct {
	id              MachineID
	addr            string
	shared          *shared
	fault           *string // nil for none
	gen, epoch, seq uint64
	cell            *cell
	full            atomic.Pointer[Machine] // unpacked when somebody first looks
	pos             int32                   // in its region's dense arrays
	state           State
	health          Health
	cordonAndFlags  uint8
	tier            Tier // on this node: outliers are worse than their row
}

// shared holds the fields that the machines of one app, region and owner usually have in common,
// stored once.
type shared struct {
	app         AppID
	region      string
	owner       NodeID
	revision    string
	own         Limits // as the row says
	limits      Limits // the machine's own where set, else the app's
	incarnation uint64 // of the owner that wrote the row
}

const recentFlag, doubtfulFlag = 1 << 7, 1 << 6

// pack makes a row. like is one to use again where it fits.
func pack(m *Machine, v Version, app *App, like *shared) *row {
	k := shared{m.App, m.Region, m.Owner, m.Revision, m.Limits, app.LimitsOf(*m), v.Incarnation}
	if like == nil || *like != k {
		like = &k
	}
	r := &row{
		id: m.ID, addr: m.Addr, shared: like, gen: m.CordonGen, epoch: m.Epoch, seq: v.Seq,
		state: m.State, health: m.Health, cordonAndFlags: uint8(m.Cordon),
	}
	if m.Recent {
		r.cordonAndFlags |= recentFlag
	}
	if m.Doubtful {
		r.cordonAndFlags |= doubtfulFlag
	}
	if m.Fault != "" {
		r.fault = new(m.Fault)
	}
	return r
}

// machine returns the row unpacked. It is made once.
func (r *row) machine() *Machine {
	if m := r.full.Load(); m != nil {
		return m
	}
	m := new(r.unpack())
	if r.full.CompareAndSwap(nil, m) {
		return m
	}
	return r.full.Load()
}

func (r *row) unpack() Machine {
	k := r.shared
	m := Machine{
		ID: r.id, App: k.app, Region: k.region, Owner: k.owner, Addr: r.addr, Revision: k.revision, Limits: k.own,
		State: r.state, Health: r.health, Recent: r.cordonAndFlags&recentFlag != 0, Cordon: r.cordon(),
		CordonGen: r.gen, Epoch: r.epoch, Doubtful: r.cordonAndFlags&doubtfulFlag != 0,
	}
	if r.fault != nil {
		m.Fault = *r.fault
	}
	return m
}

func (r *row) key() MachineKey { return MachineKey{r.shared.app, r.id} }

func (r *row) cordon() Cordon { return Cordon(r.cordonAndFlags &^ (recentFlag | doubtfulFlag)) }

func (r *row) version() Version { return Version{r.shared.incarnation, r.seq} }

// rowTier is the tier that the row itself says.
func (r *row) rowTier() Tier {
	return tierOf(r.state, r.cordon(), r.health, r.cordonAndFlags&recentFlag != 0)
}

// regionRows are the rows of one app in one region. It is immutable once published.
type regionRows struct {
	name   string
	live   *liveRegion
	chunks []*chunk // the dense array of scores
	rows   []*row   // by place; nil where nobody stands
	byID   []int32  // places in the order of IDs
	byRank []int32  // places in the canonical order
	// by place: see MachineKey.Rank. A change of members changes them and the orders, a change of rows does not
	ranks  []uint64
	byTier [tiers][]int32 // places, in no order
	own    struct {       // of a draft: which lists have been copied already
		members bool
		byTier  [tiers]bool
	}
}

// scoreAt returns the place's scoreAt.
func (r *regionRows) scoreAt(pos int32) score { return r.chunks[pos/chunkLen][pos%chunkLen].Load() }

// find returns the index in byID of a machine, or where it would stand.
func (r *regionRows) find(id MachineID) (int, bool) {
	return slices.BinarySearchFunc(
		r.byID, id, func(p int32, id MachineID) int { return cmp.Compare(r.rows[p].id, id) },
	)
}

// get returns a machine's row, or nil.
func (r *regionRows) get(id MachineID) *row {
	if i, ok := r.find(id); ok {
		return r.rows[r.byID[i]]
	}
	return nil
}

// findRank returns the index in byRank of a machine of that rank, or where it would stand.
func (r *regionRows) findRank(rank uint64, id MachineID) int {
	i, _ := slices.BinarySearchFunc(r.byRank, id, func(p int32, id MachineID) int {
		return cmp.Or(cmp.Compare(r.ranks[p], rank), cmp.Compare(r.rows[p].id, id))
	})
	return i
}

// edit returns a draft: a copy to change. Lists are copied when they are changed for the first
// time.
func (r *regionRows) edit() *regionRows {
	return &regionRows{
		name: r.name, live: r.live, rows: slices.Clone(r.rows), byID: r.byID, byRank: r.byRank,
		ranks: r.ranks, byTier: r.byTier,
	}
}

// members lets the lists be changed that a machine enters when it joins.
func (r *regionRows) members() {
	if r.own.members {
		return
	}
	r.own.members = true
	r.byID = append(make([]int32, 0, len(r.byID)+1), r.byID...)
	r.byRank = append(make([]int32, 0, len(r.byRank)+1), r.byRank...)
	r.ranks = append(make([]uint64, 0, len(r.rows)), r.ranks...)
}

// usable returns how many machines are in a tier that can be used.
func (r *regionRows) usable() (n int) {
	for t := range tiers {
		n += len(r.byTier[t])
	}
	return n
}

// set puts a row at its place, for the one that stands there or as a new one.
func (r *regionRows) set(m *row) {
	for int(m.pos) >= len(r.rows) {
		r.rows = append(r.rows, nil)
	}
	old := r.rows[m.pos]
	r.rows[m.pos] = m
	if old == nil {
		r.members()
		for len(r.ranks) < len(r.rows) {
			r.ranks = append(r.ranks, 0)
		}
		rank := m.key().Rank()
		i, _ := r.find(m.id)
		r.byID = slices.Insert(r.byID, i, m.pos)
		r.byRank = slices.Insert(r.byRank, r.findRank(rank, m.id), m.pos)
		r.ranks[m.pos] = rank
	}
	r.move(old, m)
}

// drop takes a row out.
func (r *regionRows) drop(m *row) {
	r.members()
	i, _ := r.find(m.id)
	r.byID = slices.Delete(r.byID, i, i+1)
	i = r.findRank(r.ranks[m.pos], m.id)
	r.byRank = slices.Delete(r.byRank, i, i+1)
	r.rows[m.pos] = nil
	r.move(m, nil)
}

func (r *regionRows) move(old, now *row) {
	from, to := TierNone, TierNone
	if old != nil {
		from = old.tier
	}
	if now != nil {
		to = now.tier
	}
	if from == to {
		return
	}
	if from < tiers {
		l := mine(r.byTier[from], &r.own.byTier[from])
		i := slices.Index(l, old.pos)
		l[i] = l[len(l)-1]
		r.byTier[from] = l[:len(l)-1]
	}
	if to < tiers {
		r.byTier[to] = append(mine(r.byTier[to], &r.own.byTier[to]), now.pos)
	}
}

// mine returns l, or the first time a copy of it that may be changed.
func mine(l []int32, owned *bool) []int32 {
	if *owned {
		return l
	}
	*owned = true
	return append(make([]int32, 0, len(l)+1), l...)
}
