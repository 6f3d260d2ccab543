package health

import (
	"time"

	"github.com/ebbkit/ebb/autostart/internal/boots"
)

const (
	// probeMin is the step between the first looks at a booting machine. A refused connection on the
	// same host costs some 20 us, so that is 4 % of one core, for the first half second of a boot
	// only.
	probeMin = 500 * time.Microsecond
	// probeShare makes later steps a thousandth of the time passed: a boot is seen at most 0.1 % late.
	probeShare = 1000
	// LikelyMin and likelyShare are the same at the age at which earlier boots ended.
	LikelyMin   = 250 * time.Microsecond
	likelyShare = 4000
	// unreadyMin and unreadyShare hold for a machine that answers, but not yet as it should: each look
	// costs it work.
	unreadyMin, unreadyShare = 5 * time.Millisecond, 20
)

// NextLook returns in how long to look again at a machine that has been booting for elapsed.
// refusals counts its answers in a row that were not yet good; 0 means that it does not answer at
// all. likely is when it should be ready, as far as is known.
func NextLook(elapsed time.Duration, refusals int, likely Window) time.Duration {
	step := max(probeMin, elapsed/probeShare)
	switch {
	case likely.has(elapsed):
		step = max(LikelyMin, elapsed/likelyShare)
	case elapsed < likely.From:
		step = max(probeMin, min(step, likely.From-elapsed)) // not beyond the window's beginning
	}
	if refusals == 0 {
		return step
	}
	unready := unreadyMin
	for i := 1; i < refusals && unready < elapsed/unreadyShare; i++ {
		unready += unready / 2
	}
	return max(step, min(unready, max(unreadyMin, elapsed/unreadyShare)))
}

// Window is a part of a boot, from its beginning on.
type Window struct{ From, To time.Duration }

// Likely returns when a boot should end, by what is known of earlier ones; see Boots.Likely.
func Likely(b *boots.Boots) Window {
	from, to := b.Likely()
	return Window{from, to}
}

func (w Window) has(elapsed time.Duration) bool { return w.From <= elapsed && elapsed < w.To }

// streak turns the results of checks into health: it takes several failures in a row to be failing
// and one or several successes to be passing again.
type streak struct {
	failing bool
	run     int // results in a row that contradict failing
}

// add takes in one result and reports whether the health has changed.
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
	// recentDefault is how long failing checks after a start mean that the machine is still warming
	// up, while no boot is known.
	recentDefault = 20 * time.Second
	// recentMin and recentMax bound what is learned.
	recentMin, recentMax = 5 * time.Second, time.Minute
)

// RecentFor returns how long after ready failing checks mean that the machine is still warming up:
// one that opens its port early warms up for about as long as it boots.
func RecentFor(b *boots.Boots) time.Duration {
	if !b.Known() {
		return recentDefault
	}
	return min(max(b.Longest(), recentMin), recentMax)
}
