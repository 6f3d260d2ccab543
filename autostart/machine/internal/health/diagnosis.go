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
	// misplacedSame and misplacedOther are how long a machine may listen elsewhere, and not where it
	// should, before its start fails. misplacedSame is for another address with the same port, which
	// nobody chooses on purpose; misplacedOther is for another port, which may be one for metrics or a
	// debugger that opens before the real one. They are a little below 1 and 2 s, when the boot is
	// looked into.
	misplacedSame, misplacedOther = 900 * time.Millisecond, 1900 * time.Millisecond
	// MisplacedTries is how many starts of an app must fail in a row for that before the next ones are
	// given more and more time: so many trip the breaker, and so somebody has been told. The second
	// and the third get no such time, so that a client is told within seconds. If the app only opens
	// its ports in that order, one of the longer starts succeeds, and from then on it is known how
	// long that takes.
	MisplacedTries = boots.BreakerAfter
	// doubtfulFirst is how long a booting machine must do nothing, or listen elsewhere, to be doubted;
	// doubtfulNext is the same after another start of the app has been doubted. The first start may
	// wait for something. With both values, requests that wait for an app that hangs are told so after
	// 5 s.
	doubtfulFirst, doubtfulNext = 1900 * time.Millisecond, 900 * time.Millisecond
	// hangsAfter is the age at which the first boot of an app fails if it does nothing.
	hangsAfter = 15 * time.Second
)

// misplaced finds out that a booting machine listens elsewhere than where it should. The zero value
// has seen nothing. It is used as long as nothing listens at the right address.
type misplaced struct {
	since time.Time // since when it listens at the other addresses
	where string
}

// look takes in where the machine listens, and reports whether its start fails for that. grace is
// how long other ports may be open before the right one is.
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

// lasted returns how long it has listened elsewhere, and not where it should.
func (p *misplaced) lasted(now time.Time) time.Duration {
	if p.where == "" {
		return 0
	}
	return now.Sub(p.since)
}

// Seen is what can be seen of a machine from outside, as its driver says.
type Seen struct {
	Listens []string
	Known   bool // Listens is complete
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

// misplacedGrace returns how long other ports may be open: 2 s at the first start, no time at the
// next ones, and more and more after MisplacedTries have failed; or as long as boots are known to
// take, if that is longer.
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

// doubtful reports whether a boot of that age is not expected to succeed, by how long it has
// listened elsewhere, and how long it has listened nowhere and done nothing. A boot that is slow
// but active, because it loads a model or writes a line now and then, is not doubted here; nor is
// any boot while the app's boots are known to take that long, or during the check's grace.
func (k Known) doubtful(age, elsewhere, idle time.Duration) bool {
	least := doubtfulFirst
	if k.Doubted > 0 {
		least = doubtfulNext
	}
	return age >= max(k.Suspect, k.Grace) && max(elsewhere, idle) >= least
}

// hangs reports whether a boot of that age fails because it has done nothing for that long. It is
// given 15 s at first, then 30 s and 60 s, and from the sixth time on more and more up to 8 min: an
// app that has been repaired is tried again soon, and one that just waits for a long time becomes
// ready in the end.
func (k Known) hangs(age, idle time.Duration) bool {
	limit := hangsAfter << min(max(min(k.Hung, 2), k.Hung-2), 5)
	return age >= max(limit, k.Suspect, k.Grace) && idle >= limit*2/3
}

// idleFor returns how long a machine has done nothing and listened nowhere.
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

// misplacedText says why the start of a machine that listens elsewhere has failed.
func misplacedText(where, addr string) string {
	return fmt.Sprintf("it listens at %s and not at %s: make it listen there, or set App.BootHint if "+
		"that takes longer", where, addr)
}

// hangsText says why the start of a machine that does nothing has failed.
func hangsText(addr string, idle time.Duration, output string) string {
	s := fmt.Sprintf("it has done nothing for %v and does not listen at %s: make it listen there, or "+
		"set App.BootHint if its boots take longer", idle.Round(time.Second), addr)
	if output != "" {
		s += "; it last wrote: " + output
	}
	return s
}
