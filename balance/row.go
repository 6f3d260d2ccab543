package balance

import "sync/atomic"

// row is a machine in a snapshot, packed: what machines have in common stands in shared. It is
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

// shared is what machines of one app, region and owner tend to share.
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

func (r *row) cordon() Cordon   { return Cordon(r.cordonAndFlags &^ (recentFlag | doubtfulFlag)) }
func (r *row) version() Version { return Version{r.shared.incarnation, r.seq} }

// rowTier is the tier that the row itself says.
func (r *row) rowTier() Tier {
	return tierOf(r.state, r.cordon(), r.health, r.cordonAndFlags&recentFlag != 0)
}
