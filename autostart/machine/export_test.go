package machine

import "github.com/ebbkit/ebb/autostart/machine/internal/health"

// What tests outside of the package know of it.
const (
	CallDoubt   = health.CallDoubt
	CallMax     = callMax
	TurnMax     = turnMax
	StopTimeout = stopTimeout
	DrainMax    = drainMax
	ListMax     = listMax
)

// Dials has the starter believe of a check that is a func that it tries the machine's address.
func (s *Starter) Dials(on bool) { s.probe.dials = on }

// Runs returns how many runs the starter holds.
func (s *Starter) Runs() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.hosts {
		if h.run != nil {
			n++
		}
	}
	return n
}
