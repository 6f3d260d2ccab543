package process

import (
	"context"
	"errors"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/balance"
)

// Describe returns where m's processes accept connections, on Linux, and the last line that they
// have printed. With it a Driver is an [autostart.Describer].
func (d *Driver) Describe(_ context.Context, m balance.Machine) (autostart.Description, error) {
	d.mu.Lock()
	c := d.children[m.Key()]
	if c == nil || c.cmd == nil {
		d.mu.Unlock()
		return autostart.Description{}, errors.New("its process does not run")
	}
	pid, printed := c.cmd.Process.Pid, c.printed
	d.mu.Unlock()
	// The process may end meanwhile, and its number may even be given to another: then this is of
	// no use, and does no harm.
	addrs, known := listens(pid)
	return autostart.Description{Listens: addrs, Known: known, Output: printed.lastLine()}, nil
}
