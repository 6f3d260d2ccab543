package balance

// Strategy chooses the machine for a request.
type Strategy interface {
	// Pick chooses one machine of v that is usable for r. It neither blocks nor allocates and is safe for concurrent use.
	// r.Rand is the only chance involved: an equal view and an equal request give an equal answer. ok is false when no
	// machine is usable. A soft-cordoned machine is picked only when no plain one is usable, and so on down the tiers.
	Pick(v *View, r Request) (s Slot, ok bool)
}

// StrategyFunc makes a function a [Strategy].
type StrategyFunc func(v *View, r Request) (Slot, bool)

// Pick calls f.
func (f StrategyFunc) Pick(v *View, r Request) (Slot, bool) { return f(v, r) }
