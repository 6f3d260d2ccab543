// Package process drives machines that are child processes of this one: the driver for examples,
// tests and single hosts.
//
// Every start runs the same command, without a shell, in a process group of its own, with a free
// port (20000 to 29999) to listen on. The port stands in its environment and, if the command refers
// to it, in its arguments:
//
//	driver, err := process.New(process.Config{
//		Command: "python3 -m http.server $PORT --bind 127.0.0.1",
//	})
//
// The machine is the process of that command: when it ends, the rest of its group is killed. So the
// command must not put itself into the background. A suspended machine is a stopped process group
// (SIGSTOP), which keeps its memory, its port and its connections.
//
// # No orphans
//
// The machines end with this process, even when it is killed by SIGKILL. Two mechanisms ensure
// that. The kernel sends each child SIGKILL when the thread that created it ends (Linux only; so
// one thread, which lives as long as the driver, creates them all), and a small helper process
// kills the whole group, grandchildren included, when a pipe from this process ends. The helper is
// this binary executed again, under the name ebb-guard, which happens in an init function before
// main; see Config.NoGuard. So the next process finds no running machine, and the driver is no
// [machine.Lister]. The driver cannot reach processes that leave their group on purpose, such as a
// daemon that calls setsid.
//
// # Systems
//
// On Linux everything works as documented. On darwin there is no parent-death signal and no
// out-of-memory report, and Suspend does not wait until the process has stopped. Elsewhere, Windows
// included, a machine is one process without a group: Stop kills it at once, its own children and a
// killed parent's machines stay, and Suspend returns an error that matches [errors.ErrUnsupported].
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
	// Argv is the same as separate words. The first one is the program.
	Argv []string
	// Env holds KEY=value pairs that are added to the environment or replace what is there.
	Env []string
	// Dir is the machines' working directory; empty means this process's.
	Dir string
	// Output receives what the machines print, both streams of all of them, line by line and with the
	// machine's app and ID before each line; nil discards it. Each write is one line, and writes never
	// overlap. A writer that blocks holds up the machines that print; so does printing more than 16
	// MiB in a second. Its errors are ignored.
	//
	// The last 4 KiB of what a machine prints are kept: the last line appears in the reason of its
	// exit, and in [Driver.Describe].
	Output io.Writer

	// StopTimeout is how long a machine may take to end after SIGTERM before it gets SIGKILL; both go
	// to its whole group. 0 means 5 s; negative means SIGKILL at once.
	StopTimeout time.Duration

	// NoGuard turns the helper process off. Then grandchildren outlive this process when it is killed,
	// and outside of Linux children do too. It is for programs that cannot be executed again, such as
	// a shared library in a program of somebody else.
	NoGuard bool
}

const (
	defaultStopTimeout = 5 * time.Second
	// host is where machines listen, and where this process dials them.
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
