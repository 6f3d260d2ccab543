package hop

import (
	"time"
)

// BodyState says what another try could send as the request's body.
type BodyState uint8

const (
	// there is none, it was never read, or all that was read of it is kept
	BodyWhole BodyState = iota
	BodySpent           // some of it went out and is gone
)

// Next says what to do after a try.
type Next uint8

const (
	NextGiveUp    Next = iota // tell the client
	NextElsewhere             // exclude the machine and acquire another
	NextRound                 // forget what was excluded, pause, and go back to the waiting room
)

// retryable is the decision table of the package comment: may a request be sent again after a try
// that got this far? Columns: not idempotent, idempotent.
var retryable = [...][2][2]bool{
	//             body whole      body spent
	CertaintyNotSent:       {BodyWhole: {true, true}, BodySpent: {false, false}},
	CertaintyNotExecuted:   {BodyWhole: {true, true}, BodySpent: {false, false}},
	CertaintyMaybeExecuted: {BodyWhole: {false, true}, BodySpent: {false, false}},
	CertaintyResponded:     {BodyWhole: {false, false}, BodySpent: {false, false}},
}

func mayRetry(f Failure, idempotent bool, b BodyState) bool {
	if f == FailureClient || f == FailureDeadline {
		return false
	}
	column := 0
	if idempotent {
		column = 1
	}
	return retryable[f.Certainty()][b][column]
}

// RetryLimits are the budgets of one request. Bounces and failures are counted separately: a bounce
// corrects late information, and on a busy fleet more than one per request is normal; a failure is
// a fault.
type RetryLimits struct {
	Bounces  int // per round
	Rounds   int
	Failures int
	Patience time.Duration // from the first bounce to the last; 0 means no bound
}

// Retries counts what one request has used of its budgets.
type Retries struct {
	bounces  int // of the present round
	rounds   int // that we ended since the picker last waited
	hot      int // rounds in a row that the picker began without waiting
	Failures int
	resets   int // machines that broke off under the request
}

// maxResets is how many machines may break off under a request: if it ended two, the request itself
// may be the cause, and it is not sent to a third.
const maxResets = 2

// Died decides after a try in which a machine broke off, if the request may be tried again.
func (s *Retries) Died() Next {
	if s.resets++; s.resets >= maxResets {
		return NextGiveUp
	}
	return NextElsewhere
}

// Failed decides after a failed try.
func (s *Retries) Failed(l RetryLimits, f Failure, idempotent bool, b BodyState) Next {
	if !mayRetry(f, idempotent, b) {
		return NextGiveUp
	}
	if s.Failures++; s.Failures > l.Failures {
		return NextGiveUp
	}
	return NextElsewhere
}

// Refused decides after a stream that the peer did not take, for example because its connection was
// ending. Connections end like that, so it costs what a bounce costs, and nothing of the budgets
// for failures.
func (s *Retries) Refused(l RetryLimits, b BodyState, since time.Duration) Next {
	if !mayRetry(FailureRefused, false, b) {
		return NextGiveUp
	}
	return s.Bounced(l, since)
}

// Bounced decides after a bounce. since is the time since the first one.
func (s *Retries) Bounced(l RetryLimits, since time.Duration) Next {
	s.bounces++
	switch {
	case l.Patience > 0 && since > l.Patience:
		return NextGiveUp
	case s.hot > 0:
		s.bounces = 0
		return NextRound
	case s.bounces < l.Bounces:
		return NextElsewhere
	}
	return s.Exhausted(l)
}

// Exhausted decides when every machine of this round has been tried.
func (s *Retries) Exhausted(l RetryLimits) Next {
	if s.rounds++; s.rounds > l.Rounds {
		return NextGiveUp
	}
	s.bounces = 0
	return NextRound
}

// Renewed records that the picker has begun a new round by itself, after that wait. A picker that
// waits may begin any number of rounds; if it did not wait, we count the round.
func (s *Retries) Renewed(waited time.Duration) {
	s.bounces = 0
	if waited < pauseFirst {
		s.hot++
		return
	}
	s.rounds, s.hot = 0, 0
}

// The pause before a new round gives late rows and reports time to arrive: from one round trip
// within a region up to a delay that people do not notice.
const (
	pauseFirst = 5 * time.Millisecond
	pauseMax   = 250 * time.Millisecond
)

func (s *Retries) Pause() time.Duration {
	return min(pauseFirst<<max(0, min(max(s.rounds, s.hot)-1, 10)), pauseMax)
}
