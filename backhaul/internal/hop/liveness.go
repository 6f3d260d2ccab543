package hop

import (
	"time"
)

// Silence is how long an established connection may be dead before it is given up.
const Silence = 5 * time.Second

// TCPState is what the kernel knows about a TCP connection.
type TCPState struct {
	Unacked uint32 // segments that were sent and not acknowledged
	Unsent  uint32 // bytes that wait to be sent, usually for the peer's window
	// of a closed window or an idle connection: how many in a row have had no answer
	Probes   uint8
	Resent   uint32        // segments that were retransmitted, ever
	Received uint32        // segments, ever
	Sent     time.Duration // since data was last sent; probes do not count
	Heard    time.Duration // since anything was received
}

// Outstanding reports whether the peer owes an answer. Otherwise the kernel's keep-alive probes
// find out that it is gone; while data waits there are none.
func (t TCPState) Outstanding() bool { return t.Unacked > 0 || t.Unsent > 0 || t.Probes > 0 }

// unanswered reports whether something was sent that the peer should answer, and nothing has been
// received since. A peer with a closed window answers its probes, however long it reads nothing: it
// is slow, but there.
func (t TCPState) unanswered() bool { return t.Probes > 0 || t.Unacked > 0 && t.Sent < t.Heard }

// Liveness tracks how long a peer has been silent although it was asked. The zero value has not
// looked yet.
type Liveness struct {
	waits    bool
	silent   time.Duration // since the first unanswered send, as far as was looked
	received uint32        // when it last answered
	resent   uint32
}

// A connection is dead when its peer has been silent for long and more than one packet to it was
// lost. Over an hour, a few probes of a closed window may be lost in a row.
const (
	minResent = 2
	minProbes = 3
)

// maxStep is how much silence one look may add: while this process or host was suspended, it did
// not listen either.
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
			first.resent = l.resent // retransmissions since the last look count
		}
		return first
	}
	l.silent += min(since, maxStep)
	return l
}

// Dead reports whether to give the connection up; t is what the last look saw.
func (l Liveness) Dead(t TCPState, bound time.Duration) bool {
	return l.waits && l.silent >= bound &&
		(t.Probes >= minProbes || t.Unacked > 0 && t.Resent-l.resent >= minResent)
}
