package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/autostart/process/internal/guard"
	"github.com/ebbkit/ebb/autostart/process/internal/parse"
	"github.com/ebbkit/ebb/balance"
)

// ErrClosed is returned by Start after Shutdown or Close.
var ErrClosed = errors.New("process: driver is closed")

// outputPatience is how long output is still read after a machine has ended. Only a process that
// left the machine's group can still hold the pipe open then, or a blocking writer of the caller
// can delay the copying.
const outputPatience = 500 * time.Millisecond

// killPatience is how long a group may take to end after SIGKILL. It ends at once unless the kernel
// holds a member, for instance in a read from a file server that does not answer; then Stop returns
// an error instead of waiting for ever.
const killPatience = 10 * time.Second

// Driver runs machines as child processes. It is a [machine.Driver]; make one with [New] and end it
// with Shutdown or Close. Its methods may be called from any goroutine; operations on one machine
// must follow one another.
type Driver struct {
	command command
	exits   exits
	spawner spawner

	mu       sync.Mutex
	children map[balance.MachineKey]*child
	closed   bool
	running  sync.WaitGroup // one for each child, until its exit is reported
}

var (
	_ machine.Driver    = (*Driver)(nil)
	_ machine.Inspector = (*Driver)(nil)
	_ machine.Describer = (*Driver)(nil)
)

// child is one process group, from the call of Start to the report of its exit. Driver.mu guards
// what changes.
type child struct {
	key     balance.MachineKey
	port    int
	addr    string
	started time.Time
	memory  memoryWatch
	gone    chan struct{} // closed when its exit has been reported

	cmd       *exec.Cmd // nil while it is being created
	printed   *output
	activity  activity
	epoch     uint64
	suspended bool
	asked     bool          // the driver was told to end it
	overdue   time.Duration // see parse.Ending
	killed    bool          // the driver sent SIGKILL
}

// Start runs the command for m, or resumes it if it is suspended. A cold start gives m.Epoch to the
// machine in its environment; after a resume the old one still stands there. Start only waits for
// the creation of the process. The machine outlives ctx.
func (d *Driver) Start(ctx context.Context, m balance.Machine) (machine.Booting, error) {
	if m.ID == "" {
		return machine.Booting{}, errors.New("process: start of a machine without an ID: set Machine.ID")
	}
	if err := ctx.Err(); err != nil {
		return machine.Booting{}, fmt.Errorf("process: start %v: %w", m.Key(), err)
	}
	c, resumed, err := d.claim(m)
	if err != nil {
		return machine.Booting{}, err
	}
	if resumed {
		return machine.Booting{Addr: c.addr, Resumed: true}, nil
	}
	if err := d.create(c, m); err != nil {
		d.mu.Lock()
		delete(d.children, m.Key())
		d.mu.Unlock()
		if c.port != 0 {
			ports.release(c.port)
		}
		close(c.gone)
		d.running.Done()
		return machine.Booting{}, fmt.Errorf("process: start %v: %w", m.Key(), err)
	}
	return machine.Booting{Addr: c.addr}, nil
}

// claim resumes m's process if it is suspended, and makes an entry for a new one if there is none.
func (d *Driver) claim(m balance.Machine) (c *child, resumed bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, false, ErrClosed
	}
	if c, ok := d.children[m.Key()]; ok {
		if !c.suspended {
			return nil, false, fmt.Errorf(
				"process: start %v at epoch %d: it already runs, since epoch %d", m.Key(), m.Epoch, c.epoch,
			)
		}
		if err := signalGroup(c.cmd.Process, sigCont); err != nil {
			return nil, false, fmt.Errorf("process: resume %v: %w", m.Key(), err)
		}
		c.suspended, c.epoch, c.activity = false, m.Epoch, activity{}
		return c, true, nil
	}
	c = &child{key: m.Key(), epoch: m.Epoch, gone: make(chan struct{})}
	d.children[m.Key()] = c
	d.running.Add(1)
	return c, false, nil
}

// create runs the command for c.
func (d *Driver) create(c *child, m balance.Machine) error {
	creator, g, err := d.spawner.means()
	if err != nil {
		return err
	}
	if c.port, err = ports.take(host); err != nil {
		return err
	}
	c.addr = net.JoinHostPort(host, strconv.Itoa(c.port))
	cmd, err := d.command.cmd(parse.Variables{strconv.Itoa(c.port), string(m.ID), m.Region, strconv.FormatUint(m.Epoch, 10), string(m.App)})
	if err != nil {
		return err
	}
	c.printed = d.command.output(m.Key().String())
	cmd.Stdout, cmd.Stderr = c.printed, c.printed
	err = creator.do(func() error {
		if err := cmd.Start(); err != nil {
			return explainStart(err)
		}
		c.started = time.Now()
		if g == nil {
			return nil
		}
		// Without delay: until the guard knows of it, only the parent-death signal protects it.
		if err := g.Add(cmd.Process.Pid); err != nil {
			_ = killGroup(cmd.Process)
			_ = cmd.Wait()
			return err
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.memory = watchMemory(cmd.Process.Pid)
	d.mu.Lock()
	c.cmd = cmd
	closed := d.closed
	if closed { // by a Close that found no process to kill yet
		c.asked = true
		d.kill(c)
	}
	d.mu.Unlock()
	go d.await(c, g)
	return nil
}

// await waits for the end of c, clears up and reports it. Where the system allows it, this happens
// after the process has ended and while it still holds its number: then no signal can hit another
// process that gets the number next.
func (d *Driver) await(c *child, g *guard.Guard) {
	defer d.running.Done()
	defer close(c.gone)
	reaped := !awaitExit(c.cmd.Process.Pid)
	if reaped {
		_ = c.cmd.Wait()
	}
	d.mu.Lock()
	delete(d.children, c.key)    // from here on nothing else signals it
	_ = killGroup(c.cmd.Process) // the processes that it has left behind
	life := time.Since(c.started)
	d.mu.Unlock()
	if g != nil {
		g.Remove(c.cmd.Process.Pid)
	}
	if !reaped {
		_ = c.cmd.Wait() // its error says what ProcessState says, or that output was cut off
	}

	c.printed.end()

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

// Stop asks m's process group to end with SIGTERM and kills it with SIGKILL after
// Config.StopTimeout, or as soon as ctx ends: a caller in a hurry ends it. Suspended machines are
// resumed for that. Stop returns when the machine is gone; an error means that even SIGKILL could
// not end it. Its exit is reported if it ends later.
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

// Shutdown stops all machines at once, each as Stop does, and leaves nothing behind: no process,
// thread or goroutine. When ctx ends it kills the machines that are left. Watches go on, and report
// the machines that end. The error names machines that could not be ended.
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
		// the thread and the guard stay: only they end those machines with this process
		return err
	}
	d.running.Wait()
	d.spawner.close()
	return nil
}

// Close kills all machines at once and leaves nothing behind, as Shutdown does. Closing twice is
// harmless.
func (d *Driver) Close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return d.Shutdown(ctx)
}

// Suspend stops m's process group with SIGSTOP and returns when it has stopped. If ctx ends first,
// the machine runs on and the error is ctx's.
func (d *Driver) Suspend(ctx context.Context, m balance.Machine) error {
	if !canSuspend {
		return fmt.Errorf("process: suspend %v: %w on this system", m.Key(), errors.ErrUnsupported)
	}
	c, err := d.freeze(m.Key())
	if err != nil || c == nil {
		return err
	}
	// Polled, since a wait that cannot be interrupted would outlive ctx. The group has mostly stopped
	// at the first look.
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

// freeze sends SIGSTOP. It returns nil if there is nothing left to do.
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

// frozen reports whether c has stopped, or will not.
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
// somebody else has stopped it with SIGSTOP. A stopped process answers nothing, though the kernel
// still accepts connections for it. With Inspect a Driver is a [machine.Inspector].
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

// Describe returns the last line that m's processes have printed and, on Linux, where they accept
// connections and how long they have done nothing. With Describe a Driver is a [machine.Describer].
func (d *Driver) Describe(_ context.Context, m balance.Machine) (machine.Description, error) {
	d.mu.Lock()
	c := d.children[m.Key()]
	if c == nil || c.cmd == nil {
		d.mu.Unlock()
		return machine.Description{}, errors.New("its process does not run")
	}
	pid, printed := c.cmd.Process.Pid, c.printed
	d.mu.Unlock()
	// The process may end meanwhile, and its number may even be given to another: then the result is
	// useless but harmless.
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

// Watch calls exited for every machine that ends, until ctx ends, and returns nil. If several
// Watches run, each reports every machine that ends. A machine that ended while there was no Watch
// is reported to the next one; the last 10,000 of these are kept. A start has one exit and a
// suspension has none, so the epoch is that of the last start or resume. Out of memory is detected
// by a heuristic: the machine got a SIGKILL that this driver did not send, and the system's count
// of processes killed for lack of memory (of the machine's control group, or of the host where that
// cannot be read) has grown since its start.
func (d *Driver) Watch(ctx context.Context, exited func(machine.Exit)) error {
	d.exits.watch(ctx, exited)
	return nil
}
