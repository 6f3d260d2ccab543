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

// seen is what can be seen of the processes of a group.
type seen struct {
	listens []string // where they accept connections
	cpu     uint64   // time that they have used, in ticks
	busy    bool     // one of them runs, or waits for a disk
}

// activeTicks is how much processor time makes processes active: two ticks of 10 ms, since a tick
// may just be full. What only waits, and looks at a clock now and then, uses less.
const activeTicks = 2

// activity follows whether the processes of a group do anything. The zero value has not seen them.
type activity struct {
	since   time.Time // they have done nothing
	cpu     uint64    // then
	printed int64     // bytes, then
}

// look takes in what a look found, and returns for how long they have done nothing.
func (a *activity) look(now time.Time, cpu uint64, busy bool, printed int64) (idle time.Duration) {
	if a.since.IsZero() || busy || cpu < a.cpu || cpu >= a.cpu+activeTicks || printed != a.printed {
		*a = activity{now, cpu, printed}
		return 0
	}
	return max(0, now.Sub(a.since))
}
