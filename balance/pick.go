package balance

import (
	"slices"
)

// lookAll is how many machines of a region are all looked at; beyond it some are drawn. Looking at
// 64 scores costs less than a system call and finds the least.
const lookAll = 64

// maxChoices bounds the draws of one look.
const maxChoices = 16

// defaultChoices is how many machines are drawn: with only two, if half of the machines are slow,
// the other half gets too much.
const defaultChoices = 4

// scan is one pick's search through regions.
type scan struct {
	v      *View
	r      *Request
	plain  bool // the request excludes nothing and has no key
	wanted int  // choices asked for; 0 for the default
	draw   draw
	key    uint64 // hash of the affinity key
}

func newScan(v *View, r *Request, choices int) scan {
	l := scan{
		v: v, r: r, plain: r.plain(), wanted: min(max(choices, 0), maxChoices), draw: draw{state: r.Rand},
	}
	if r.Key != "" {
		l.key = hash2("", r.Key)
	}
	return l
}

// found is the best machine so far.
type found struct {
	w    score
	slot Slot
	hash uint64 // of the affinity, when there is a key
}

// region improves b with what region i has.
func (l *scan) region(i int, b *found) {
	p := &l.v.order[i]
	rows := p.rows
	if l.r.Key != "" {
		l.affine(i, b)
		return
	}
	if p.slice != nil {
		l.list(i, p.slice, b)
		if b.w < busyBit {
			return
		}
	}
	if n := len(rows.rows); n <= lookAll && l.wanted == 0 {
		l.dense(i, rows, n, b)
		return
	}
	for t := range tiers {
		l.tier(i, t, b)
		if tierOfScore(b.w) <= t {
			return
		}
	}
}

// tier improves b with machines of one tier.
func (l *scan) tier(i int, t Tier, b *found) {
	list := l.v.order[i].rows.byTier[t]
	n := l.wanted
	if n == 0 {
		n = defaultChoices
		if len(list) <= lookAll {
			n = lookAll
		}
	}
	if len(list) <= n {
		l.list(i, list, b)
		return
	}
	r := l.r
	if l.plain {
		r = nil
	}
	if w, pos := l.draw.from(&l.v.order[i], list, n, b.w, r); w < b.w {
		b.w, b.slot = w, Slot{int32(i), pos}
	}
	if b.w >= noUse { // nothing usable was drawn: look at all instead of missing the last one
		l.list(i, list, b)
	}
}

// dense scans the whole array of a small region.
func (l *scan) dense(i int, rows *regionRows, n int, b *found) {
	if n == 0 {
		return
	}
	if l.plain {
		if w, at := leastOf(rows, n, b.w); at >= 0 {
			b.w, b.slot = w, Slot{int32(i), int32(at)}
		}
		return
	}
	c := rows.chunks[0]
	for j := range c[:n] {
		if w := c[j].Load(); w <= b.w && l.r.admits(rows.rows[j]) && (w < b.w || l.tie(i, int32(j), b)) {
			b.w, b.slot = w, Slot{int32(i), int32(j)}
		}
	}
}

// leastOf returns the least of the first n scores of a small region that is below w, and its place;
// else w and -1.
func leastOf(rows *regionRows, n int, w score) (least score, at int) {
	least, at = w, -1
	c := rows.chunks[0]
	for j := range c[:n] {
		if w := c[j].Load(); w <= least {
			if w == least && (at < 0 || !before(rows.rows[j], rows.rows[at])) {
				continue
			}
			least, at = w, j
		}
	}
	return least, at
}

// before breaks the rare tie of two scores by ID, for machines whose salts are equal too.
func before(a, b *row) bool { return a != nil && b != nil && a.id < b.id }

// tie reports whether a place of region i with the score of the best so far comes before it.
func (l *scan) tie(i int, pos int32, b *found) bool {
	if b.w >= noUse || b.slot.region != int32(i) {
		return false
	}
	rows := l.v.order[i].rows.rows
	return before(rows[pos], rows[b.slot.pos])
}

// list looks at the machines at all the given places.
func (l *scan) list(i int, list []int32, b *found) {
	rows := l.v.order[i].rows
	for _, pos := range list {
		if w := rows.scoreAt(pos); w <= b.w && (l.plain || l.r.admits(rows.rows[pos])) &&
			(w < b.w || l.tie(i, pos, b)) {
			b.w, b.slot = w, Slot{int32(i), pos}
		}
	}
}

// accepts reports whether region i takes the request at its present share. Requests with a key stay
// in the same region while shares move little.
func (l *scan) accepts(i int) bool {
	p := &l.v.order[i]
	if p.share >= shareAll {
		return true
	}
	bits := l.r.Rand
	if l.r.Key != "" {
		bits = l.key
	}
	return p.accepts(i, bits)
}

// draw makes the random draws of one pick from its random bits.
type draw struct{ state uint64 }

// next returns more random bits; it is SplitMix64.
func (d *draw) next() uint64 {
	d.state += 0x9e3779b97f4a7c15
	z := d.state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// fair is the number of tries per choice after which draws are no longer weighted.
const fair = 3

// from looks at n distinct places of a list that r admits (all if r is nil), drawn with weights by
// the room of their machines. It returns the least score that is below w, else w.
func (d *draw) from(
	p *regionView, list []int32, n int, w score, r *Request,
) (least score, pos int32) {
	var had [maxChoices]int32
	rows := p.rows
	least = w
	k := 0
	for try := range 4 * maxChoices {
		bits := d.next()
		at := list[uint64(uint32(bits))*uint64(len(list))>>32]
		if k > 0 && slices.Contains(had[:k], at) {
			continue
		}
		w := rows.scoreAt(at)
		if try < fair*n && !accept(useOf(w), p.level, p.least, uint32(bits>>32)) {
			continue
		}
		if r != nil && !r.admits(rows.rows[at]) {
			continue
		}
		if w < least {
			least, pos = w, at
		}
		had[k] = at
		if k++; k == n {
			break
		}
	}
	return least, pos
}

// yieldAt is the load, as a multiple of the region's mean plus one request, at which affinity
// yields if there is no soft limit: hashing with bounded load.
const yieldAt = 1.25

// affine improves b with the machine of region i that the request's key belongs to: the highest
// rendezvous hash over the key and the canonical rank, among machines with room. Machines that come
// or go move only the keys that they gain or lose. The keys of a machine without room go to the
// next machine in each key's own order.
func (l *scan) affine(i int, b *found) {
	p := &l.v.order[i]
	ranks := p.rows.ranks
	bound := uint64(0)
	if p.use > 0 {
		bound = uint64(p.use*yieldAt*16) + 16
	}
	for t := range tiers {
		for _, pos := range p.rows.byTier[t] {
			w := p.rows.scoreAt(pos)
			if w >= noUse || tierOfScore(w) > tierOfScore(b.w) || !l.r.admits(p.rows.rows[pos]) {
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
		if tierOfScore(b.w) <= t {
			return
		}
	}
}

// bounded reports whether a machine without a soft limit has more than its bound.
func (l *scan) bounded(w score, m *row, bound uint64) bool {
	return m.shared.limits.Soft == 0 && bound > 0 && uint64(useOf(w)*16) > bound
}

// closer reports whether a machine comes before the best so far: by tier, room, and hash; without
// room by load and then hash. Turns do not matter to a key.
func (l *scan) closer(w score, h uint64, b *found) bool {
	if w>>busyShift != b.w>>busyShift {
		return w < b.w
	}
	if w&busyBit != 0 && w>>useShift != b.w>>useShift {
		return w < b.w
	}
	return h > b.hash
}

// affineAll treats all regions as one.
func (l *scan) affineAll() (Slot, bool) {
	b := found{w: noUse}
	for i := range l.v.order {
		l.affine(i, &b)
	}
	return b.slot, b.w < noUse
}

// leastOfAll looks at every machine of a tier twice: for the least load, and for the nearest
// machine close to that load.
func (l *scan) leastOfAll(t Tier) (Slot, bool) {
	b := found{w: noUse}
	for i := range l.v.order {
		l.list(i, l.v.order[i].rows.byTier[t], &b)
	}
	if b.w >= noUse {
		return Slot{}, false
	}
	bound := l.oneMore(b)
	for i := range l.v.order {
		near := found{w: noUse}
		l.list(i, l.v.order[i].rows.byTier[t], &near)
		if near.w>>useShift <= bound {
			return near.slot, true
		}
	}
	return b.slot, true
}

// leastOfDrawn looks at some machines of a tier of n.
func (l *scan) leastOfDrawn(t Tier, n, draws int) (Slot, bool) {
	var had [maxChoices]found
	k := 0
	least := found{w: noUse}
	for try := 0; k < draws && try < 4*maxChoices; try++ {
		bits := l.draw.next()
		f := found{slot: l.v.nth(t, int(uint64(uint32(bits))*uint64(n)>>32))}
		p := &l.v.order[f.slot.region]
		f.w = p.rows.scoreAt(f.slot.pos)
		if slices.ContainsFunc(had[:k], func(h found) bool { return h.slot == f.slot }) ||
			try < 3*draws && !accept(useOf(f.w), p.level, p.least, uint32(bits>>32)) {
			continue
		}
		if f.w >= noUse || !l.plain && !l.r.admits(p.rows.rows[f.slot.pos]) {
			continue
		}
		had[k] = f
		k++
		if f.w < least.w {
			least = f
		}
	}
	if k == 0 {
		return Slot{}, false
	}
	bound, near := l.oneMore(least), least
	for _, f := range had[:k] {
		if f.w>>useShift <= bound &&
			(f.slot.region < near.slot.region || f.slot.region == near.slot.region && f.w < near.w) {
			near = f
		}
	}
	return near.slot, true
}

// oneMore returns the upper part of the score of a machine with one more request than f; it is busy
// only if f is.
func (l *scan) oneMore(f found) score {
	m := l.v.row(f.slot)
	if m == nil {
		return f.w >> useShift
	}
	w := f.w>>useShift&^(1<<useBits-1) | score(
		useCode(useOf(f.w)+1/float32(max(1, m.shared.limits.Soft))),
	)
	return w
}
