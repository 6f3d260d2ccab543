package backhaul

import (
	"errors"
	"fmt"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/backhaul/internal/tcp"
	"github.com/ebbkit/ebb/balance"
)

// The causes: one word each, for the cause header, metrics and logs. A [Picker]'s error may bring its own, by a method
// Cause() string; so may an error of Config.Route.
const (
	CauseNoApp     = "no-app"      // the fleet does not know the app
	CauseNoMachine = "no-machine"  // no machine can take the request
	CauseFull      = "full"        // every machine is at its hard limit
	CauseMachine   = "machine"     // the machine, or the way to it, failed
	CauseTimeout   = "timeout"     // no answer in time, or the request's own deadline passed
	CauseRequest   = "bad-request" // the client's body broke off, or the request is not served
	CauseTooLarge  = "too-large"   // the client's body is larger than a limit set before
	CauseLimit     = "limit"       // this node, or the machine's owner, has no more descriptors, memory or ports
	CauseClient    = "client"      // the client left
	CauseStalled   = "stalled"     // the client sent no body, or read no answer, for too long
	CauseInternal  = "internal"    // a fault of the proxy's set-up
)

// UnavailableError says that no machine took a request: 503, come back after RetryAfter; or 404, when the fleet does not know
// the app.
type UnavailableError struct {
	App     balance.AppID
	Tries   int   // how many machines were tried before
	Bounces int   // how many of them refused
	Err     error // what the [Picker] said; where there is none, the budget of bounces is spent
}

// Error says why, for people who run the app.
func (e *UnavailableError) Error() string {
	switch {
	case e.Err == nil:
		return fmt.Sprintf("backhaul: app %q is busy: %d machines refused the request", e.App, e.Bounces)
	case e.Bounces > 0:
		return fmt.Sprintf("%v (after %d bounces)", e.Err, e.Bounces)
	}
	return e.Err.Error()
}

// Unwrap returns Err.
func (e *UnavailableError) Unwrap() error { return e.Err }

// RetryAfter returns what the Picker's error said, or a second.
func (e *UnavailableError) RetryAfter() time.Duration {
	var r interface{ RetryAfter() time.Duration }
	if e.Err != nil && errors.As(e.Err, &r) && r.RetryAfter() > 0 {
		return r.RetryAfter()
	}
	return time.Second
}

// Cause returns the cause in one word.
func (e *UnavailableError) Cause() string {
	var c interface{ Cause() string }
	switch {
	case e.Err == nil:
		return CauseFull
	case tcp.IsTimeout(e.Err):
		return CauseTimeout
	case errors.As(e.Err, &c):
		return c.Cause()
	case errors.Is(e.Err, balance.ErrNoApp):
		return CauseNoApp
	case errors.Is(e.Err, balance.ErrFull):
		return CauseFull
	}
	return CauseNoMachine
}

// MachineError says that a machine, or the way to it, failed and that the request may not or cannot be tried again. By the
// certainty of its Failure: 503 when the machine has not seen the request, come back after RetryAfter; else 502, or 504 when
// there was no answer in time. With [FailureLimit], [FailureDeadline] and [FailureDenied] it is not the
// machine that failed: the last is between its owner and this node, and says that one of them is
// not set up right. It counts against the machine all the same where this node picks, and nowhere
// else: else machines that nobody gets to would look idle, and attract every request.
type MachineError struct {
	App     balance.AppID
	Machine balance.MachineID
	Owner   balance.NodeID
	Failure Failure
	Tries   int
	Err     error
}

// Error names the machine and says what happened to it.
func (e *MachineError) Error() string {
	return fmt.Sprintf("backhaul: machine %q of app %q: %s (%s): %v", e.Machine, e.App, e.Failure, e.Failure.Certainty(), e.Err)
}

// Unwrap returns Err.
func (e *MachineError) Unwrap() error { return e.Err }

// Timeout reports whether the machine did not answer in time.
func (e *MachineError) Timeout() bool {
	return e.Failure == hop.FailureTimeout || e.Failure == hop.FailureDeadline
}

// unsent reports whether the machine has not seen the request.
func (e *MachineError) unsent() bool { return e.Failure.Certainty() <= hop.CertaintyNotExecuted }

// RetryAfter returns a second where the machine has not seen the request, else 0: it may have been executed.
func (e *MachineError) RetryAfter() time.Duration {
	if e.unsent() {
		return time.Second
	}
	return 0
}

// Cause returns the cause in one word.
func (e *MachineError) Cause() string {
	switch {
	case e.Timeout(), e.Failure == hop.FailureLimit && tcp.IsTimeout(e.Err):
		return CauseTimeout
	case e.Failure == hop.FailureLimit:
		return CauseLimit
	case e.Failure == hop.FailureDenied:
		return CauseInternal
	}
	return CauseMachine
}

// methodError refuses a method.
type methodError string

const errConnect = methodError("backhaul: CONNECT is not served: an app is reached by its requests, not through a tunnel")

func (e methodError) Error() string { return string(e) }

func (methodError) StatusCode() int { return 501 }

func (methodError) Cause() string { return CauseRequest }

// ownerError is a failure as a machine's owner tells of it.
type ownerError struct {
	owner balance.NodeID
	words string
}

func (e *ownerError) Error() string { return fmt.Sprintf("owner %q says: %s", e.owner, e.words) }
