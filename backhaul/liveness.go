package backhaul

import "time"

// tcpState is what the kernel knows about a TCP connection.
type tcpState struct {
	unacked  uint32        // segments that were sent and not acknowledged
	unsent   uint32        // bytes that wait to be sent, mostly for the peer's window
	probes   uint8         // of a window that is closed, or of an idle connection: in a row, without an answer
	resent   uint32        // segments that were sent again, ever
	received uint32        // segments, ever
	sent     time.Duration // since data was sent last; a probe has none
	heard    time.Duration // since anything was received
}

// outstanding reports whether the peer owes something: until then keep-alive probes of the kernel find out that it is gone.
// While data waits there are none.
func (t tcpState) outstanding() bool { return t.unacked > 0 || t.unsent > 0 || t.probes > 0 }

// unanswered reports whether something was sent that the peer should answer, and has not been heard since. A peer whose
// window is closed answers the probes of it, however long it reads nothing: it is slow, and there.
func (t tcpState) unanswered() bool { return t.probes > 0 || t.unacked > 0 && t.sent < t.heard }

// liveness follows how long a peer has been silent although it was asked. The zero value has not looked yet.
type liveness struct {
	waits    bool
	silent   time.Duration // since something was sent first that has no answer, as far as was looked
	received uint32        // when it last answered
	resent   uint32
}

// A connection is dead when its peer has been silent for long, and what it was asked was lost more than once. Of the probes
// of a closed window a few may be lost one after the other in an hour of them.
const (
	minResent = 2
	minProbes = 3
)

// maxStep is how much silence one look may add: a process or host that stood still has not listened either.
const maxStep = 2 * time.Second

// look returns the liveness after a look at the connection, that long after the last one.
func (l liveness) look(t tcpState, since time.Duration) liveness {
	switch {
	case !t.unanswered():
		return liveness{received: t.received, resent: t.resent}
	case !l.waits || t.received != l.received:
		first := liveness{waits: true, received: t.received, resent: t.resent}
		if t.probes == 0 {
			first.silent = min(t.sent, maxStep)
		}
		if !l.waits && l.received == t.received {
			first.resent = l.resent // what was sent again since the last look counts
		}
		return first
	}
	l.silent += min(since, maxStep)
	return l
}

// dead reports whether the connection is to be given up; t is what the last look saw.
func (l liveness) dead(t tcpState, bound time.Duration) bool {
	return l.waits && l.silent >= bound && (t.probes >= minProbes || t.unacked > 0 && t.resent-l.resent >= minResent)
}
