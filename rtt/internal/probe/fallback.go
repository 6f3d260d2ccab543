package probe

import (
	"time"

	"github.com/ebbkit/ebb/rtt/internal/estimate"
)

// fallback chooses how one peer is probed: by UDP; if that is blocked, by a TCP connect; and if
// that fails too, by HTTP. A blocked and a dead peer look alike, so while nothing answers, all
// rungs are tried in turn, and the first that answers is kept. From a lower rung UDP is tried again
// every half minute. The zero value starts with UDP.
type fallback struct {
	rung  estimate.Source // 0 means SourceUDP
	fails int             // in a row, on rung
	turn  uint8           // of the search, see next
	web   bool            // HTTP's turn among those that are not UDP
	retry time.Time
}

const (
	// blockedAfter is how many probes in a row go unanswered before other ways are tried. It is
	// more than it takes for a peer to be lost, which is to be reported first.
	blockedAfter = 5
	// climbEvery is how often UDP is tried from a lower rung.
	climbEvery = 30 * time.Second
)

// next says how to send the next probe, given the ways the peer has and whether a probe that is not
// UDP is still under way. It returns SourceNone for a peer without any way.
func (l *fallback) next(now time.Time, udp, tcp, http, busy bool) estimate.Source {
	if !udp {
		switch {
		case tcp && (!http || l.fails/blockedAfter%2 == 0):
			return estimate.SourceTCP
		case http:
			return estimate.SourceHTTP
		}
		return estimate.SourceNone
	}
	cur := l.rung
	if cur == estimate.SourceNone || cur == estimate.SourceTCP && !tcp ||
		cur == estimate.SourceHTTP && !http {
		cur, l.rung = estimate.SourceUDP, estimate.SourceUDP
	}
	if cur != estimate.SourceUDP && !now.Before(l.retry) {
		l.retry = now.Add(climbEvery)
		return estimate.SourceUDP
	}
	if l.fails < blockedAfter {
		return cur
	}
	// Nothing answers on this rung: every second probe is UDP, those between are TCP and HTTP in
	// turn. Probes are counted rather than failures, of which many may come at once.
	l.turn++
	switch {
	case l.turn%2 == 0 || busy || !tcp && !http:
		return estimate.SourceUDP
	case tcp && !(http && l.web):
		l.web = true
		return estimate.SourceTCP
	}
	l.web = false
	return estimate.SourceHTTP
}

// result takes in how a probe ended.
func (l *fallback) result(now time.Time, way estimate.Source, ok bool) {
	switch {
	case ok && way == estimate.SourceUDP:
		l.rung, l.fails, l.turn, l.web = estimate.SourceUDP, 0, 0, false
	case ok && (l.rung == way || l.fails >= blockedAfter):
		if l.rung != way {
			l.retry = now.Add(climbEvery)
		}
		l.rung, l.fails, l.turn, l.web = way, 0, 0, false
	case ok:
		// A late answer on a rung that is not needed.
	case way == l.rung || l.rung == estimate.SourceNone || l.fails >= blockedAfter:
		l.fails++
	}
}
