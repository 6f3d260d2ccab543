package process

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/autostart/process/internal/guard"
	"github.com/ebbkit/ebb/autostart/process/internal/parse"
	"github.com/ebbkit/ebb/balance"
)

// killPatience is how long a group that got SIGKILL may take to go. It goes at once unless the
// kernel holds a member, for instance in a read from a file server that does not answer; then Stop
// reports that instead of waiting for ever.
const killPatience = 10 * time.Second

// Stop asks m's process group to end with SIGTERM and kills it with SIGKILL after
// Config.StopTimeout, or as soon as ctx ends: a caller in a hurry ends it. Suspended machines are
// woken for that. It returns when the machine is gone; an error means that even SIGKILL could not
// end it, and that its exit will be reported if it goes later.
func (d *Driver) Stop(ctx context.Context, m balance.Machine) error {
	d.mu.Lock()
	c := d.children[m.Key()]
	if c != nil && c.cmd == nil {
		d.mu.Unlock()
		return fmt.Errorf("process: stop %v: its Start has not returned", m.Key())
	}
	d.mu.Unlock()
	if c == nil {
		return nil
	}
	return d.end(ctx, c)
}

// end stops c and waits for it.
func (d *Driver) end(ctx context.Context, c *child) error {
	begin := time.Now()
	polite := d.command.stopTimeout > 0 && ctx.Err() == nil
	d.mu.Lock()
	if d.children[c.key] == c {
		c.asked = true
		if polite {
			_ = signalGroup(c.cmd.Process, syscall.SIGTERM)
			// a stopped process would keep the first signal for later
			_ = signalGroup(c.cmd.Process, sigCont)
		}
	}
	d.mu.Unlock()
	if d.command.stopTimeout > 0 {
		grace := time.NewTimer(d.command.stopTimeout)
		defer grace.Stop()
		select {
		case <-c.gone:
			return nil
		case <-ctx.Done():
		case <-grace.C:
		}
	}
	d.mu.Lock()
	if d.children[c.key] == c {
		if polite {
			c.overdue = max(time.Since(begin).Round(time.Millisecond), time.Millisecond)
		}
		d.kill(c)
	}
	d.mu.Unlock()
	patience := time.NewTimer(killPatience)
	defer patience.Stop()
	select {
	case <-c.gone:
		return nil
	case <-patience.C:
		return fmt.Errorf(
			"process: stop %v: process %d is still there %v after SIGKILL: the kernel holds it", c.key,
			c.cmd.Process.Pid, killPatience,
		)
	}
}

// kill sends SIGKILL to c's group. d.mu is held and c is among d.children.
func (d *Driver) kill(c *child) {
	c.killed = true
	_ = killGroup(c.cmd.Process)
}

// Shutdown stops all machines as Stop does, all at once, and leaves nothing behind: no process,
// thread or goroutine. When ctx ends it hurries: what is left is killed. Watches stay; they are
// told of the machines that end. The error names machines that could not be ended.
func (d *Driver) Shutdown(ctx context.Context) error {
	d.mu.Lock()
	d.closed = true
	var left []*child
	for _, c := range d.children {
		if c.cmd != nil { // else its Start kills it
			left = append(left, c)
		}
	}
	d.mu.Unlock()
	errs := make([]error, len(left))
	var ends sync.WaitGroup
	for i, c := range left {
		ends.Go(func() { errs[i] = d.end(ctx, c) })
	}
	ends.Wait()
	if err := errors.Join(errs...); err != nil {
		// the thread and the guard stay: they are all that binds those machines to this process
		return err
	}
	d.running.Wait()
	d.creating.Lock()
	defer d.creating.Unlock()
	if d.creator != nil {
		d.creator.close()
		d.creator = nil
	}
	if d.guard != nil {
		d.guard.Close()
		d.guard = nil
	}
	return nil
}

// Close kills all machines at once and leaves nothing behind, as Shutdown does. Closing twice is
// harmless.
func (d *Driver) Close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return d.Shutdown(ctx)
}

// await waits for the end of c, clears up and reports it. Where the system allows it, this happens
// while the process has ended but still holds its number: then no signal can meet a stranger who
// got the number next.
func (d *Driver) await(c *child, g *guard.Guard) {
	defer d.running.Done()
	defer close(c.gone)
	reaped := !awaitExit(c.cmd.Process.Pid)
	if reaped {
		_ = c.cmd.Wait()
	}
	d.mu.Lock()
	delete(d.children, c.key)    // from here on nothing else signals it
	_ = killGroup(c.cmd.Process) // what it has left behind
	life := time.Since(c.started)
	d.mu.Unlock()
	if g != nil {
		g.Remove(c.cmd.Process.Pid)
	}
	if !reaped {
		_ = c.cmd.Wait() // its error says what ProcessState says, or that output was cut off
	}

	c.flush()

	e := parse.Ending{Life: life, Asked: c.asked, Overdue: c.overdue, Said: c.printed.lastLine()}
	e.Code, e.Signal = outcome(c.cmd.ProcessState)
	e.Memory = !c.killed && e.Signal == killedName && c.memory.killed()
	ports.release(c.port)
	d.exits.add(
		machine.Exit{
			App: c.key.App, ID: c.key.ID, Epoch: c.epoch, Code: e.Code, Signal: e.Signal, Reason: e.Reason(),
		},
	)
}
