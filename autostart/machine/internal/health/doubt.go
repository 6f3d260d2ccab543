package health

import (
	"strings"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/boots"
)

const (
	// doubtMin is the age before which no start is doubted: a busy host makes a quick boot late. It is
	// half of the least that a request waits, so that another machine may still come in time.
	doubtMin = boots.WaitMin / 2
	// CallDoubt is the age at which a call of the driver is doubted while no earlier call is known.
	CallDoubt = 10 * time.Second
	// tellAfter is the age at which people are told what a boot lacks.
	tellAfter = 5 * time.Second
	// A boot that has not ended is looked into every lookEvery until people have been told of it, and
	// later every lookLate. A driver may have to look at all processes of a host, so slow looks are
	// made less often: the pause is at least lookShare times as long as the last look, or lookLate if
	// that is shorter.
	lookEvery, lookLate = 500 * time.Millisecond, 2500 * time.Millisecond
	lookShare           = 20
)

// Patience returns how long a boot may take before its owner doubts it: the age that is suspect by
// what is known of the app, see [boots.Boots.Suspect]. A resume may have to become a cold boot.
func Patience(b *boots.Book, revision string, kind boots.Kind, grace time.Duration) time.Duration {
	cold := b.Of(boots.Key{Revision: revision, Kind: boots.Cold}).Suspect()
	d := max(doubtMin, grace, cold)
	if kind == boots.Resume {
		d = max(d, b.Of(boots.Key{Revision: revision, Kind: boots.Resume}).Suspect())
	}
	return d
}

// CallPatience returns how long a call of the driver may take before its start is doubted.
func CallPatience(calls *boots.Boots) time.Duration {
	if !calls.Known() {
		return CallDoubt
	}
	return max(doubtMin, calls.Suspect())
}

// Doubt follows one boot from the driver's answer until it is ready or over: what people are told
// about it, whether its owner still expects it to succeed, and whether it has failed. It is not
// safe for concurrent use.
type Doubt struct {
	Addr     string        // where the machine should listen
	Began    time.Time     // when the driver was called
	Patience time.Duration // the age from which the boot is overdue
	// Hung is how many starts in a row had hung when this one began. Of several that hang at once only
	// one counts.
	Hung int

	next    time.Time // the next look
	place   misplaced
	told    string // what people have been told, without the machine's output
	doubted bool
	overdue bool
}

// Begin begins to follow the boot.
func (d *Doubt) Begin(now time.Time) { d.next = now.Add(lookEvery) }

// Wake returns when to step again.
func (d *Doubt) Wake() time.Time {
	if end := d.Began.Add(d.Patience); !d.overdue && end.Before(d.next) {
		return end
	}
	return d.next
}

// Due reports whether the next step needs a look.
func (d *Doubt) Due(now time.Time) bool { return !now.Before(d.next) }

// Look is the result of a look at a booting machine.
type Look struct {
	Found   string // by its check, for people
	Refused bool   // its check has found that nothing listens at its address
	Seen    Seen
	Known   Known // of the app's boots
	Took    time.Duration
}

// Finding is the result of a step.
type Finding struct {
	// Overdue is true once: the boot has taken suspiciously long. It may still succeed.
	Overdue bool
	// Failed says why the start has failed; empty while it has not.
	Failed string
	// Misplaced and Doubted say that the start counts as one that listens elsewhere, or as doubted.
	// Hung is how many starts in a row have hung, this one included; 0 when this one has not.
	Misplaced, Doubted bool
	Hung               int
	// Why is what the boot lacks, when people are to be told; empty when they know already.
	Why      string
	Doubtful bool // with Why: it is not expected to succeed
}

// Step takes in a look that has just been made, or nil if none was due or possible.
func (d *Doubt) Step(now time.Time, l *Look) (f Finding) {
	age := now.Sub(d.Began)
	if !d.overdue && age >= d.Patience {
		d.overdue, f.Overdue = true, true
	}
	if l == nil {
		if d.Due(now) {
			d.next = now.Add(lookEvery)
		}
		return f
	}
	known := l.Known
	known.Hung = d.Hung
	if l.Refused {
		where, failed := d.place.look(now, d.Addr, l.Seen.Listens, known.misplacedGrace())
		idle := idleFor(l.Seen)
		switch {
		case failed:
			f.Failed, f.Misplaced = misplacedText(where, d.Addr), true
			return f
		case known.hangs(age, idle):
			f.Failed, f.Hung = hangsText(d.Addr, idle, l.Seen.Output), d.Hung+1
			return f
		}
		f.Doubtful = known.doubtful(age, d.place.lasted(now), idle)
	}
	every := lookEvery
	if age >= tellAfter || f.Doubtful {
		every = lookLate
	}
	d.next = now.Add(max(every, min(lookShare*l.Took, lookLate)))
	if age < tellAfter && !f.Doubtful && !d.doubted {
		return f
	}
	why := describe(l.Found, d.Addr, l.Seen, f.Doubtful)
	if why == d.told {
		return f
	}
	d.told, f.Why = why, why
	if f.Doubtful && !d.doubted {
		d.doubted, f.Doubted = true, true
	}
	if l.Seen.Output != "" {
		f.Why += "; it last wrote: " + l.Seen.Output
	}
	return f
}

// describe says what a boot lacks, for people: what its check found, and what its driver knows.
func describe(found, addr string, d Seen, doubtful bool) string {
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
		if doubtful {
			s += " and does nothing (set App.BootHint if its boots take longer)"
		}
	}
	return s
}
