package autostart

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	// tellAfter is how long a boot takes until people are told what it lacks.
	tellAfter = 5 * time.Second
	// misplacedSame and misplacedOther are how long a machine has to listen elsewhere, and not
	// where it should, until its start has failed: at another address of the same port, which
	// nobody does on purpose, and at another port, which may also be one for metrics or a debugger
	// that is open before the real one.
	// They are a little below 1 and 2 s, at which it is looked into.
	misplacedSame, misplacedOther = 900 * time.Millisecond, 1900 * time.Millisecond
	// misplacedTries is how many starts of an app in a row have failed for that when the next ones
	// get longer and longer: so many trip the breaker, and so somebody has been told. The second
	// and the third of them get no time of their own, so that a client is told within seconds. If
	// it was just the order in which the ports are opened, one of the longer ones comes up, and
	// from then on it is known how long that takes.
	misplacedTries = breakerAfter
)

// misplaced finds out that a machine which boots listens elsewhere than where it should. The zero
// value has seen nothing. It is asked as long as nothing listens where it should.
type misplaced struct {
	since time.Time // it listens at the other addresses
	where string
}

// look takes in where the machine listens, and reports whether its start has failed for that. Grace
// is how long other ports may be open before the right one is.
func (p *misplaced) look(
	now time.Time, addr string, listens []string, grace time.Duration,
) (where string, failed bool) {
	there := func(l string) bool { return l == addr || l == anyAddr(addr) }
	if len(listens) == 0 || slices.ContainsFunc(listens, there) {
		*p = misplaced{}
		return "", false
	}
	if w := strings.Join(listens, ", "); w != p.where {
		p.since, p.where = now, w
	}
	for _, l := range listens {
		if portOf(l) == portOf(addr) {
			grace = misplacedSame
		}
	}
	return p.where, now.Sub(p.since) >= grace
}

// misplacedGrace returns how long other ports may be open: 2 s at the first start, nothing at the
// next ones, and longer and longer when they all have failed for it; as long as boots are known to
// take where that is longer.
func misplacedGrace(known, grace time.Duration, failed int) time.Duration {
	d := misplacedOther
	switch {
	case failed >= misplacedTries:
		d <<= min(failed-misplacedTries+1, 8)
	case failed > 0:
		d = 0
	}
	return max(d, known, grace)
}

// anyAddr is the address of all interfaces with addr's port, in addr's family.
func anyAddr(addr string) string {
	a, err := netip.ParseAddrPort(addr)
	switch {
	case err != nil:
		return ""
	case a.Addr().Is4():
		return netip.AddrPortFrom(netip.IPv4Unspecified(), a.Port()).String()
	}
	return netip.AddrPortFrom(netip.IPv6Unspecified(), a.Port()).String()
}

func portOf(addr string) string {
	_, port, _ := cutLast(addr, ":")
	return port
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// lacks says what a boot lacks, for people: what its check found, and what its driver knows.
func lacks(found string, addr string, d Description) string {
	s := found
	var elsewhere []string
	for _, l := range d.Listens {
		if l != addr {
			elsewhere = append(elsewhere, l)
		}
	}
	switch {
	case len(elsewhere) > 0:
		s += "; it listens at " + strings.Join(elsewhere, ", ")
	case d.Known && len(d.Listens) == 0:
		s += "; it listens nowhere"
	}
	return s
}
