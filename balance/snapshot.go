package balance

import (
	"cmp"
	"iter"
	"slices"
)

// Tier orders machines by how well they can be used; a pick takes the first tier that has one with room.
type Tier uint8

// The tiers, best first. Hard limits hold in each of them.
const (
	TierReady    Tier = iota // started, not cordoned, not failing
	TierCordoned             // soft-cordoned
	TierComing               // recently started, checks still failing
	TierFailing              // checks failing: only when there is nothing else
	tiers
	TierNone // cannot be used: not started, or hard-cordoned
)

func tierOf(m *Machine) Tier {
	switch {
	case m.State != Started || m.Cordon == CordonHard:
		return TierNone
	case m.Health == Failing && m.Recent:
		return TierComing
	case m.Health == Failing:
		return TierFailing
	case m.Cordon == CordonSoft:
		return TierCordoned
	}
	return TierReady
}

// row is a machine in a snapshot, with what is derived from it once.
type row struct {
	Machine
	version Version
	limits  Limits // the machine's own where set, else the app's
	tier    Tier
	rank    uint64 // canonical order
	salt    uint64 // hash(node, machine): ties that nodes must break differently
	cell    *cell
	gate    *Gate // of a machine that this process owns, else nil
}

// regionRows are the rows of one app in one region, sorted by ID. It is immutable.
type regionRows struct {
	name   string
	rows   []*row
	byTier [tiers][]int32 // indexes into rows
}

func newRegionRows(name string, rows []*row) *regionRows {
	r := &regionRows{name: name, rows: rows}
	for i, m := range rows {
		if m.tier < tiers {
			r.byTier[m.tier] = append(r.byTier[m.tier], int32(i))
		}
	}
	return r
}

func (r *regionRows) find(id MachineID) (int, bool) {
	return slices.BinarySearchFunc(r.rows, id, func(m *row, id MachineID) int { return cmp.Compare(m.ID, id) })
}

// Snapshot is everything the fleet knows of one app at one moment. It is immutable and safe for concurrent use.
type Snapshot struct {
	app     App
	known   bool          // the app's settings have been put; else only machines are known
	regions []*regionRows // sorted by name
}

// App returns the app's settings. Of an app of which only machines are known so far they are zero but for the ID.
func (s *Snapshot) App() App { return s.app }

// All returns the machines by region and ID.
func (s *Snapshot) All() iter.Seq[*Machine] {
	return func(yield func(*Machine) bool) {
		for _, r := range s.regions {
			for _, m := range r.rows {
				if !yield(&m.Machine) {
					return
				}
			}
		}
	}
}

// Len returns the number of machines.
func (s *Snapshot) Len() (n int) {
	for _, r := range s.regions {
		n += len(r.rows)
	}
	return n
}

// Machine returns the row of one machine.
func (s *Snapshot) Machine(id MachineID) (Machine, bool) {
	for _, r := range s.regions {
		if i, ok := r.find(id); ok {
			return r.rows[i].Machine, true
		}
	}
	return Machine{}, false
}

// Regions returns the names of the regions that have machines of the app, sorted.
func (s *Snapshot) Regions() []string {
	names := make([]string, len(s.regions))
	for i, r := range s.regions {
		names[i] = r.name
	}
	return names
}

// with returns a snapshot in which the named region has these rows; only that region is copied.
func (s *Snapshot) with(region string, rows []*row) *Snapshot {
	next := &Snapshot{app: s.app, known: s.known, regions: slices.Clone(s.regions)}
	i, ok := slices.BinarySearchFunc(s.regions, region, func(r *regionRows, name string) int { return cmp.Compare(r.name, name) })
	switch {
	case len(rows) == 0 && ok:
		next.regions = slices.Delete(next.regions, i, i+1)
	case len(rows) == 0:
	case ok:
		next.regions[i] = newRegionRows(region, rows)
	default:
		next.regions = slices.Insert(next.regions, i, newRegionRows(region, rows))
	}
	return next
}

func (s *Snapshot) region(name string) []*row {
	i, ok := slices.BinarySearchFunc(s.regions, name, func(r *regionRows, name string) int { return cmp.Compare(r.name, name) })
	if !ok {
		return nil
	}
	return s.regions[i].rows
}
