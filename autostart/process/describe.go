package process

import (
	"context"
	"errors"
	"time"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/balance"
)

// Describe returns the last line that m's processes have printed and, on Linux, where they accept
// connections and for how long they have done nothing. With it a Driver is an
// [machine.Describer].
func (d *Driver) Describe(_ context.Context, m balance.Machine) (machine.Description, error) {
	d.mu.Lock()
	c := d.children[m.Key()]
	if c == nil || c.cmd == nil {
		d.mu.Unlock()
		return machine.Description{}, errors.New("its process does not run")
	}
	pid, printed := c.cmd.Process.Pid, c.printed
	d.mu.Unlock()
	// The process may end meanwhile, and its number may even be given to another: then this is of
	// no use, and does no harm.
	now, bytes := time.Now(), printed.printed()
	seen, known := lookAt(pid)
	description := machine.Description{
		Listens: seen.listens, Known: known, Output: printed.lastLine(),
	}
	if known {
		d.mu.Lock()
		description.Idle = c.activity.look(now, seen.cpu, seen.busy, bytes)
		d.mu.Unlock()
	}
	return description, nil
}
