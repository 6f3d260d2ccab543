package backhaul

import "time"

// The bounds of what is learned. A slot that is held for less than a second is soon lost to a
// scheduler's pause; one that is held for more than a minute looks like one that is lost.
const (
	minHold = time.Second
	maxHold = time.Minute
	// unknownHold is for an app that has answered nothing yet.
	unknownHold = 10 * time.Second
)

// serviceTimes estimates how long an app works on a request: counts in steps of a fifth, from
// minHold to maxHold, in which what is long past counts less and less. It is not safe for
// concurrent use.
type serviceTimes struct {
	counts [serviceSteps]uint32
	total  uint32
}

const (
	serviceSteps  = 24 // 1.2^23 s is more than a minute
	serviceMemory = 4096
)

var serviceBounds = func() (b [serviceSteps]time.Duration) {
	d := float64(minHold)
	for i := range b {
		b[i] = min(time.Duration(d), maxHold)
		d *= 1.2
	}
	return b
}()

// observe takes in one.
func (s *serviceTimes) observe(d time.Duration) {
	i := 0
	for i < serviceSteps-1 && d > serviceBounds[i] {
		i++
	}
	s.counts[i]++
	if s.total++; s.total < serviceMemory {
		return
	}
	s.total = 0
	for i := range s.counts {
		s.counts[i] /= 2
		s.total += s.counts[i]
	}
}

// p99 returns what 99 of 100 take at most, from minHold to maxHold, and unknownHold where nothing
// is known.
func (s *serviceTimes) p99() time.Duration {
	if s.total == 0 {
		return unknownHold
	}
	above := s.total / 100
	for i := serviceSteps - 1; i > 0; i-- {
		if n := s.counts[i]; n > above {
			return serviceBounds[i]
		} else {
			above -= n
		}
	}
	return minHold
}
