package balance

import "time"

// Explanation says why a pick went where it went: what the strategy saw, and what it chose.
type Explanation struct {
	App      AppID
	Strategy string  // its type
	Key      string  // of the request
	Tried    int     // machines that the request has tried
	Picked   Machine // zero when there was none
	Tier     Tier    // of the picked machine
	Busy     bool    // it was at or above its soft limit
	Why      string  // in a sentence
	Err      error   // of a pick that found nothing
	Regions  []RegionLook
}

// RegionLook is a region as the pick saw it, in its order.
type RegionLook struct {
	Region   string
	RTT      time.Duration // meaningful where Known
	Known    bool          // the round trip is measured; unknown is never near
	Stats    RegionStats
	Accepted bool // by the share, for this request
	Sliced   int  // machines that this node keeps to; 0 for all
	Usable   int  // that the request could have gone to
	Busy     int  // of these, at or above the soft limit
	Full     int
	Excluded int         // by the request
	Best     []Candidate // the best usable ones, at most four
}

// Trace observes picks.
type Trace struct {
	Every  int // one of how many picks is explained; 0 or 1 means each
	Picked func(Explanation)
}

func (t *Trace) samples(bits uint64) bool {
	return t.Picked != nil && (t.Every <= 1 || mix(bits, 3)%uint64(t.Every) == 0)
}
