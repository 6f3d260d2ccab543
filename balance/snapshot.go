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
	known   bool          // the app's settings are known; else only its machines are
	regions []*regionRows // sorted by name
}

// App returns the app's settings. While only machines of the app are known, they are zero except
// for the ID.
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

// row is a machine in a snapshot, packed: the parts that machines have in common are in shared. It
// is immutable.
type row struct {
	id              MachineID
	addr            string
	shared          *shared
	fault           *string // nil for none
	gen, epoch, seq uint64
	cell            *cell
	full            atomic.Pointer[Machine] // unpacked on first use
	pos             int32                   // in its region's dense arrays
	state           State
	health          Health
	cordonAndFlags  uint8
	tier            Tier // on this node: outliers are in a worse tier than their row says
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

// pack makes a row. It reuses like if that fits.
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

// rowTier returns the tier that follows from the row alone.
func (r *row) rowTier() Tier {
	return tierOf(r.state, r.cordon(), r.health, r.cordonAndFlags&recentFlag != 0)
}

func (m *row) fill(c *Candidate) {
	l := m.shared.limits
	own, all, e := m.cell.inFlight()
	w := m.cell.score.Load()
	*c = Candidate{
		ID: m.id, Tier: m.tier, Own: own, Others: float64(all) - float64(own), Limits: l,
		Load: float64(e.weighed(all)),
		Rank: m.key().Rank(), Picked: int64(turnOf(w)), SaidFull: e&saidFullBit != 0,
		full: e.full(own, all, l.Hard),
	}
	c.Salt = mix(w&(1<<saltBits-1), c.Rank)
}

func (m *row) enter(r *regionRows) bool { return m.cell.enter(r.live, len(r.byID) == 1) }

func (m *row) age(turned []MachineID, a *liveRegion, sum *tickSums, j *jury) []MachineID {
	c := m.cell
	if mem := c.mem.Load(); mem != nil {
		if t := mem.tickets.Load(); t != nil {
			t.expire(c, a.tick)
		}
	}
	old, seen, n := est(c.est.Load()), c.seen.Load(), c.count.Load()
	own, sent := int(n&ownMask), uint32(n/sentUnit)&sentMask
	mem := c.mem.Load()
	e := old
	switch {
	case mem == nil && seen == 0 && sent == 0 && e&^othersMask == 0: // nothing happened yet
		e = e.withOthers(a.mean)
	default:
		mem = c.remember()
		news := seen != mem.seen
		taken := int((sent - mem.sent) & sentMask)
		e = mem.step(e, seen, own, m.shared.limits.Hard, sent, a.regionHistory)
		if mem.note(sent-uint32(own), mem.fails.Load(), mem.void.Load(), j.record) &&
			e.penalty() > mem.most() {
			e = e.withPenalty(mem.most())
		}
		if started := mem.started.Load(); started > 0 {
			part := a.rampAt(started)
			if part >= 1 {
				mem.started.Store(0)
			}
			e = e.withRamp(part)
		}
		if n, granted := e.grant(); granted {
			e = e.withGrant(n, a.granted || n > 0)
		}
		if m.tier == TierReady {
			sum.sent += taken
			if news {
				sum.news++
			}
			if seen != 0 && mem.age <= max(staleTicks, staleGaps*a.gap) {
				sum.heard++
				sum.others += float32(seen & seenMask)
			}
		}
		turned, e = j.judge(turned, m, mem, e)
	}
	if m.tier < tiers || own > 0 || e != old || mem != nil && mem.out.Load() {
		sum.moving = true
	}
	if e != old && c.est.CompareAndSwap(uint64(old), uint64(e)) {
		c.changed()
	} else if c.score.Load()&^keep != c.compute(c.count.Load()) {
		c.rescore(c.count.Load())
	}
	if m.tier == TierReady {
		all := inFlight(own, c.inGate(), e)
		used := use(all, m.shared.limits.Soft)
		sum.ready++
		sum.own += own
		sum.use += used
		sum.least = min(sum.least, used)
		sum.soft += m.shared.limits.Soft
	}
	return turned
}
