package hop

import (
	"github.com/ebbkit/ebb/internal/enum"
)

// Certainty says how far a try without an answer got. It decides what may be tried again.
type Certainty uint8

// The certainties, from the one that allows everything to the one that allows nothing.
const (
	CertaintyNotSent Certainty = iota // no byte of the request left for its executor
	// it was received, but by the owner's account or ours the machine never saw it
	CertaintyNotExecuted
	// it was sent; whether the machine acted on it is unknown
	CertaintyMaybeExecuted
	// the machine answered; the answer broke off or could not be used
	CertaintyResponded
)

var certaintyNames = [...]string{"not sent", "not executed", "maybe executed", "responded"}

// String returns the certainty in words.
func (c Certainty) String() string { return enum.String(certaintyNames[:], uint8(c), "certainty") }

// Failure says how a try failed. A bounce is not a failure: see [balance.Bounce].
type Failure uint8

// The failures. Behind each stands its [Certainty].
const (
	FailureNone Failure = iota // it did not
	// no connection to the owner or the machine: refused, timed out, cut while connecting (not sent)
	FailureDial
	// a pooled connection was dead before anything was written (not sent; another connection is taken,
	// and the failure is not counted)
	FailureStale
	FailureUnsent // a new connection died before anything was written (not sent)
	// the owner and this node do not accept each other's key or certificate (not executed)
	FailureDenied
	// the connection died while the body still waited for the owner's "100 Continue" (not executed)
	FailureUnread
	// the connection died after the request was written, before the answer's head was complete (maybe
	// executed)
	FailureReset
	FailureTimeout // no answer's head in time (maybe executed)
	// the answer's head is not HTTP, or larger than allowed (responded)
	FailureMalformed
	FailureAnswer // the answer broke off after its head (responded)
	// the client left, or its body broke off: nobody waits for a retry (maybe executed)
	FailureClient
	// the peer says that it did not process the stream: GOAWAY, REFUSED_STREAM (not executed)
	FailureRefused
	// a limit of this node or the owner, not of the machine: no descriptor, memory or port, or the
	// request's own deadline passed before it was sent (not sent)
	FailureLimit
	// the request's own deadline passed after it was sent (maybe executed)
	FailureDeadline
	failures
)

var failureNames = [failures]string{
	"none", "dial", "stale", "unsent", "denied", "unread", "reset", "timeout", "malformed", "answer",
	"client", "refused", "limit", "deadline",
}

// String returns the failure's name, as sent between nodes and written to logs.
func (f Failure) String() string { return enum.String(failureNames[:], uint8(f), "failure") }

var certainties = [failures]Certainty{
	FailureNone:      CertaintyResponded,
	FailureDial:      CertaintyNotSent,
	FailureStale:     CertaintyNotSent,
	FailureUnsent:    CertaintyNotSent,
	FailureLimit:     CertaintyNotSent,
	FailureDenied:    CertaintyNotExecuted,
	FailureUnread:    CertaintyNotExecuted,
	FailureRefused:   CertaintyNotExecuted,
	FailureReset:     CertaintyMaybeExecuted,
	FailureTimeout:   CertaintyMaybeExecuted,
	FailureClient:    CertaintyMaybeExecuted,
	FailureDeadline:  CertaintyMaybeExecuted,
	FailureMalformed: CertaintyResponded,
	FailureAnswer:    CertaintyResponded,
}

// Certainty returns how far a try with this failure got.
func (f Failure) Certainty() Certainty {
	if f >= failures {
		return CertaintyResponded
	}
	return certainties[f]
}

// MarshalText returns the failure's name.
func (f Failure) MarshalText() ([]byte, error) {
	return enum.Marshal("backhaul: failure", failureNames[:], uint8(f))
}

// UnmarshalText is the inverse of [Failure.MarshalText].
func (f *Failure) UnmarshalText(text []byte) error {
	return enum.Unmarshal(f, "backhaul: failure", failureNames[:], text)
}
