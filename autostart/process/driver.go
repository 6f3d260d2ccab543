package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/autostart/process/internal/guard"
	"github.com/ebbkit/ebb/autostart/process/internal/parse"
	"github.com/ebbkit/ebb/balance"
)

// ErrClosed is returned by Start after Shutdown or Close.
var ErrClosed = errors.New("process: driver is closed")

// outputPatience is how long output is read on after a machine has ended. Only a process that left
// the machine's group can still hold its end of the pipe, or a writer of the caller's that blocks.
const outputPatience = 500 * time.Millisecond

// Driver runs machines as child processes. It is an [machine.Driver]; make one with [New] and end
// it with Shutdown or Close. Its methods may be called from any goroutine; operations on one
// machine must follow one another.
type Driver struct {
	command command
	exits   exits

	mu       sync.Mutex
	children map[balance.MachineKey]*child
	closed   bool
	running  sync.WaitGroup // one for each child, until its exit is reported

	// The means to create children, made by the first Start. creating is held while they are made and
	// ended.
	creating sync.Mutex
	creator  *creator
	guard    *guard.Guard // nil with Config.NoGuard
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
	flush     func() // passes on what it has printed last
	epoch     uint64
	suspended bool
	asked     bool          // the driver was told to end it
	overdue   time.Duration // see ending
	killed    bool          // the driver sent SIGKILL
}

// Start runs the command for m, or lets it run on where it is suspended. m.Epoch is given to the
// machine in its environment at a cold start; after a resume it still has the old one there. It
// waits for nothing but the creation of the process. The machine outlives ctx.
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

// claim resumes m's process where it is suspended, and makes an entry for a new one where there is
// none.
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
	creator, g, err := d.means()
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
	c.printed, cmd.Stdout, cmd.Stderr, c.flush = d.command.streams(fmt.Sprintf("%v | ", m.Key()))
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
	if closed { // by a Close that found nothing to kill yet
		c.asked = true
		d.kill(c)
	}
	d.mu.Unlock()
	go d.await(c, g)
	return nil
}

// means returns what children are created with. The first call makes it.
func (d *Driver) means() (*creator, *guard.Guard, error) {
	d.creating.Lock()
	defer d.creating.Unlock()
	if d.creator != nil {
		return d.creator, d.guard, nil
	}
	if !d.command.noGuard {
		g, err := guard.Start()
		if err != nil {
			return nil, nil, fmt.Errorf(
				"%w: the program must be able to execute itself again; Config.NoGuard does without", err,
			)
		}
		d.guard = g
	}
	d.creator = newCreator()
	return d.creator, d.guard, nil
}

// cmd returns the command for a machine with these variables.
func (c *command) cmd(v parse.Variables) (*exec.Cmd, error) {
	words := make([]string, len(c.words))
	for i, w := range c.words {
		words[i] = v.Expand(w)
	}
	path := c.path
	if path == "" {
		var err error
		if path, err = lookPath(words[0], c.dir); err != nil {
			return nil, fmt.Errorf("%s: %w", c.field, err)
		}
	}
	env := os.Environ()
	for _, kv := range c.env {
		env = append(env, v.Expand(kv))
	}
	return &exec.Cmd{
		Path:        path,
		Args:        words,
		Env:         append(env, v.Environ()...),
		Dir:         c.dir,
		WaitDelay:   outputPatience,
		SysProcAttr: attributes(),
	}, nil
}

// Watch calls exited for every machine that ends, until ctx ends, and returns nil. Each of several
// Watches is told of every machine that ends while it runs. A machine that ended while there was no
// Watch is reported to the next one; the last 10,000 such are kept. A start has one exit; a
// suspension none, so the epoch is that of the last start or resume. Out of memory is told by a
// heuristic: the machine got a SIGKILL that this driver did not send, and the system's count of
// processes killed for want of memory (of the machine's control group, or of the host where that
// cannot be read) has grown since its start.
func (d *Driver) Watch(ctx context.Context, exited func(machine.Exit)) error {
	d.exits.watch(ctx, exited)
	return nil
}
