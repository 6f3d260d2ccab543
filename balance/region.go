package balance

import (
	"cmp"
	"slices"
)

// regionRows are the rows of one app in one region. It is immutable once published.
type regionRows struct {
	name   string
	area   *area
	chunks []*chunk       // the dense array of words
	rows   []*row         // by place; nil where nobody stands
	byID   []int32        // places in the order of IDs
	byRank []int32        // places in the canonical order
	ranks  []uint64       // by place: see Rank. A change of members changes them and the orders, a change of rows does not
	byTier [tiers][]int32 // places, in no order
	own    struct {       // of a draft: which lists have been copied already
		members bool
		byTier  [tiers]bool
	}
}

// word returns the place's word.
func (r *regionRows) word(pos int32) word { return r.chunks[pos/chunkLen][pos%chunkLen].Load() }

// find returns the index in byID of a machine, or where it would stand.
func (r *regionRows) find(id MachineID) (int, bool) {
	return slices.BinarySearchFunc(r.byID, id, func(p int32, id MachineID) int { return cmp.Compare(r.rows[p].id, id) })
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

// edit returns a draft: a copy to change. Lists are copied when they are changed for the first time.
func (r *regionRows) edit() *regionRows {
	return &regionRows{name: r.name, area: r.area, rows: slices.Clone(r.rows), byID: r.byID, byRank: r.byRank, ranks: r.ranks, byTier: r.byTier}
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
		rank := Rank(m.shared.app, m.id)
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
