package machine

import (
	"context"
	"errors"
	"fmt"

	"github.com/ebbkit/ebb/balance"
)

// ErrTooLate is what a recall answers when the machine's gate has closed: start the machine instead.
var ErrTooLate = errors.New("machine: too late to recall: the machine is stopping or has stopped")

// Recall ends the soft cordon that m's row speaks of, so that the machine counts again. With it a Starter is an Owner of package autostart for
// the machines of its own process; who decided on the cordon sees at the gate that it is over. It is nil also when that
// cordon was over already and the machine runs. It does not wait and needs no Run.
func (s *Starter) Recall(_ context.Context, m balance.Machine) error {
	g := s.fleet.Gate(m.App, m.ID)
	if g == nil {
		return fmt.Errorf("machine: machine %q of app %q is not owned by node %q: ask its owner", m.ID, m.App, s.fleet.Node())
	}
	if !g.Uncordon(m.CordonGen) && g.State() != balance.StateStarted {
		return fmt.Errorf("%w: %q is %v", ErrTooLate, m.ID, g.State())
	}
	return nil
}
