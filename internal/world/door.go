package world

import (
	"context"
	"errors"
	"fmt"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale"
	"github.com/ebbkit/ebb/internal/status"
)

// StopMachine implements [status.Stops]: it stops a machine for maintenance, through the machine's
// owner.
func (w *World) StopMachine(ctx context.Context, machine string, o status.Order) error {
	m := balance.Machine{App: w.config.App.ID, ID: balance.MachineID(machine)}
	for _, k := range w.workers {
		if k.fleet.Gate(m.App, m.ID) == nil {
			continue
		}
		err := k.scaler.Stop(ctx, m, downscale.Order{Reason: o.Reason, Suspend: o.Suspend, Drain: o.Drain})
		if errors.Is(err, downscale.ErrBusy) {
			return fmt.Errorf("%w: %w", status.ErrRunsOn, err)
		}
		return err
	}
	return status.ErrNoMachine
}
