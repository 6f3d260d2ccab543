package hop

import (
	"cmp"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/enum"
)

// Stall says what a request was waiting for when it was ended for lack of progress.
type Stall uint8

// The stalls. Each has a bound in the app's row.
const (
	// the client sent nothing of a body, or next to nothing: balance.App.BodyPause
	StallBody    Stall = iota
	StallAnswer        // the client read nothing of the answer: balance.App.AnswerPause
	StallUpgrade       // the machine did not answer: balance.App.UpgradeWait
)

var stallNames = [...]string{"body", "answer", "upgrade"}

// String returns the stall's name as written to logs and metrics.
func (s Stall) String() string { return enum.String(stallNames[:], uint8(s), "stall") }

// The defaults of an app's row, which says why.
const (
	defaultBodyPause   = 60 * time.Second
	DefaultAnswerPause = 6 * time.Hour
	DefaultUpgradeWait = 60 * time.Second
)

// leastRate is how many bytes per second of an awaited body must arrive: a fifth of the rate of the
// slowest mobile networks. IIS and Kestrel use the same.
const leastRate = 240

// Bounds are an app's bounds with defaults filled in: 0 means none.
type Bounds struct {
	Body, Answer, Upgrade time.Duration
	Least                 int64 // bytes of a body that must arrive for each such wait
}

func BoundsOf(a *balance.App) Bounds {
	b := Bounds{
		Body:    max(0, cmp.Or(a.BodyPause, defaultBodyPause)),
		Answer:  max(0, cmp.Or(a.AnswerPause, DefaultAnswerPause)),
		Upgrade: max(0, cmp.Or(a.UpgradeWait, DefaultUpgradeWait)),
	}
	b.Least = int64(leastRate * b.Body.Seconds())
	return b
}

// Of returns the bound of a stall.
func (b Bounds) Of(s Stall) time.Duration {
	switch s {
	case StallBody:
		return b.Body
	case StallAnswer:
		return b.Answer
	}
	return b.Upgrade
}

// Owners returns the bounds that an owner uses. They are longer than its edge's, which can answer
// the client; the owner's own are for edges that are gone or slow.
func (b Bounds) Owners() Bounds {
	return Bounds{b.Body * 3 / 2, b.Answer * 3 / 2, b.Upgrade * 3 / 2, b.Least}
}

// The bounds of the interval between looks.
const (
	minLook = time.Millisecond
	maxLook = time.Minute
)

// LookEvery returns how often to look: often enough to notice a stall within a quarter of its
// bound.
func LookEvery(bound time.Duration) time.Duration { return min(max(bound/8, minLook), maxLook) }

// Standing tracks a count that grows with each move.
type Standing struct {
	n     uint32
	since time.Time
}

// Stands takes in a count and reports whether it has not moved for the length of bound. An even
// count waits for nobody.
func (s *Standing) Stands(now time.Time, n uint32, bound time.Duration) bool {
	if s.since.IsZero() || n != s.n {
		s.n, s.since = n, now
		return false
	}
	return bound > 0 && n%2 == 1 && now.Sub(s.since) >= bound
}

// SlowBody tracks a body that arrives, however slowly.
type SlowBody struct {
	at     time.Time     // of the last look
	waited time.Duration // for the client, since
	from   int64         // bytes that had arrived then
}

// Slow takes in whether the body is awaited now and how much of it has arrived, and reports whether
// that is too little. Time in which nothing is awaited from the client does not count.
func (p *SlowBody) Slow(now time.Time, awaited bool, read int64, b Bounds) bool {
	since := now.Sub(p.at)
	if p.at.IsZero() {
		since, p.from = 0, read
	}
	p.at = now
	if awaited {
		p.waited += max(0, since)
	}
	if b.Body == 0 || p.waited < b.Body {
		return false
	}
	if read-p.from < b.Least {
		return true
	}
	p.waited, p.from = 0, read
	return false
}

// MarshalText returns the way's name.
func (f Freed) MarshalText() ([]byte, error) {
	return enum.Marshal("backhaul: way to be freed", freedNames[:], uint8(f))
}

// UnmarshalText is the inverse of [Freed.MarshalText].
func (f *Freed) UnmarshalText(text []byte) error {
	return enum.Unmarshal(f, "backhaul: way to be freed", freedNames[:], text)
}

// Freed says how the slot of a request became free after its client had left. Only FreedAnswered
// and FreedEnded mean that the machine was certainly done.
type Freed uint8

// The ways.
const (
	FreedAnswered Freed = iota // the machine has answered, for nobody
	// it closed the connection, or was cut off; the slot was then held for a time
	FreedClosed
	FreedSilent   // nothing was received for as long as that may take
	FreedEnded    // its run has ended: it was stopped, or has failed
	FreedShutdown // this side has been closed
)

var freedNames = [...]string{"answered", "closed", "silent", "ended", "shutdown"}

// String returns the way's name as it stands in logs and metrics.
func (f Freed) String() string { return enum.String(freedNames[:], uint8(f), "freed") }
