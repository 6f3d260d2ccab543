package balance

// LeastLoad picks over all regions alike: of the machines looked at, those within one request of the least loaded, and of
// these the one with the smallest round trip.
type LeastLoad struct {
	// Choices is how many machines of a region with more than 64 are looked at; 0 means 8.
	Choices int
}

// Pick implements [Strategy].
func (s LeastLoad) Pick(v *View, r Request) (Slot, bool) {
	n := s.Choices
	if n <= 0 {
		n = 8
	}
	for t := TierReady; t < tiers; t++ {
		var least best
		for i := range v.Regions() { // nearest first, so a farther one has to be better by more than one request
			var b best
			b.look(v, &r, i, t, n)
			if b.found && (!least.found || b.c.Load+1 < least.c.Load) {
				least = b
			}
		}
		if least.found {
			return least.slot, true
		}
	}
	return Slot{}, false
}
