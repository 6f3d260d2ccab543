// Package process drives machines that are child processes of this one: the driver for examples,
// tests and single hosts.
//
// Every start runs the same command, without a shell, in a process group of its own, with a free
// port (20000 to 29999) it shall listen on in its environment and, where the command names it, in
// its words:
//
//	driver, err := process.New(process.Config{Command: "python3 -m http.server $PORT --bind 127.0.0.1"})
//
// The machine is the process of that command: when it ends, the rest of its group is killed. So the
// command must not put itself into the background. A suspended machine is a stopped process group
// (SIGSTOP), which keeps its memory, its port and its connections.
//
// # No orphans
//
// The machines end with this process, even when it is killed by SIGKILL. Two things see to it. The
// kernel sends each child SIGKILL when the thread that created it ends (Linux only; so one thread,
// which lives as long as the driver, creates them all), and a small helper process kills the whole
// group, grandchildren included, when a pipe from this process ends. The helper is this binary
// executed again, under the name ebb-guard, which happens in an init function before main; see
// Config.NoGuard. So the next process finds no machine that runs, and the driver lists none: it is
// no [machine.Lister]. Out of reach is what leaves its process group on purpose, such as a daemon that
// calls setsid.
//
// # Systems
//
// On Linux everything works as documented. On darwin there is no parent-death signal and no
// out-of-memory report, and Suspend does not wait until the process has come to rest. Elsewhere,
// Windows included, a machine is one process without a group: Stop kills it at once, its own
// children and a killed parent's machines stay, and Suspend returns an error that matches
// [errors.ErrUnsupported].
package process

import (
	"fmt"
	"io"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Config says what a [Driver] runs. One of Command and Argv must be set; everything else may be
// zero.
//
// In the words of the command and in the values of Env, $PORT, $MACHINE, $REGION, $EPOCH and $APP
// (or ${PORT} and so on) stand for what the machine is started with. Other names after a dollar
// sign are left alone: nothing is taken from this process's environment. The machine also finds the
// five in its environment, besides all that this process has in its own.
type Config struct {
	// Command is the program and its arguments in one string. Blanks separate words; 'single' and
	// "double" quotes and a backslash keep blanks together as in a shell, but there is no shell: no
	// pipes, no &&, no globs, no redirection. Where paths have backslashes, use Argv.
	Command string
	// Argv is the same as words, for callers that have them apart. The first one is the program.
	Argv []string
	// Env holds KEY=value pairs that are added to the environment or replace what is there.
	Env []string
	// Dir is the machines' working directory; empty means this process's.
	Dir string
	// Output receives what the machines print, both streams of all of them, line by line and with
	// the machine's app and ID before each line; nil discards it. Each write is one line, and writes
	// never overlap. A writer that blocks holds up the machines that print, and so does more than 16
	// MiB in a second; its errors are ignored.
	//
	// The last 4 KiB of what a machine prints are kept: the last line stands in the reason of its
	// end, and in [Driver.Describe].
	Output io.Writer

	// StopTimeout is how long a machine may take to end after SIGTERM, which goes to its whole group,
	// until that gets SIGKILL; 0 means 5 s, and a negative one means SIGKILL at once.
	StopTimeout time.Duration

	// NoGuard does without the helper process; then grandchildren outlive this process when it is
	// killed, and outside of Linux children do too. It is for programs which cannot be executed again,
	// such as a shared library in a foreign one.
	NoGuard bool
}

const (
	defaultStopTimeout = 5 * time.Second
	// host is where machines listen: whoever drives child processes of its own dials them here.
	host = "127.0.0.1"
)

// New checks c and returns a driver, which starts nothing before the first Start. The error names
// the field and what to do about it; a program that does not exist is found here, so that a caller
// can end with one line at start-up.
func New(c Config) (*Driver, error) {
	d := &Driver{children: make(map[balance.MachineKey]*child)}
	if err := d.command.resolve(c); err != nil {
		return nil, fmt.Errorf("process: %w", err)
	}
	d.spawner.unguarded = c.NoGuard
	return d, nil
}
