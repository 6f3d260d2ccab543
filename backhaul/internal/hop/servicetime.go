package hop

import (
	"time"
)

// The bounds of what is learned. A slot held for less than a second is soon freed too early by a
// scheduler's pause; one held for more than a minute looks lost.
const (
	MinHold = time.Second
	MaxHold = time.Minute
	// UnknownHold is for an app without any answer yet.
	UnknownHold = 10 * time.Second
)

// ServiceTimes estimates how long an app works on a request: counts in steps of a fifth, from
// minHold to maxHold, in which old samples fade. It is not safe for concurrent use.
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

// Observe takes in one sample.
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

// P99 returns the 99th percentile, from minHold to maxHold, or UnknownHold without samples.
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
