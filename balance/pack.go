package balance

// Pack fills machines up to their soft limit in the canonical order, region by region from the nearest, so that the others
// can sleep. Above it, it picks as [Closest] does. All nodes share the order, and autostart and downscale use it too.
type Pack struct{}

// Pick implements [Strategy].
func (Pack) Pick(v *View, r Request) (Slot, bool) {
	if r.Key == "" {
		for i := range v.order {
			rows := v.order[i].rows
			left := rows.usable()
			for _, pos := range rows.byRank {
				if rows.word(pos) < busyBit && r.admits(rows.rows[pos]) {
					return Slot{int32(i), pos}, true
				}
				if m := rows.rows[pos]; m.tier < tiers { // those that run stand at the front, where all go by the order
					if left--; left == 0 {
						break
					}
				}
			}
		}
	}
	return Closest{SpillAt: Hard}.Pick(v, r)
}
