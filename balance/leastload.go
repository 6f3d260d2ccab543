package balance

// LeastLoad picks over all regions alike: of the machines looked at, those within one request of the least loaded, and of
// these the one with the smallest round trip.
type LeastLoad struct {
	// Choices is how many machines are looked at. 0 means all of up to 64, and 8 drawn of more; at most 16.
	Choices int
}

const leastChoices = 8

// Pick implements [Strategy].
func (s LeastLoad) Pick(v *View, r Request) (Slot, bool) {
	l := newLook(v, &r, s.Choices)
	for t := range tiers {
		n := v.count(t)
		var slot Slot
		var ok bool
		switch draws := s.draws(n); {
		case n == 0:
			continue
		case r.Key != "":
			slot, ok = l.affineAll()
		case n <= draws:
			slot, ok = l.leastOfAll(t)
		default:
			if slot, ok = l.leastOfDrawn(t, n, draws); !ok {
				slot, ok = l.leastOfAll(t)
			}
		}
		if ok {
			return slot, true
		}
	}
	return Slot{}, false
}

func (s LeastLoad) draws(n int) int {
	switch {
	case s.Choices > 0:
		return min(s.Choices, maxChoices)
	case n <= lookAll:
		return lookAll
	}
	return leastChoices
}

// affineAll takes all regions for one.
func (l *look) affineAll() (Slot, bool) {
	b := found{w: noUse}
	for i := range l.v.order {
		l.affine(i, &b)
	}
	return b.slot, b.w < noUse
}

// leastOfAll looks at every machine of a tier, twice: for the least, and for the nearest that is near it.
func (l *look) leastOfAll(t Tier) (Slot, bool) {
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
func (l *look) leastOfDrawn(t Tier, n, draws int) (Slot, bool) {
	var had [maxChoices]found
	k := 0
	least := found{w: noUse}
	for try := 0; k < draws && try < 4*maxChoices; try++ {
		bits := l.draw.next()
		f := found{slot: l.v.nth(t, int(uint64(uint32(bits))*uint64(n)>>32))}
		p := &l.v.order[f.slot.region]
		f.w = p.rows.word(f.slot.pos)
		if hadSlot(had[:k], f.slot) || try < 3*draws && !accept(useOf(f.w), p.level, p.least, uint32(bits>>32)) {
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
		if f.w>>useShift <= bound && (f.slot.region < near.slot.region || f.slot.region == near.slot.region && f.w < near.w) {
			near = f
		}
	}
	return near.slot, true
}

func hadSlot(had []found, s Slot) bool {
	for i := range had {
		if had[i].slot == s {
			return true
		}
	}
	return false
}

// oneMore is the upper part of the word of a machine with one request more than f; it is not busy unless f is.
func (l *look) oneMore(f found) word {
	m := l.v.row(f.slot)
	if m == nil {
		return f.w >> useShift
	}
	w := f.w>>useShift&^(1<<useBits-1) | word(
		useCode(useOf(f.w)+1/float32(max(1, m.shared.limits.Soft))),
	)
	return w
}
