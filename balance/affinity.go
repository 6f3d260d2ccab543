package balance

// yieldAt is the load, as a multiple of the region's mean and one request, at which affinity yields where no soft limit
// says so: hashing with bounded load.
const yieldAt = 1.25

// affine improves b with the machine of region i that the request's key belongs to: the highest rendezvous hash over the
// key and the canonical rank, among those with room. Machines that come or go move only the keys that they gain or lose;
// a machine without room lends its keys to the next in each key's own order.
func (l *look) affine(i int, b *found) {
	p := &l.v.order[i]
	ranks := p.rows.ranks
	bound := uint64(0)
	if p.stats.Use > 0 {
		bound = uint64(p.stats.Use*yieldAt*16) + 16
	}
	for t := range tiers {
		for _, pos := range p.rows.byTier[t] {
			w := p.rows.word(pos)
			if w >= noUse || tierOfWord(w) > tierOfWord(b.w) || !l.r.admits(p.rows.rows[pos]) {
				continue
			}
			if w&busyBit == 0 && l.bounded(w, p.rows.rows[pos], bound) {
				w |= busyBit
			}
			h := mix(l.key, ranks[pos])
			if l.closer(w, h, b) {
				b.w, b.slot, b.hash = w, Slot{int32(i), pos}, h
			}
		}
		if tierOfWord(b.w) <= t {
			return
		}
	}
}

// bounded reports whether a machine without a soft limit has more than its bound.
func (l *look) bounded(w word, m *row, bound uint64) bool {
	return m.shared.limits.Soft == 0 && bound > 0 && uint64(useOf(w)*16) > bound
}

// closer reports whether a machine comes before the best so far: a better tier, room, the hash; without room the load and
// then the hash. Whose turn it is does not matter to a key.
func (l *look) closer(w word, h uint64, b *found) bool {
	if w>>busyShift != b.w>>busyShift {
		return w < b.w
	}
	if w&busyBit != 0 && w>>useShift != b.w>>useShift {
		return w < b.w
	}
	return h > b.hash
}
