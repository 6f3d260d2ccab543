package autostart

import (
	"slices"
	"time"
)

const (
	// probeMin is the step between first looks at a booting machine: a refused connection on the same host costs some
	// 20 us, so it is 4 % of one core, for the first half second of a boot only.
	probeMin = 500 * time.Microsecond
	// probeShare makes later steps a thousandth of the time passed: a boot is seen at most 0.1 % late.
	probeShare = 1000
	// likelyMin and likelyShare are the same when the boots before this one ended about now.
	likelyMin   = 250 * time.Microsecond
	likelyShare = 4000
	// rudeMin and rudeShare hold for a machine that answers, but not yet as it should: each look makes work there.
	rudeMin, rudeShare = 5 * time.Millisecond, 20
)

// nextProbe returns when to look again at a machine that has been booting for that long. refusals counts its answers in a
// row that were not yet good; 0 when it does not answer at all. likely is when it should be ready, as far as is known.
func nextProbe(elapsed time.Duration, refusals int, likely window) time.Duration {
	step := max(probeMin, elapsed/probeShare)
	switch {
	case likely.has(elapsed):
		step = max(likelyMin, elapsed/likelyShare)
	case elapsed < likely.from:
		step = max(probeMin, min(step, likely.from-elapsed)) // not beyond its beginning
	}
	if refusals == 0 {
		return step
	}
	rude := rudeMin
	for i := 1; i < refusals && rude < elapsed/rudeShare; i++ {
		rude += rude / 2
	}
	return max(step, min(rude, max(rudeMin, elapsed/rudeShare)))
}

// window is a part of a boot, from its beginning on.
type window struct{ from, to time.Duration }

func (w window) has(elapsed time.Duration) bool { return w.from <= elapsed && elapsed < w.to }

// likely returns when a boot should end: from somewhat before the shortest that is known until well after the longest. The
// zero window is of one of which nothing is known.
func (b *Boots) likely() window {
	if len(b.last) == 0 {
		return window{}
	}
	return window{slices.Min(b.last) * 9 / 10, slices.Max(b.last) * 5 / 4}
}

// streak turns the results of checks into health: it takes several failures in a row to be failing and one or several
// successes to be passing again.
type streak struct {
	failing bool
	run     int // results in a row that contradict failing
}

// add notes one result and reports whether the health has changed.
func (s *streak) add(ok bool, failAfter, passAfter int) (changed bool) {
	if ok != s.failing {
		s.run = 0
		return false
	}
	s.run++
	limit := failAfter
	if s.failing {
		limit = passAfter
	}
	if s.run < limit {
		return false
	}
	s.failing, s.run = !s.failing, 0
	return true
}

const (
	// recentDefault is how long failing checks after a first start mean "coming": what is known of no boot yet.
	recentDefault = 20 * time.Second
	// recentMin and recentMax bound what is learned.
	recentMin, recentMax = 5 * time.Second, time.Minute
)

// recentFor returns how long after ready failing checks mean "coming": what opens its port early warms up for about as long
// as it boots.
func recentFor(b *Boots) time.Duration {
	if !b.Known() {
		return recentDefault
	}
	return min(max(b.Longest(), recentMin), recentMax)
}
