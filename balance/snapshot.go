package balance

import (
	"cmp"
	"iter"
	"slices"
)

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
	return slices.BinarySearchFunc(s.regions, name, func(r *regionRows, name string) int { return cmp.Compare(r.name, name) })
}
