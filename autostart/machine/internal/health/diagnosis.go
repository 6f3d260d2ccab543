package health

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/boots"
)

const (
	// misplacedSame and misplacedOther are how long a machine has to listen elsewhere, and not
	// where it should, until its start has failed: at another address of the same port, which
	// nobody does on purpose, and at another port, which may also be one for metrics or a debugger
	// that is open before the real one.
	// They are a little below 1 and 2 s, at which it is looked into.
	misplacedSame, misplacedOther = 900 * time.Millisecond, 1900 * time.Millisecond
	// MisplacedTries is how many starts of an app in a row have failed for that when the next ones
	// get longer and longer: so many trip the breaker, and so somebody has been told. The second
	// and the third of them get no time of their own, so that a client is told within seconds. If
	// it was just the order in which the ports are opened, one of the longer ones comes up, and
	// from then on it is known how long that takes.
	MisplacedTries = boots.BreakerAfter
	// doubtfulFirst is how long a machine that boots has to do nothing, or to listen elsewhere, to
	// be doubted, and doubtfulNext how long after another one of the app has been. The first one
	// may wait for something; with both, those who wait for an app that hangs are told after 5 s.
	doubtfulFirst, doubtfulNext = 1900 * time.Millisecond, 900 * time.Millisecond
	// hangsAfter is the age at which the first boot of an app that does nothing has failed.
	hangsAfter = 15 * time.Second
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
			grace = min(grace, misplacedSame)
		}
	}
	return p.where, now.Sub(p.since) >= grace
}

// lasted returns for how long it has listened elsewhere, and not where it should.
func (p *misplaced) lasted(now time.Time) time.Duration {
	if p.where == "" {
		return 0
	}
	return now.Sub(p.since)
}

// Seen is what can be seen of a machine from outside, as its driver says.
type Seen struct {
	Listens []string
	Known   bool // Listens are all there are
	Idle    time.Duration
	Output  string
}

// Known is what is known of the boots of an app when one of them is looked into.
type Known struct {
	Longest, Suspect time.Duration // 0 where no boot is known
	Grace            time.Duration // of the app's check
	// starts in a row that failed because the machine listened elsewhere
	Misplaced int
	Doubted   int // starts in a row that have been doubted
	Hung      int // starts in a row that failed because the machine did nothing
}

// KnownOf returns what a book says of one revision's cold boots.
func KnownOf(b *boots.Book, revision string, grace time.Duration) Known {
	k := Known{Grace: grace, Misplaced: b.Misplaced, Doubted: b.Doubted, Hung: b.Hung}
	if of := b.Of(boots.Key{Revision: revision, Kind: boots.Cold}); of.Known() {
		k.Longest, k.Suspect = of.Longest(), of.Suspect()
	}
	return k
}

// misplacedGrace returns how long other ports may be open: 2 s at the first start, nothing at the
// next ones, and longer and longer when they all have failed for it; as long as boots are known to
// take where that is longer.
func (k Known) misplacedGrace() time.Duration {
	d := misplacedOther
	switch {
	case k.Misplaced >= MisplacedTries:
		d <<= min(k.Misplaced-MisplacedTries+1, 8)
	case k.Misplaced > 0:
		d = 0
	}
	return max(d, k.Longest, k.Grace)
}

// doubtful reports whether a boot of that age is not expected to end well after all that is seen of
// it: how long it has listened elsewhere, and how long it has listened nowhere and done nothing.
// What is slow and works, loads a model or writes a line now and then, is not doubted here; nor is
// any boot as long as the app's boots are known to take that long, or a grace is given.
func (k Known) doubtful(age, elsewhere, idle time.Duration) bool {
	least := doubtfulFirst
	if k.Doubted > 0 {
		least = doubtfulNext
	}
	return age >= max(k.Suspect, k.Grace) && max(elsewhere, idle) >= least
}

// hangs reports whether a boot of that age has failed for doing nothing for that long. It is given
// 15 s at first, then 30 s and 60 s, and from the sixth time on longer and longer up to 8 min: what
// has been mended is started before long, and what just waits for a long time comes up in the end.
func (k Known) hangs(age, idle time.Duration) bool {
	limit := hangsAfter << min(max(min(k.Hung, 2), k.Hung-2), 5)
	return age >= max(limit, k.Suspect, k.Grace) && idle >= limit*2/3
}

// idleFor returns for how long a machine has done nothing and listened nowhere.
func idleFor(d Seen) time.Duration {
	if !d.Known || len(d.Listens) > 0 {
		return 0
	}
	return d.Idle
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

// misplacedText says why a start failed whose machine listens elsewhere.
func misplacedText(where, addr string) string {
	return fmt.Sprintf("it listens at %s and not at %s: make it listen there, or set App.BootHint if "+
		"that takes longer", where, addr)
}

// hangsText says why a start failed whose machine does nothing.
func hangsText(addr string, idle time.Duration, output string) string {
	s := fmt.Sprintf("it has done nothing for %v and does not listen at %s: make it listen there, or "+
		"set App.BootHint if its boots take longer", idle.Round(time.Second), addr)
	if output != "" {
		s += "; it last wrote: " + output
	}
	return s
}
