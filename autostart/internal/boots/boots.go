// Package boots knows how long the boots of an app take, and how soon a failed one is tried again.
// The edge, which plans, and the owner, which starts, share it.
package boots

import (
	"slices"
	"time"
)

const (
	// bootsKept is how many boots are remembered. The longest of 32 doubled calls at most 0.2 % of
	// lognormal boots suspect, where limits made of mean and variance call 2 to 4 % so.
	bootsKept = 32
	// bootUnknown is the assumed duration of a start without any data.
	bootUnknown = 180 * time.Second
	// The bounds of suspicion: below the first it would react to noise, above the second help comes
	// too late.
	suspectMin, suspectMax = 2 * time.Second, 10 * time.Minute
	// A request waits for WaitMin if nothing is being started for it. If it waits for a start, it
	// waits for waitMargin after that has become suspect: the start may still succeed, or another may.
	// waitMax caps hints that are obviously wrong.
	WaitMin, waitMargin, waitMax = 10 * time.Second, 15 * time.Second, 24 * time.Hour
)

// Boots holds what is known of how long starts take: the last 32 that succeeded. The zero value
// knows nothing. It is a value: a copy is a snapshot. It is not safe for concurrent use.
type Boots struct {
	// Hint is the expected duration of a start from outside; it counts as one boot until 32 have been
	// seen. 0 is none.
	Hint time.Duration

	// oldest first, without spare capacity: copies share it, and most apps boot rarely
	last []time.Duration
}

// Learn adds a boot that ended with a ready machine. Boots that failed or were abandoned do not
// count. A negative duration, from a clock that was set back, is ignored.
func (b *Boots) Learn(took time.Duration) {
	if took < 0 {
		return
	}
	kept := b.last[max(0, len(b.last)+1-bootsKept):]
	b.last = slices.Concat(kept, []time.Duration{took})
}

// Follow puts the boots learned before in front of b's.
func (b *Boots) Follow(before Boots) {
	for _, took := range b.last {
		before.Learn(took)
	}
	*b = before
}

// known returns the boots that count, in no particular order.
func (b *Boots) known(buf *[bootsKept + 1]time.Duration) []time.Duration {
	n := copy(buf[:], b.last)
	if b.Hint > 0 && n < bootsKept {
		buf[n] = b.Hint
		n++
	}
	return buf[:n]
}

// Known reports whether anything is known.
func (b *Boots) Known() bool { return len(b.last) > 0 || b.Hint > 0 }

// Expected returns the median boot; 180 s when nothing is known.
func (b *Boots) Expected() time.Duration {
	var buf [bootsKept + 1]time.Duration
	known := b.known(&buf)
	if len(known) == 0 {
		return bootUnknown
	}
	slices.Sort(known)
	return known[len(known)/2]
}

// Longest returns the longest boot; 180 s when nothing is known.
func (b *Boots) Longest() time.Duration {
	var buf [bootsKept + 1]time.Duration
	known := b.known(&buf)
	if len(known) == 0 {
		return bootUnknown
	}
	return slices.Max(known)
}

// Suspect returns the age from which a start is suspect: twice the longest boot, between 2 s and 10
// min; 180 s when nothing is known. Suspect is not dead: a suspect start keeps its credit until its
// machine's state says otherwise.
func (b *Boots) Suspect() time.Duration {
	if !b.Known() {
		return bootUnknown
	}
	return min(max(2*min(b.Longest(), suspectMax), suspectMin), suspectMax)
}

// Remaining returns how much longer a start of that age should take: until the median, then until
// the longest, then until it is suspect, then a second at a time. When nothing is known it is as
// long again, between 1 and 30 s.
func (b *Boots) Remaining(age time.Duration) time.Duration {
	if !b.Known() {
		return min(max(age, time.Second), 30*time.Second)
	}
	for _, end := range [...]time.Duration{b.Expected(), b.Longest(), b.Suspect()} {
		if age < end {
			return end - age
		}
	}
	return time.Second
}

// Wait returns how long a request may be parked for a start that begins now: until the start is
// suspect and older than any known boot, plus 15 s.
func (b *Boots) Wait() time.Duration {
	longest := b.Suspect()
	if b.Known() {
		longest = max(longest, min(b.Longest(), waitMax))
	}
	return longest + waitMargin
}

// Likely returns when a boot should end: from somewhat before the shortest known boot until well
// after the longest. Without known boots both are 0.
func (b *Boots) Likely() (from, to time.Duration) {
	if len(b.last) == 0 {
		return 0, 0
	}
	return slices.Min(b.last) * 9 / 10, slices.Max(b.last) * 5 / 4
}

// Kind separates cold boots from resumes, whose durations are learned separately.
type Kind uint8

// The kinds of boot.
const (
	Cold Kind = iota
	Resume
)

// Key identifies boots whose durations are learned together.
type Key struct {
	Revision string
	Kind     Kind
}

// revisionsKept bounds the remembered revisions of an app.
const revisionsKept = 16

// revisionBoots are the boots of one revision and kind.
type revisionBoots struct {
	Key
	Boots
}

// Book holds what is known of one app's boots, by revision and kind. For a revision that has not
// booted yet, it uses those of all revisions.
type Book struct {
	All    [2]Boots        // by kind
	recent []revisionBoots // least recently learned first

	Misplaced int // starts in a row that failed because the machine listened elsewhere
	Doubted   int // starts in a row that have been doubted
	Hung      int // starts in a row that failed because the machine did nothing
}

func (k *Book) Hint(d time.Duration) { k.All[Cold].Hint, k.All[Resume].Hint = d, d }

func (k *Book) Learn(key Key, took time.Duration) {
	k.Misplaced, k.Doubted, k.Hung = 0, 0, 0
	k.All[key.Kind].Learn(took)
	k.revision(key).Learn(took)
}

// revision returns the boots of one revision and kind, made on demand; it is then the most recent.
func (k *Book) revision(key Key) *Boots {
	b := revisionBoots{Key: key}
	if i := k.find(key); i >= 0 {
		b = k.recent[i]
		k.recent = slices.Delete(k.recent, i, i+1)
	}
	if len(k.recent) == revisionsKept {
		k.recent = slices.Delete(k.recent, 0, 1)
	}
	k.recent = append(k.recent, b)
	return &k.recent[len(k.recent)-1].Boots
}

func (k *Book) find(key Key) int {
	return slices.IndexFunc(k.recent, func(b revisionBoots) bool { return b.Key == key })
}

func (k *Book) Of(key Key) *Boots {
	if i := k.find(key); i >= 0 {
		b := &k.recent[i].Boots
		b.Hint = k.All[key.Kind].Hint
		return b
	}
	return &k.All[key.Kind]
}
