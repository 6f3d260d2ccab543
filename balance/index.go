package balance

import (
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
)

// index finds the cell of a machine. Readers take no lock; there is one writer at a time. It costs 10 to 20 bytes for each
// machine, a tenth of what a concurrent map of the standard library needs.
type index struct {
	table atomic.Pointer[[]atomic.Pointer[cell]]
	live  int // cells held
	dead  int // places of removed ones, which searches must step over
}

var removedCell = &cell{}

func hashID(id MachineID) uint64 { return xxhash.Sum64String(string(id)) }

// find returns the cell of id, or nil.
func (x *index) find(id MachineID) *cell {
	t := x.table.Load()
	if t == nil {
		return nil
	}
	s := *t
	for i := hashID(id); ; i++ {
		c := s[i&uint64(len(s)-1)].Load()
		if c == nil {
			return nil
		}
		if c != removedCell && c.row.Load().id == id {
			return c
		}
	}
}

// put adds a cell that is not in the index.
func (x *index) put(c *cell) {
	t := x.table.Load()
	if t == nil || (x.live+x.dead+1)*8 > len(*t)*7 {
		t = x.grow(t)
	}
	x.live++
	place(*t, c)
}

func place(s []atomic.Pointer[cell], c *cell) {
	i := hashID(c.row.Load().id)
	for s[i&uint64(len(s)-1)].Load() != nil {
		i++
	}
	s[i&uint64(len(s)-1)].Store(c)
}

// remove takes a cell out.
func (x *index) remove(id MachineID) {
	s := *x.table.Load()
	for i := hashID(id); ; i++ {
		c := s[i&uint64(len(s)-1)].Load()
		if c == nil {
			return
		}
		if c != removedCell && c.row.Load().id == id {
			s[i&uint64(len(s)-1)].Store(removedCell)
			x.live--
			x.dead++
			return
		}
	}
}

// grow makes a table with room for a sixth more at least, without the removed. Full tables are still searched in a few
// steps, which lie in one cache line or two.
func (x *index) grow(old *[]atomic.Pointer[cell]) *[]atomic.Pointer[cell] {
	n := 8
	for n*3 < 4*(x.live+1) {
		n *= 2
	}
	next := make([]atomic.Pointer[cell], n)
	if old != nil {
		for i := range *old {
			if c := (*old)[i].Load(); c != nil && c != removedCell {
				place(next, c)
			}
		}
	}
	x.dead = 0
	x.table.Store(&next)
	return &next
}
