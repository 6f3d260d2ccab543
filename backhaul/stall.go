package backhaul

import (
	"fmt"
	"time"

	"github.com/ebbkit/ebb/backhaul/internal/hop"
	"github.com/ebbkit/ebb/balance"
)

// StallError says that a request was ended because nothing had moved for as long as its app allows.
// It is no fault of the machine. Of a body it becomes 408, of an upgrade 504; an answer that nobody
// reads just breaks off.
type StallError struct {
	App   balance.AppID
	Stall Stall
	After time.Duration // the bound that has passed
}

// Error says what did not move.
func (e *StallError) Error() string {
	what := "the client sent nothing of the request's body, or next to nothing,"
	switch e.Stall {
	case StallAnswer:
		what = "the client read nothing of the answer"
	case StallUpgrade:
		what = "the machine did not answer the request for an upgrade"
	}
	return fmt.Sprintf("backhaul: app %q: %s for %v", e.App, what, e.After)
}

// StatusCode returns what the client is answered; 0 when it has been answered already.
func (e *StallError) StatusCode() int {
	switch e.Stall {
	case StallBody:
		return 408
	case StallUpgrade:
		return 504
	}
	return 0
}

// Cause returns the cause in one word.
func (e *StallError) Cause() string {
	if e.Stall == hop.StallUpgrade {
		return CauseTimeout
	}
	return CauseStalled
}
