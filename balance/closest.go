package balance

// Closest picks the least loaded machine of the nearest region that has one below its soft limit; when none has, the
// least loaded of the nearest region that has one below its hard limit.
type Closest struct {
	// Choices is how many machines of a region with more than 64 are looked at; 0 means 4.
	Choices int
}

// Pick implements [Strategy].
func (s Closest) Pick(v *View, r Request) (Slot, bool) {
	n := s.Choices
	if n <= 0 {
		n = 4
	}
	for t := TierReady; t < tiers; t++ {
		var nearest best // with room, though busy
		for i := range v.Regions() {
			var b best
			b.look(v, &r, i, t, n)
			if b.found && !b.c.Busy() {
				return b.slot, true
			}
			if b.found && !nearest.found {
				nearest = b
			}
		}
		if nearest.found {
			return nearest.slot, true
		}
	}
	return Slot{}, false
}
