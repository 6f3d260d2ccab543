package process

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Suspend stops m's process group with SIGSTOP and returns when it rests. When ctx ends before, the
// machine runs on and the error is ctx's.
func (d *Driver) Suspend(ctx context.Context, m balance.Machine) error {
	if !canSuspend {
		return fmt.Errorf("process: suspend %v: %w on this system", m.Key(), errors.ErrUnsupported)
	}
	c, err := d.freeze(m.Key())
	if err != nil || c == nil {
		return err
	}
	// Polled, since a wait that cannot be interrupted would outlive ctx. It mostly rests at the first
	// look.
	pause := time.NewTimer(0)
	defer pause.Stop()
	for wait := 100 * time.Microsecond; ; wait = min(2*wait, 20*time.Millisecond) {
		if done, err := d.frozen(ctx, c); done {
			return err
		}
		pause.Reset(wait)
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
	}
}

// freeze sends SIGSTOP. It returns nil where there is nothing left to do.
func (d *Driver) freeze(k balance.MachineKey) (*child, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.children[k]
	switch {
	case c == nil || c.cmd == nil:
		return nil, fmt.Errorf("process: suspend %v: it does not run", k)
	case c.suspended:
		return nil, nil
	}
	if err := signalGroup(c.cmd.Process, sigStop); err != nil {
		return nil, fmt.Errorf("process: suspend %v: %w", k, err)
	}
	return c, nil
}

// frozen reports whether c has come to rest, or will not.
func (d *Driver) frozen(ctx context.Context, c *child) (done bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.children[c.key] != c {
		return true, fmt.Errorf("process: suspend %v: it ended", c.key)
	}
	if isStopped(c.cmd.Process.Pid) {
		c.suspended = true
		return true, nil
	}
	if err := ctx.Err(); err != nil {
		_ = signalGroup(c.cmd.Process, sigCont)
		return true, fmt.Errorf("process: suspend %v: %w", c.key, err)
	}
	return false, nil
}

// Inspect returns an error when m's process does not run: when it is gone, or, on Linux, when
// somebody else has stopped it with SIGSTOP. It then answers nothing, though the kernel still
// accepts connections for it. With it a Driver is an [machine.Inspector].
func (d *Driver) Inspect(_ context.Context, m balance.Machine) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.children[m.Key()]
	switch {
	case c == nil || c.cmd == nil:
		return errors.New("its process does not run")
	case seesStopped && !c.suspended && isStopped(c.cmd.Process.Pid):
		return errors.New("its process is stopped (SIGSTOP)")
	}
	return nil
}
