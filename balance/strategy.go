package balance

// Closest picks the least loaded machine of the nearest region that has one below its soft limit;
// if none has, the least loaded of the nearest region that has one below its hard limit. Regions
// that are equally near count as one. A region whose mean use is above SpillAt, or whose requests
// stay longer than they would elsewhere, gives a slowly changing share away before single machines
// are full.
type Closest struct {
	// Choices is how many machines of a region are looked at. 0 means all of up to 64, and 4 drawn of
	// more; at most 16.
	Choices int
	// SpillAt is the mean use, in soft limits, above which a region gives requests away; 0 means
	// 0.95. Negative means never: requests then stay in the nearest region until all its machines
	// are at their hard limit.
	SpillAt float64
}

// Pick implements [Strategy].
func (s Closest) Pick(v *View, r Request) (Slot, bool) { return s.pick(v, &r) }

func (s Closest) pick(v *View, r *Request) (Slot, bool) {
	if r.plain() {
		if slot, ok := s.quick(v, r.Rand); ok {
			return slot, true
		}
	}
	return s.search(v, r)
}

// quick is search for the usual case: nothing is excluded, and the nearest region is alone at its
// distance and has room.
func (s Closest) quick(v *View, bits uint64) (Slot, bool) {
	if len(v.order) == 0 {
		return Slot{}, false
	}
	p := &v.order[0]
	if p.end != 1 || p.share < shareAll || p.slice != nil {
		return Slot{}, false
	}
	if n := len(p.rows.rows); n <= lookAll && (s.Choices <= 0 || n <= s.Choices) {
		w, at := leastOf(p.rows, n, noUse)
		return Slot{0, int32(at)}, w < busyBit
	}
	list := p.rows.byTier[TierReady]
	n := s.Choices
	if n <= 0 {
		n = defaultChoices
	}
	if len(list) <= max(n, maxChoices) {
		return Slot{}, false
	}
	d := draw{state: bits}
	w, pos := d.from(p, list, min(n, maxChoices), noUse, nil)
	return Slot{0, pos}, w < busyBit
}

func (s Closest) search(v *View, r *Request) (Slot, bool) {
	l := newScan(v, r, s.Choices)
	best := found{w: noUse}
	gaveAway := false
	for i := 0; i < len(v.order); i = v.order[i].end {
		if s.SpillAt >= 0 && !l.accepts(i) {
			gaveAway = true
			continue
		}
		if s.visit(&l, i, &best) {
			return best.slot, true
		}
	}
	if gaveAway { // no other region has room: return to those that gave the request away
		for i := 0; i < len(v.order); i = v.order[i].end {
			if !l.accepts(i) && s.visit(&l, i, &best) {
				break
			}
		}
	}
	return best.slot, best.w < noUse
}

// visit looks at the regions that are as near as region i and reports whether the search is over.
func (s Closest) visit(l *scan, i int, best *found) bool {
	b := found{w: noUse}
	for j := i; j < l.v.order[i].end; j++ {
		l.region(j, &b)
	}
	shift := busyShift
	if s.SpillAt < 0 {
		shift = tierShift
	}
	if b.w < noUse && (best.w >= noUse || b.w>>shift < best.w>>shift) {
		*best = b
	}
	return best.w>>shift == 0
}

// LeastLoad treats all regions alike: of the machines looked at, it takes those within one request
// of the least loaded, and of these picks the one with the smallest round trip.
type LeastLoad struct {
	// Choices is how many machines are looked at. 0 means all of up to 64, and 8 drawn of more; at
	// most 16.
	Choices int
}

const leastChoices = 8

// Pick implements [Strategy].
func (s LeastLoad) Pick(v *View, r Request) (Slot, bool) {
	l := newScan(v, &r, s.Choices)
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

// Pack fills machines up to their soft limit in the canonical order, region by region from the
// nearest, so that the others can stop. When all are at their soft limit it picks as [Closest]
// does. All nodes share the order, and autostart and downscale use it too.
type Pack struct{}

// Pick implements [Strategy].
func (Pack) Pick(v *View, r Request) (Slot, bool) {
	if r.Key == "" {
		for i := range v.order {
			rows := v.order[i].rows
			left := rows.usable()
			for _, pos := range rows.byRank {
				if rows.scoreAt(pos) < busyBit && r.admits(rows.rows[pos]) {
					return Slot{int32(i), pos}, true
				}
				// if all nodes follow the order, the machines that run are at its front
				if m := rows.rows[pos]; m.tier < tiers {
					if left--; left == 0 {
						break
					}
				}
			}
		}
	}
	return Closest{SpillAt: -1}.Pick(v, r)
}
