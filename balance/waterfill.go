package balance

// Water-filling: the requests that come until the next news are poured over machines whose loads are late. Machine i with
// load b is drawn with a weight of level - b, where the level is what the mean will have risen to by then. Fresh news make
// the level low, and only the least loaded are drawn; old news make it high, and all are drawn alike. The arrivals are
// over-estimated: twice or four times too many cost next to nothing, half of them ruin it.
const arrivalsTimes = 1.5

// accept reports whether a draw stands, given 32 random bits: it is how the weight is applied. A level at or below the
// least load means that nothing is known.
func accept(use, level, least float32, bits uint32) bool {
	if level <= least || use <= least {
		return true
	}
	if use >= level {
		return false
	}
	return float32(bits>>8)*(level-least) < (level-use)*(1<<24)
}

// waterLevel returns the level for machines with this mean use, a mean stay and news of an age; both times in ticks. A
// stay of 0 is unknown.
func waterLevel(use, stay, age float32) float32 {
	if stay <= 0 || use <= 0 {
		return 0
	}
	return use + arrivalsTimes*use*age/stay
}
