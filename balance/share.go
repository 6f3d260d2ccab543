package balance

import "math"

// The spill controller moves the share of its requests that a region takes while it has room. It is slow on purpose: the
// loads it sees are late, and a quick controller on late news swings. Single full machines are the pick's business.

const (
	// shareAll is a share of one.
	shareAll = 1 << 16
	// shareLeast keeps a region in use, so that its costs stay measured.
	shareLeast = 0.02
	// spillAt is the mean use at which a region begins to give requests away, in soft limits.
	spillAt = 0.95
	// spillGain is how far a tick moves the share for each unit that the use is off. It is stable on news up to 3 s late.
	spillGain = 0.03
	// spillStep bounds the move of one tick, so that one wild estimate moves little.
	spillStep = 0.02
	// spillGap is up to which gap between two news, in ticks, the controller keeps its pace; beyond it slows down with them.
	spillGap = 10
	// dearer is how many times what it costs elsewhere a region may cost before that counts. Below it is noise.
	dearer = 1.05
)

// spilling is what the controller sees of one region at one tick.
type spilling struct {
	use    float32 // mean, in soft limits
	target float32
	cost   float32 // of a request: round trip and time at the worker; 0 when unknown
	other  float32 // of a request in the cheapest farther region with room; 0 when there is none
	limits bool    // the machines have soft limits
	gap    float32 // between two news of one machine, in ticks
}

// share returns the next share after dt ticks. Without a farther region that has room it goes back to one.
func (s spilling) next(share, dt float32) float32 {
	off := float32(1)
	if s.other > 0 {
		if s.limits {
			off = s.target - s.use
		}
		if s.cost > dearer*s.other {
			off = min(off, dearer-s.cost/s.other)
		}
	}
	step := min(max(spillGain*off, -spillStep), spillStep) * min(dt, 10) / max(1, s.gap/spillGap)
	return min(max(share+step, shareLeast), 1)
}

// fixed turns a share into what a view holds; shares near one are one, so that quiet regions cost no random bits.
func fixed(share float32) uint32 {
	if share >= 0.995 {
		return shareAll
	}
	return uint32(math.Round(float64(share) * shareAll))
}
