package hop

import (
	"time"
)

// Silence is how long an established connection may be dead before it is given up.
const Silence = 5 * time.Second

// TCPState is what the kernel knows about a TCP connection.
type TCPState struct {
	Unacked uint32 // segments that were sent and not acknowledged
	Unsent  uint32 // bytes that wait to be sent, mostly for the peer's window
	// of a window that is closed, or of an idle connection: in a row, without an answer
	Probes   uint8
	Resent   uint32        // segments that were sent again, ever
	Received uint32        // segments, ever
	Sent     time.Duration // since data was sent last; a probe has none
	Heard    time.Duration // since anything was received
}

// Outstanding reports whether the peer owes something: until then keep-alive probes of the kernel
// find out that it is gone. While data waits there are none.
func (t TCPState) Outstanding() bool { return t.Unacked > 0 || t.Unsent > 0 || t.Probes > 0 }

// unanswered reports whether something was sent that the peer should answer, and has not been heard
// since. A peer whose window is closed answers the probes of it, however long it reads nothing: it
// is slow, and there.
func (t TCPState) unanswered() bool { return t.Probes > 0 || t.Unacked > 0 && t.Sent < t.Heard }

// Liveness follows how long a peer has been silent although it was asked. The zero value has not
// looked yet.
type Liveness struct {
	waits    bool
	silent   time.Duration // since something was sent first that has no answer, as far as was looked
	received uint32        // when it last answered
	resent   uint32
}

// A connection is dead when its peer has been silent for long, and what it was asked was lost more
// than once. Of the probes of a closed window a few may be lost one after the other in an hour of
// them.
const (
	minResent = 2
	minProbes = 3
)

// maxStep is how much silence one look may add: a process or host that stood still has not listened
// either.
const maxStep = 2 * time.Second

// Look returns the liveness after a look at the connection, that long after the last one.
func (l Liveness) Look(t TCPState, since time.Duration) Liveness {
	switch {
	case !t.unanswered():
		return Liveness{received: t.Received, resent: t.Resent}
	case !l.waits || t.Received != l.received:
		first := Liveness{waits: true, received: t.Received, resent: t.Resent}
		if t.Probes == 0 {
			first.silent = min(t.Sent, maxStep)
		}
		if !l.waits && l.received == t.Received {
			first.resent = l.resent // what was sent again since the last look counts
		}
		return first
	}
	l.silent += min(since, maxStep)
	return l
}

// Dead reports whether the connection is to be given up; t is what the last look saw.
func (l Liveness) Dead(t TCPState, bound time.Duration) bool {
	return l.waits && l.silent >= bound &&
		(t.Probes >= minProbes || t.Unacked > 0 && t.Resent-l.resent >= minResent)
}
