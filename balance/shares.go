package balance

import "slices"

// shares fills in what this node decided about each region: its share, its slice, and the level of water-filling.
func (b *Balancer) shares(ab *appBalance, s *Snapshot, order []reach, dt float32) {
	target := float32(spillAt)
	strategy := s.app.Strategy
	if strategy == nil {
		strategy = b.strategy
	}
	c, _ := strategy.(Closest)
	if c.SpillAt > 0 {
		target = float32(c.SpillAt)
	}
	b.fleet.ageing.Lock() // for what the tick has gathered
	defer b.fleet.ageing.Unlock()
	for i := range order {
		p := &order[i]
		a := p.rows.area
		l := ab.live[a]
		if l == nil {
			l = &living{share: 1}
			ab.live[a] = l
		}
		if dt > 0 {
			sp := spilling{use: a.use, target: target, cost: a.stay, limits: a.limits, gap: a.gap}
			sp.other = cheapest(order, i, target)
			if c.SpillAt < 0 {
				sp.other = 0
			}
			l.share = sp.next(l.share, dt)
		}
		p.share = fixed(l.share)
		p.stats = RegionStats{Ready: len(p.rows.byTier[TierReady]), Use: float64(int(a.use*100)) / 100, Stay: a.stayed().Round(tickEvery / 100)}
		p.level, p.least = waterLevel(a.use, a.stay, a.gap+1), a.least
		b.slice(l, p)
	}
	if len(ab.live) > len(order) { // regions have gone
		for a := range ab.live {
			if !slices.ContainsFunc(order, func(p reach) bool { return p.rows.area == a }) {
				delete(ab.live, a)
			}
		}
	}
}

// cheapest returns the least cost of a request in a farther region that has room, in ticks; 0 when there is none. Where
// none was sent the cost is that of region i, but for the way.
func cheapest(order []reach, i int, target float32) (least float32) {
	from := order[i].rows.area
	for j := order[i].end; j < len(order); j++ {
		a := order[j].rows.area
		if a.ready == 0 || a.use >= target {
			continue
		}
		cost := a.stay
		if cost <= 0 && order[j].known && from.stay > 0 {
			cost = from.stay + float32(order[j].rtt-order[i].rtt)/float32(tickEvery)
		}
		if cost <= 0 {
			cost = 1e9 // unknown is not cheap, but it has room
		}
		if least == 0 || cost < least {
			least = cost
		}
	}
	return least
}

// slice brings the region's slice up to date.
func (b *Balancer) slice(l *living, p *reach) {
	ready := p.rows.byTier[TierReady]
	width := sliceWidth(len(ready), len(b.peers), p.rows.area.own, l.width > 0)
	i, ok := slices.BinarySearch(b.peers, b.fleet.node)
	if width == 0 || !ok {
		*l = living{share: l.share}
		return
	}
	// A width that follows the load step by step would move the slice all the time.
	if l.rows != p.rows || l.peers != len(b.peers) || width > l.width || width < l.width/2 {
		ring := slices.DeleteFunc(slices.Clone(p.rows.byRank), func(pos int32) bool { return p.rows.rows[pos].tier != TierReady })
		*l = living{share: l.share, rows: p.rows, width: width, peers: len(b.peers), slice: sliceOf(ring, i, len(b.peers), width)}
	}
	p.slice = l.slice
}

func sameReach(a, b reach) bool {
	return a.rows == b.rows && a.rtt == b.rtt && a.known == b.known && a.end == b.end && a.share == b.share &&
		a.level == b.level && a.least == b.least && a.stats == b.stats && slices.Equal(a.slice, b.slice)
}
