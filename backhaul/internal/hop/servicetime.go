package hop

import (
	"time"
)

// The bounds of what is learned. A slot that is held for less than a second is soon lost to a
// scheduler's pause; one that is held for more than a minute looks like one that is lost.
const (
	MinHold = time.Second
	MaxHold = time.Minute
	// UnknownHold is for an app that has answered nothing yet.
	UnknownHold = 10 * time.Second
)

// ServiceTimes estimates how long an app works on a request: counts in steps of a fifth, from
// minHold to maxHold, in which what is long past counts less and less. It is not safe for
// concurrent use.
type ServiceTimes struct {
	counts [serviceSteps]uint32
	total  uint32
}

const (
	serviceSteps  = 24 // 1.2^23 s is more than a minute
	serviceMemory = 4096
)

var serviceBounds = func() (b [serviceSteps]time.Duration) {
	d := float64(MinHold)
	for i := range b {
		b[i] = min(time.Duration(d), MaxHold)
		d *= 1.2
	}
	return b
}()

// Observe takes in one.
func (s *ServiceTimes) Observe(d time.Duration) {
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

// P99 returns what 99 of 100 take at most, from minHold to maxHold, and unknownHold where nothing
// is known.
func (s *ServiceTimes) P99() time.Duration {
	if s.total == 0 {
		return UnknownHold
	}
	above := s.total / 100
	for i := serviceSteps - 1; i > 0; i-- {
		if n := s.counts[i]; n > above {
			return serviceBounds[i]
		} else {
			above -= n
		}
	}
	return MinHold
}
