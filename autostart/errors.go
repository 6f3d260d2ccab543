package autostart

import (
	"errors"
	"fmt"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// The classes of failure of [Autostart.Acquire]. Match with [errors.Is]; the error is an [*Error] with the particulars.
var (
	// ErrStart: the app's machines do not come up. The breaker is open; come back after RetryAfter.
	ErrStart = errors.New("no machine could be started")
	// ErrAsleep: nothing runs, and nothing here may start anything.
	ErrAsleep = errors.New("no machine runs and none is started")
	// ErrCrowded: the waiting room is full.
	ErrCrowded = errors.New("the waiting room is full")
	// ErrPatience: no slot came in time.
	ErrPatience = errors.New("no slot in time")
	// ErrClosed: this node is shutting down; another may serve.
	ErrClosed = errors.New("shutting down")
)

// TryAgain is the error of a [Driver] that passes by itself: a limit on calls, a service that is
// being restarted. It says nothing about the machine. A start is tried again while it is wanted and
// counts as under way meanwhile; no failure is counted.
type TryAgain struct {
	// After is how long the driver is not to be called again for this machine; 0 leaves that to the
	// caller. With more than 3 min it is an ordinary error.
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

// RetryAfter returns After. What has this method is a passing error to those who do not know this
// package.
func (e TryAgain) RetryAfter() time.Duration { return e.After }

// passing reports whether err passes by itself, and when it makes sense to try again.
func passing(err error) (after time.Duration, ok bool) {
	if e, ok := errors.AsType[TryAgain](err); ok {
		return e.After, true
	}
	if e, ok := errors.AsType[*TryAgain](err); ok {
		return e.After, true
	}
	return 0, false
}

// Error says why a request got no slot.
type Error struct {
	App    balance.AppID
	Class  error         // one of the errors of this package
	Fault  string        // what is behind it, for people: why the start failed; empty when there is nothing to say
	Waited time.Duration // in the waiting room
	After  time.Duration // when it makes sense to come back; 0 is unknown
	Err    error         // what the balancer said, or nil
}

// Unwrap returns the class and what the balancer said.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Class}
	}
	return []error{e.Class, e.Err}
}

// RetryAfter returns After.
func (e *Error) RetryAfter() time.Duration { return e.After }

// Cause returns the class in one word, for metrics and logs: "start-failed", "asleep", "queue-full", "queue-timeout" or
// "shutting-down".
func (e *Error) Cause() string {
	switch e.Class {
	case ErrStart:
		return "start-failed"
	case ErrAsleep:
		return "asleep"
	case ErrCrowded:
		return "queue-full"
	case ErrPatience:
		return "queue-timeout"
	case ErrClosed:
		return "shutting-down"
	}
	return ""
}

// Reason says in a sentence why: the class, and the fault where there is one. It is for people who run the app, and may name
// machines.
func (e *Error) Reason() string {
	s := e.Class.Error()
	if e.Fault != "" {
		s += ": " + e.Fault
	}
	return s
}

// Error implements error.
func (e *Error) Error() string {
	s := fmt.Sprintf("autostart: app %q: %s", e.App, e.Reason())
	if e.Waited > 0 {
		s += fmt.Sprintf(", after waiting for %v", e.Waited.Round(time.Millisecond))
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}
