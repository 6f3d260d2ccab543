package balance

import (
	"cmp"
	"slices"
	"sync/atomic"
)

// regionRows are the rows of one app in one region. It is immutable once published.
type regionRows struct {
	name   string
	area   *area
	chunks []*chunk       // the dense array of words
	rows   []*row         // by place; nil where nobody stands
	byID   []int32        // places in the order of IDs
	byTier [tiers][]int32 // places, in no order
	ranked atomic.Pointer[ranking]
	own    struct { // of a draft: which lists have been copied already
		byID   bool
		byTier [tiers]bool
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

// ranking is the canonical order of a region's usable machines.
type ranking struct {
	places []int32  // best first
	rank   []uint64 // by place
}

// inOrder returns the ranking. It is made when first asked for.
func (r *regionRows) inOrder() *ranking {
	if k := r.ranked.Load(); k != nil {
		return k
	}
	k := &ranking{rank: make([]uint64, len(r.rows))}
	for t := range tiers {
		for _, p := range r.byTier[t] {
			k.rank[p] = Rank(r.rows[p].kin.app, r.rows[p].id)
			k.places = append(k.places, p)
		}
	}
	slices.SortFunc(k.places, func(a, b int32) int {
		return cmp.Or(cmp.Compare(k.rank[a], k.rank[b]), cmp.Compare(r.rows[a].id, r.rows[b].id))
	})
	r.ranked.Store(k)
	return k
}

// edit returns a draft: a copy to change. Lists are copied when they are changed for the first time.
func (r *regionRows) edit() *regionRows {
	return &regionRows{name: r.name, area: r.area, rows: slices.Clone(r.rows), byID: r.byID, byTier: r.byTier}
}

// set puts a row at its place, for the one that stands there or as a new one.
func (r *regionRows) set(m *row) {
	for int(m.pos) >= len(r.rows) {
		r.rows = append(r.rows, nil)
	}
	old := r.rows[m.pos]
	r.rows[m.pos] = m
	if old == nil {
		i, _ := r.find(m.id)
		r.byID = slices.Insert(mine(r.byID, &r.own.byID), i, m.pos)
	}
	r.move(old, m)
}

// drop takes a row out.
func (r *regionRows) drop(m *row) {
	i, _ := r.find(m.id)
	r.byID = slices.Delete(mine(r.byID, &r.own.byID), i, i+1)
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
