package machine

import "github.com/ebbkit/ebb/autostart/machine/internal/health"

// What tests outside of the package use.
const (
	CallDoubt   = health.CallDoubt
	CallMax     = callMax
	TurnMax     = turnMax
	StopTimeout = stopTimeout
	DrainMax    = drainMax
	ListMax     = listMax
)

// Dials makes the starter treat a check that is a func as one that dials the machine's address.
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
