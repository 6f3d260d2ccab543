package backhaul

import (
	"cmp"
	"fmt"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/enum"
)

// Stall says what a request was waiting for when it was ended for want of progress.
type Stall uint8

// The stalls. Each has a bound in the app's row.
const (
	// the client sent nothing of a body, or next to nothing: balance.App.BodyPause
	StallBody    Stall = iota
	StallAnswer        // the client read nothing of the answer: balance.App.AnswerPause
	StallUpgrade       // the machine did not answer: balance.App.UpgradeWait
)

var stallNames = [...]string{"body", "answer", "upgrade"}

// String returns the stall's name as it stands in logs and metrics.
func (s Stall) String() string { return enum.Name(stallNames[:], uint8(s)) }

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
	if e.Stall == StallUpgrade {
		return CauseTimeout
	}
	return CauseStalled
}

// The defaults of an app's row, which says why.
const (
	defaultBodyPause   = 60 * time.Second
	defaultAnswerPause = 6 * time.Hour
	defaultUpgradeWait = 60 * time.Second
)

// leastRate is what must come of a body that is awaited, in bytes per second: a fifth of what the
// slowest mobile networks carry. IIS and Kestrel have the same.
const leastRate = 240

// bounds are an app's, without zero values: 0 means none.
type bounds struct {
	body, answer, upgrade time.Duration
	least                 int64 // bytes of a body that must come while it is awaited for that long
}

func boundsOf(a *balance.App) bounds {
	b := bounds{
		body:    max(0, cmp.Or(a.BodyPause, defaultBodyPause)),
		answer:  max(0, cmp.Or(a.AnswerPause, defaultAnswerPause)),
		upgrade: max(0, cmp.Or(a.UpgradeWait, defaultUpgradeWait)),
	}
	b.least = int64(leastRate * b.body.Seconds())
	return b
}

// owners returns what an owner goes by. Its edge is to be the first, since it can answer the
// client; the owner's own bounds are for edges that are gone or slow.
func (b bounds) owners() bounds {
	return bounds{b.body * 3 / 2, b.answer * 3 / 2, b.upgrade * 3 / 2, b.least}
}

// The bounds of how often progress is looked at.
const (
	minLook = time.Millisecond
	maxLook = time.Minute
)

// look returns how often to look: often enough that a stall is noticed no later than a quarter of
// the bound behind it.
func look(bound time.Duration) time.Duration { return min(max(bound/8, minLook), maxLook) }

// standing is what has been seen of a count that grows with each move.
type standing struct {
	n     uint32
	since time.Time
}

// stands takes in a count and reports whether it has not moved for as long as bound. An even count
// waits for nobody.
func (s *standing) stands(now time.Time, n uint32, bound time.Duration) bool {
	if s.since.IsZero() || n != s.n {
		s.n, s.since = n, now
		return false
	}
	return bound > 0 && n%2 == 1 && now.Sub(s.since) >= bound
}

// drip is what has been seen of a body that comes, however slowly.
type drip struct {
	at     time.Time     // of the last look
	waited time.Duration // for the client, since
	from   int64         // so much had come
}

// slow takes in whether the body is awaited now and how much of it has come, and reports whether
// that is too little. Time in which nobody waits for the client is not counted.
func (p *drip) slow(now time.Time, awaited bool, read int64, b bounds) bool {
	since := now.Sub(p.at)
	if p.at.IsZero() {
		since, p.from = 0, read
	}
	p.at = now
	if awaited {
		p.waited += max(0, since)
	}
	if b.body == 0 || p.waited < b.body {
		return false
	}
	if read-p.from < b.least {
		return true
	}
	p.waited, p.from = 0, read
	return false
}
