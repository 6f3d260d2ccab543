package backhaul

import "github.com/ebbkit/ebb/backhaul/internal/hop"

// Certainty says how far a try that brought no answer got. It rules what may be tried again: see
// the package comment. It has the methods String, MarshalText and UnmarshalText.
type Certainty = hop.Certainty

// The certainties, from the one that allows everything to the one that allows nothing.
const (
	// no byte of the request left for whoever would execute it
	CertaintyNotSent = hop.CertaintyNotSent
	// it was received, and by the owner's word or ours the machine never saw it
	CertaintyNotExecuted = hop.CertaintyNotExecuted
	// it was sent; whether the machine acted on it nobody knows
	CertaintyMaybeExecuted = hop.CertaintyMaybeExecuted
	// the machine answered; the answer broke off or could not be used
	CertaintyResponded = hop.CertaintyResponded
)

// Failure says how a try failed. Its method Certainty says how far such a try got; String,
// MarshalText and UnmarshalText are its names in logs and metrics. A bounce is no failure: see
// [balance.Bounce].
type Failure = hop.Failure

// The failures, with the certainty of each.
const (
	// it did not fail
	FailureNone = hop.FailureNone
	// no connection to the owner or the machine: refused, timed out, cut while connecting (not sent)
	FailureDial = hop.FailureDial
	// a pooled connection was dead before anything was written; another connection is taken, and it
	// counts for nothing (not sent)
	FailureStale = hop.FailureStale
	// a new connection died before anything was written (not sent)
	FailureUnsent = hop.FailureUnsent
	// the owner and this node do not accept each other's key or certificate (not executed)
	FailureDenied = hop.FailureDenied
	// the connection died while the body still waited for the owner's word (not executed)
	FailureUnread = hop.FailureUnread
	// the connection died after the request was written, before the answer's head was complete
	// (maybe executed)
	FailureReset = hop.FailureReset
	// no answer's head in time (maybe executed)
	FailureTimeout = hop.FailureTimeout
	// the answer's head is not HTTP, or larger than allowed (responded)
	FailureMalformed = hop.FailureMalformed
	// the answer broke off after its head (responded)
	FailureAnswer = hop.FailureAnswer
	// the client left, or its body broke off: nobody is there to retry for (maybe executed)
	FailureClient = hop.FailureClient
	// the peer says that it did not process the stream: GOAWAY, REFUSED_STREAM (not executed)
	FailureRefused = hop.FailureRefused
	// a limit of this node or the owner, not of the machine: no descriptor, memory or port, or the
	// request's own deadline passed before it was sent (not sent)
	FailureLimit = hop.FailureLimit
	// the request's own deadline passed after it was sent (maybe executed)
	FailureDeadline = hop.FailureDeadline
)

// Stall says what a request was waiting for when it was ended for want of progress. It has the
// methods String, MarshalText and UnmarshalText.
type Stall = hop.Stall

// The stalls. Each has a bound in the app's row.
const (
	// the client sent nothing of a body, or next to nothing: balance.App.BodyPause
	StallBody = hop.StallBody
	// the client read nothing of the answer: balance.App.AnswerPause
	StallAnswer = hop.StallAnswer
	// the machine did not answer: balance.App.UpgradeWait
	StallUpgrade = hop.StallUpgrade
)

// Freed says how the slot of a request that its client has left became free. Only FreedAnswered and
// FreedEnded mean that the machine was done for certain. It has the methods String, MarshalText and
// UnmarshalText.
type Freed = hop.Freed

// The ways in which a slot becomes free.
const (
	// the machine has answered, for nobody
	FreedAnswered = hop.FreedAnswered
	// it closed the connection, or was cut off; then the slot was held for a time
	FreedClosed = hop.FreedClosed
	// nothing was heard of it for as long as that may be
	FreedSilent = hop.FreedSilent
	// its run has ended: it was stopped, or has failed
	FreedEnded = hop.FreedEnded
	// this side has been closed
	FreedShutdown = hop.FreedShutdown
)
