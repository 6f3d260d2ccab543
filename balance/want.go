package balance

import "slices"

// Want says where a request has to go. It is read only: requests may share one.
type Want struct {
	Revision string // only machines of this revision; empty means any
	Force    Target // only these machines: another is never picked
	Prefer   Target // these machines while one of them can be used, else any
}

// Target is a set of machines: those with one of the IDs and in one of the regions. An empty list means any.
type Target struct {
	Machines []MachineID
	Regions  []string
}

// Empty reports whether the target is every machine.
func (t *Target) Empty() bool { return len(t.Machines) == 0 && len(t.Regions) == 0 }

func (t *Target) has(m *row) bool {
	return (len(t.Machines) == 0 || slices.Contains(t.Machines, m.id)) &&
		(len(t.Regions) == 0 || slices.Contains(t.Regions, m.shared.region))
}
