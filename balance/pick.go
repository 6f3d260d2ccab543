package balance

// lookAll is how many machines of a region are all looked at; beyond it some are drawn. Looking at 64 words costs less
// than a system call and finds the least.
const lookAll = 64

// maxChoices bounds the draws of one look.
const maxChoices = 16

// defaultChoices is how many machines are drawn: with two, half of the machines being slow is too much for the other half.
const defaultChoices = 4

// look is one pick's way of looking at regions.
type look struct {
	v      *View
	r      *Request
	plain  bool // the request excludes nothing and has no key
	wanted int  // choices asked for; 0 for the default
	draw   draw
	key    uint64 // hash of the affinity key
}

func newLook(v *View, r *Request, choices int) look {
	l := look{v: v, r: r, plain: r.plain(), wanted: min(max(choices, 0), maxChoices), draw: draw{state: r.Rand}}
	if r.Key != "" {
		l.key = hash2("", r.Key)
	}
	return l
}

// found is the best machine so far.
type found struct {
	w    word
	slot Slot
	hash uint64 // of the affinity, when there is a key
}

// region improves b with what region i has.
func (l *look) region(i int, b *found) {
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
		if tierOfWord(b.w) <= t {
			return
		}
	}
}

// tier improves b with machines of one tier.
func (l *look) tier(i int, t Tier, b *found) {
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
	if l.plain {
		if w, pos := l.draw.from(&l.v.order[i], list, n, b.w); w < b.w {
			b.w, b.slot = w, Slot{int32(i), pos}
		}
	} else {
		l.drawn(i, list, n, b)
	}
	if b.w >= noUse { // nothing usable was drawn: rather look at all than miss the last one
		l.list(i, list, b)
	}
}

// dense looks at the whole array of a small region.
func (l *look) dense(i int, rows *regionRows, n int, b *found) {
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

// leastOf returns the least of the first n words of a small region that is below w, and where it stands, else w and -1.
func leastOf(rows *regionRows, n int, w word) (least word, at int) {
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

// before breaks the rare tie of two words by ID: two machines whose salts are alike too.
func before(a, b *row) bool { return a != nil && b != nil && a.id < b.id }

// tie reports whether a place of region i, whose word is that of the best so far, comes before it.
func (l *look) tie(i int, pos int32, b *found) bool {
	if b.w >= noUse || b.slot.region != int32(i) {
		return false
	}
	rows := l.v.order[i].rows.rows
	return before(rows[pos], rows[b.slot.pos])
}

// list looks at all of some places.
func (l *look) list(i int, list []int32, b *found) {
	rows := l.v.order[i].rows
	for _, pos := range list {
		if w := rows.word(pos); w <= b.w && (l.plain || l.r.admits(rows.rows[pos])) && (w < b.w || l.tie(i, pos, b)) {
			b.w, b.slot = w, Slot{int32(i), pos}
		}
	}
}

// accepts reports whether region i takes the request at its present share. Requests with a key stay where they are while
// shares move little.
func (l *look) accepts(i int) bool {
	if l.v.order[i].share >= shareAll {
		return true
	}
	bits := l.r.Rand
	if l.r.Key != "" {
		bits = l.key
	}
	return l.v.Accepts(i, bits)
}
