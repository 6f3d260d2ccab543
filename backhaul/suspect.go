package backhaul

import (
	"errors"
	"syscall"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/balance"
)

// suspect tells whoever starts the machine that nothing listens at its address: there it is looked
// at, and restarted if it has to be.
func suspect(g *balance.Gate, epoch uint64, f Failure, err error) {
	if f == hop.FailureDial && errors.Is(err, syscall.ECONNREFUSED) {
		g.Suspect(epoch)
	}
}
