package machine

import (
	"errors"
	"fmt"
	"time"
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
