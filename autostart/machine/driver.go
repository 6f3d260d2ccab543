package machine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Driver makes machines run. Only the machine's owner calls it, one operation per machine at a
// time; operations on different machines may run at once. Package process has a driver for child
// processes.
type Driver interface {
	// Start boots m, or resumes it where it is suspended, and returns as soon as the machine exists:
	// finding out when it is ready is not the driver's task. A call that takes longer than 30 s is
	// given up; it should end with ctx. m.Epoch is the epoch of this start. The machine outlives ctx.
	// Start on a machine that already runs is an error.
	//
	// After an error nothing of m runs, or Stop ends it, and Start may be called again, for the
	// same epoch too. [TryAgain] says that the error passes by itself. After any other the driver
	// is called up to three times more within some seconds; then the start has failed.
	Start(ctx context.Context, m balance.Machine) (Booting, error)
	// Stop ends m and returns when it is gone. Stopping a machine that does not run is no error.
	Stop(ctx context.Context, m balance.Machine) error
	// Suspend freezes m so that a later Start resumes it. A driver that cannot returns an error
	// matching [errors.ErrUnsupported]; the machine then still runs. Suspending a machine that does
	// not run is an error.
	Suspend(ctx context.Context, m balance.Machine) error
	// Watch calls exited for every machine that ends, whether Stop ended it or not, until ctx ends; it
	// then returns nil. exited does not block.
	Watch(ctx context.Context, exited func(Exit)) error
}

// Inspector may be implemented by a [Driver] that knows more of a machine than its address tells,
// such as that its process is stopped, or that it has ended and nobody has reported it.
type Inspector interface {
	// Inspect returns nil when m runs, in the start of m.Epoch, and an error that says what is wrong
	// when it does not. It is called for machines that were ready and have passed their check, as
	// often as they are checked, and heeds ctx. An error counts as a failed check; one matching
	// [errors.ErrUnsupported] counts as no answer.
	Inspect(ctx context.Context, m balance.Machine) error
}

// Describer may be implemented by a [Driver] that sees more of a machine than its address tells. It
// is asked about starts that take long, so that the row's Fault can tell people what they lack. A
// start fails when its machine listens elsewhere and not at its address, or does nothing for long.
type Describer interface {
	// Describe returns what can be seen of m now. It is called while m starts, and heeds ctx.
	Describe(ctx context.Context, m balance.Machine) (Description, error)
}

// Lister may be implemented by a [Driver] whose machines outlive the process that started them.
// When a [Starter] begins, it takes over the machines that already run, see [Starter.Run].
type Lister interface {
	// List returns the machines that exist, whoever started them: those that run, boot or are
	// suspended. It heeds ctx. After an error it is called again.
	List(ctx context.Context) ([]Running, error)
}

// Running is a machine that exists, as its driver sees it.
type Running struct {
	App       balance.AppID
	ID        balance.MachineID
	Epoch     uint64 // of its last start or resume; its [Exit] carries the same
	Addr      string // host:port where it listens, or will
	Suspended bool
}

// Description is what can be seen of a machine from outside.
type Description struct {
	// Listens are the addresses, ip:port, at which the machine accepts TCP connections.
	Listens []string
	// Known says that Listens is complete; otherwise an empty list says nothing.
	Known bool
	// Idle is how long the machine has done nothing: used no processor time and written nothing. It is
	// 0 when the machine is busy, or when that is not known. A start that is idle, listens nowhere and
	// has taken longer than is known of its app is doubted, see [balance.Machine.Doubtful].
	Idle time.Duration
	// Output is the last line that the machine has written; empty where there is none.
	Output string
}

// Booting is what a driver knows when a machine has begun to boot.
type Booting struct {
	Addr    string // host:port where the machine will listen
	Resumed bool   // it was suspended, and is resumed; else it boots
}

// Exit is the end of a machine.
type Exit struct {
	App    balance.AppID
	ID     balance.MachineID
	Epoch  uint64 // of the start or resume that ended, so that a late report cannot hurt a newer one
	Code   int    // exit code; -1 when a signal ended it
	Signal string // the signal that ended it, such as "killed"; empty when it exited
	Reason string // a sentence for people: "exit status 1", "killed by signal: killed (out of memory)"
}

// TryAgain is an error of a [Driver] that passes by itself: a limit on calls, a service that is
// being restarted. It says nothing about the machine. A start is tried again while it is wanted and
// counts as under way meanwhile; no failure is counted.
type TryAgain struct {
	// After is how long the driver must not be called again for this machine; 0 leaves that to the
	// caller. If it is more than 3 min, the error counts as an ordinary one.
	After time.Duration
	Err   error // what happened
}

// Error implements error.
func (e TryAgain) Error() string {
	s := "try again"
	if e.After > 0 {
		s += fmt.Sprintf(" after %v", e.After)
	}
	if e.Err != nil {
		return e.Err.Error() + " (" + s + ")"
	}
	return s
}

// Unwrap returns Err.
func (e TryAgain) Unwrap() error { return e.Err }

// RetryAfter returns After. Code that does not know this package can recognize a passing error by
// this method.
func (e TryAgain) RetryAfter() time.Duration { return e.After }

// passing reports whether err passes by itself, and after how long it makes sense to try again.
func passing(err error) (after time.Duration, ok bool) {
	if e, ok := errors.AsType[TryAgain](err); ok {
		return e.After, true
	}
	if e, ok := errors.AsType[*TryAgain](err); ok {
		return e.After, true
	}
	return 0, false
}
