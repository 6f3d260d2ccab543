package backhaul

import (
	"time"

	"github.com/ebbkit/ebb/internal/enum"
)

// Certainty says how far a try that brought no answer got. It rules what may be tried again.
type Certainty uint8

// The certainties, from the one that allows everything to the one that allows nothing.
const (
	NotSent       Certainty = iota // no byte of the request left for whoever would execute it
	NotExecuted                    // it was received, and by the owner's word or ours the machine never saw it
	MaybeExecuted                  // it was sent; whether the machine acted on it nobody knows
	Responded                      // the machine answered; the answer broke off or could not be used
)

var certaintyNames = [...]string{"not sent", "not executed", "maybe executed", "responded"}

// String returns the certainty in words.
func (c Certainty) String() string { return enum.Name(certaintyNames[:], uint8(c)) }

// Failure says how a try failed. A bounce is not a failure: see [balance.Bounce].
type Failure uint8

// The failures. Behind each stands its [Certainty].
const (
	FailNone      Failure = iota // it did not
	FailDial                     // no connection to the owner or the machine: refused, timed out, cut while connecting (not sent)
	FailStale                    // a pooled connection was dead before anything was written (not sent; another connection is taken, and it counts for nothing)
	FailUnsent                   // a new connection died before anything was written (not sent)
	FailDenied                   // the owner and this node do not accept each other's key or certificate (not executed)
	FailUnread                   // the connection died while the body still waited for the owner's word (not executed)
	FailReset                    // the connection died after the request was written, before the answer's head was complete (maybe executed)
	FailTimeout                  // no answer's head in time (maybe executed)
	FailMalformed                // the answer's head is not HTTP, or larger than allowed (responded)
	FailAnswer                   // the answer broke off after its head (responded)
	FailClient                   // the client left, or its body broke off: nobody is there to retry for (maybe executed)
	FailRefused                  // the peer says that it did not process the stream: GOAWAY, REFUSED_STREAM (not executed)
	FailLimit                    // a limit of this node or the owner, not of the machine: no descriptor, memory or port, or the request's own deadline passed before it was sent (not sent)
	FailDeadline                 // the request's own deadline passed after it was sent (maybe executed)
	failures
)

var failureNames = [failures]string{"none", "dial", "stale", "unsent", "denied", "unread", "reset", "timeout", "malformed", "answer", "client", "refused", "limit", "deadline"}

// String returns the failure's name as it travels between nodes and stands in logs.
func (f Failure) String() string { return enum.Name(failureNames[:], uint8(f)) }

var certainties = [failures]Certainty{
	FailNone: Responded,
	FailDial: NotSent, FailStale: NotSent, FailUnsent: NotSent, FailLimit: NotSent,
	FailDenied: NotExecuted, FailUnread: NotExecuted, FailRefused: NotExecuted,
	FailReset: MaybeExecuted, FailTimeout: MaybeExecuted, FailClient: MaybeExecuted, FailDeadline: MaybeExecuted,
	FailMalformed: Responded, FailAnswer: Responded,
}

// Certainty returns how far a try that failed like this got.
func (f Failure) Certainty() Certainty {
	if f >= failures {
		return Responded
	}
	return certainties[f]
}

// bodyState is what a further try could send as the request's body.
type bodyState uint8

const (
	bodyWhole bodyState = iota // there is none, it was never asked for, or all that was read of it is kept
	bodySpent                  // some of it went out and is gone
)

// verdict is what to do after a try.
type verdict uint8

const (
	giveUp    verdict = iota // tell the client
	elsewhere                // exclude the machine and acquire another
	newRound                 // forget what was excluded, pause, and go back to the waiting room
)

// retryable is the decision table of the package comment: may a request be sent again after a try that got so far?
// Columns: not idempotent, idempotent.
var retryable = [...][2][2]bool{
	//             body whole      body spent
	NotSent:       {bodyWhole: {true, true}, bodySpent: {false, false}},
	NotExecuted:   {bodyWhole: {true, true}, bodySpent: {false, false}},
	MaybeExecuted: {bodyWhole: {false, true}, bodySpent: {false, false}},
	Responded:     {bodyWhole: {false, false}, bodySpent: {false, false}},
}

func mayRetry(f Failure, idempotent bool, b bodyState) bool {
	if f == FailClient || f == FailDeadline {
		return false
	}
	column := 0
	if idempotent {
		column = 1
	}
	return retryable[f.Certainty()][b][column]
}

// limits are the budgets of one request. Bounces and failures are counted apart: a bounce is how late knowledge is put
// right, on a busy fleet more than one per request is normal; a failure is a fault of something.
type limits struct {
	bounces  int // per round
	rounds   int
	failures int
	patience time.Duration // from the first bounce to the last; 0 means no bound
}

// spent is what one request has used of its budgets.
type spent struct {
	bounces  int // of the present round
	rounds   int // that we ended, since the picker last waited
	hot      int // rounds in a row that the picker began without waiting
	failures int
	resets   int // machines that broke off under the request
}

// maxResets is how many machines may break off under a request: what ends two of them may be what
// it asks for, and it is not sent to a third.
const maxResets = 2

// died decides after a try that a machine broke off, where the request may be tried again.
func (s *spent) died() verdict {
	if s.resets++; s.resets >= maxResets {
		return giveUp
	}
	return elsewhere
}

// failed decides after a failed try.
func (s *spent) failed(l limits, f Failure, idempotent bool, b bodyState) verdict {
	if !mayRetry(f, idempotent, b) {
		return giveUp
	}
	if s.failures++; s.failures > l.failures {
		return giveUp
	}
	return elsewhere
}

// refused decides after a stream that the peer did not take, such as one that met the end of its connection. That is how
// connections end: it costs what a bounce costs, and nothing of the budgets for failures.
func (s *spent) refused(l limits, b bodyState, since time.Duration) verdict {
	if !mayRetry(FailRefused, false, b) {
		return giveUp
	}
	return s.bounced(l, since)
}

// bounced decides after a bounce. since is the time since the first one.
func (s *spent) bounced(l limits, since time.Duration) verdict {
	s.bounces++
	switch {
	case l.patience > 0 && since > l.patience:
		return giveUp
	case s.hot > 0:
		s.bounces = 0
		return newRound
	case s.bounces < l.bounces:
		return elsewhere
	}
	return s.exhausted(l)
}

// exhausted decides when every machine that could be tried in this round has been.
func (s *spent) exhausted(l limits) verdict {
	if s.rounds++; s.rounds > l.rounds {
		return giveUp
	}
	s.bounces = 0
	return newRound
}

// renewed notes that the picker has begun a new round by itself, after waiting for so long. A picker that waits may begin
// as many as it likes; if it did not wait, we do.
func (s *spent) renewed(waited time.Duration) {
	s.bounces = 0
	if waited < pauseFirst {
		s.hot++
		return
	}
	s.rounds, s.hot = 0, 0
}

// The pause before a new round gives late rows and reports time to arrive: from one in-region round trip up to what a
// person does not notice.
const (
	pauseFirst = 5 * time.Millisecond
	pauseMax   = 250 * time.Millisecond
)

func (s *spent) pause() time.Duration {
	return min(pauseFirst<<max(0, min(max(s.rounds, s.hot)-1, 10)), pauseMax)
}
