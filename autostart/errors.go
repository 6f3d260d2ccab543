package autostart

import (
	"errors"
	"fmt"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// The classes of failure of [Autostart.Acquire]. Match them with [errors.Is]; the error is an
// [*Error] with the details.
var (
	// ErrStart: the app's machines fail to start. The breaker is open; come back after RetryAfter.
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

// Error says why a request got no slot.
type Error struct {
	App   balance.AppID
	Class error // one of the errors of this package
	// the reason for people: why the start failed; empty if there is none
	Fault  string
	Waited time.Duration // in the waiting room
	After  time.Duration // when it makes sense to come back; 0 is unknown
	Err    error         // the balancer's error, or nil
}

// Unwrap returns the class and the balancer's error.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Class}
	}
	return []error{e.Class, e.Err}
}

// RetryAfter returns After.
func (e *Error) RetryAfter() time.Duration { return e.After }

// Cause returns the class in one word, for metrics and logs: "start-failed", "asleep",
// "queue-full", "queue-timeout" or "shutting-down".
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

// Reason returns the reason in a sentence: the class, and the fault if there is one. It is for
// people who run the app, and may name machines.
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
