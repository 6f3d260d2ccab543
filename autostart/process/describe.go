package process

import (
	"time"
)

// seen is what can be seen of a process group.
type seen struct {
	listens []string // the addresses where its processes accept connections
	cpu     uint64   // processor time that they have used, in ticks
	busy    bool     // one of them runs, or waits for a disk
}

// activeTicks is how much processor time makes processes active: two ticks of 10 ms, since the
// count may reach the next tick by chance. A process that only waits, and looks at a clock now and
// then, uses less.
const activeTicks = 2

// activity follows whether the processes of a group do anything. The zero value has seen nothing.
type activity struct {
	since   time.Time // since when they have done nothing
	cpu     uint64    // then
	printed int64     // bytes, then
}

// look takes in the result of a look, and returns how long they have done nothing.
func (a *activity) look(now time.Time, cpu uint64, busy bool, printed int64) (idle time.Duration) {
	if a.since.IsZero() || busy || cpu < a.cpu || cpu >= a.cpu+activeTicks || printed != a.printed {
		*a = activity{now, cpu, printed}
		return 0
	}
	return max(0, now.Sub(a.since))
}
