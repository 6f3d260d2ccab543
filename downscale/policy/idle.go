package policy

import (
	"encoding/json"
	"math"
	"time"
)

const (
	// Gaps are counted in buckets that grow by a fifth, from idleMin to idleMax. Shorter ones are
	// no pause, and would soon fill the memory of a busy app; who comes back after more than
	// idleMax may wait for a boot.
	idleMin, idleMax = 10 * time.Second, 4 * time.Hour
	idleSteps        = 4 // buckets to an octave
	idleBuckets      = 44
	// gapsMin is how many gaps have to be known before anything follows from them.
	gapsMin = 16
	// gapsKept is when all counts are halved, so that an app may change its habits.
	gapsKept = 512
	// stretch bounds how much longer than usual an app is kept awake for its habits: beyond it,
	// it sleeps as others do, since machines would hardly ever sleep. shrink bounds the other
	// side.
	stretch, shrink = 6, 10
)

// Idle learns how long an app's pauses are, and with that how long its machines are worth keeping
// after a last request. The zero value knows nothing. It is a value: a copy is a snapshot, and it
// may be kept over a restart in JSON. It is not safe for concurrent use.
//
// Feed it with [Idle.Seen], or with [Idle.Gap]; ask [Idle.KeepAlive].
type Idle struct {
	counts [idleBuckets]uint32 // the last: longer than idleMax
	n      uint32              // of all counts
	// the app has been idle since then; zero while it is not, or when that is not known
	since time.Time
}

// Seen takes in how many requests are in flight or parked at now. A gap is from the look that
// found none until the next that found some. Looks may be as far apart as they like: what goes
// unseen between two makes gaps longer than they were, and machines are kept for longer, which is
// the safe side. A clock that is set back ends what is known of the present gap.
func (i *Idle) Seen(now time.Time, requests int) {
	switch {
	case requests <= 0 && (i.since.IsZero() || now.Before(i.since)):
		i.since = now
	case requests > 0 && !i.since.IsZero():
		i.Gap(now.Sub(i.since))
		i.since = time.Time{}
	}
}

// Gap adds a pause between two requests, and reports whether it counts: what is shorter than 10 s
// is no pause.
func (i *Idle) Gap(d time.Duration) bool {
	if d < idleMin {
		return false
	}
	if i.n >= gapsKept {
		i.n = 0
		for b := range i.counts {
			i.counts[b] /= 2
			i.n += i.counts[b]
		}
	}
	i.counts[idleBucket(d)]++
	i.n++
	return true
}

// idleBucket returns the first bucket whose end is not below d.
func idleBucket(d time.Duration) int {
	if d <= idleMin {
		return 0
	}
	if d > idleMax {
		return idleBuckets - 1
	}
	b := int(math.Ceil(idleSteps * math.Log2(float64(d)/float64(idleMin))))
	return min(b, idleBuckets-2)
}

// idleEnd returns the longest gap of a bucket.
func idleEnd(b int) time.Duration {
	return min(time.Duration(float64(idleMin)*math.Exp2(float64(b)/idleSteps)), idleMax)
}

// Learned returns for how long an app is worth being kept awake after its last request, from its
// own pauses: 1.1 times what 99 % of them do not exceed. ok is false as long as they do not tell:
// fewer than 16 are known, or more than 1 % of them are longer than 4 h, so that no keep-alive
// would bridge them.
func (i *Idle) Learned() (d time.Duration, ok bool) {
	if i.n < gapsMin {
		return 0, false
	}
	want := i.n - i.n/100
	sum := uint32(0)
	for b := range idleBuckets - 1 {
		if sum += i.counts[b]; sum >= want {
			return idleEnd(b) * 11 / 10, true
		}
	}
	return 0, false
}

// KeepAlive returns how long an app without requests keeps its machines: explicit when that is
// above 0, as an app's row says it; else what has been learned; else otherwise.
//
// What has been learned stays near what is usual. It counts up to six times otherwise: an app
// that would have to be kept longer sleeps as usual. And it is shorter than otherwise only as far
// as that would have cut short no pause that is remembered, and not below a tenth of otherwise.
func (i *Idle) KeepAlive(explicit, otherwise time.Duration) time.Duration {
	if explicit > 0 {
		return explicit
	}
	d, ok := i.Learned()
	switch {
	case !ok || d/stretch > otherwise:
		return otherwise
	case d >= otherwise:
		return d
	}
	return min(max(d, i.longestWithin(otherwise), otherwise/shrink), otherwise)
}

// longestWithin returns 1.1 times the longest gap of those that are not longer than limit.
func (i *Idle) longestWithin(limit time.Duration) time.Duration {
	for b := idleBuckets - 2; b >= 0; b-- {
		if i.counts[b] > 0 && idleEnd(b-1) < limit {
			return idleEnd(b) * 11 / 10
		}
	}
	return 0
}

// idleJSON is the JSON form of an Idle.
type idleJSON struct {
	Counts []uint32 `json:"gaps,omitempty"` // by bucket, without empty ones at the end
}

// MarshalJSON writes the counts. What is known of the present gap is left out: another process
// does not know when it began.
func (i Idle) MarshalJSON() ([]byte, error) {
	last := 0
	for b, n := range i.counts {
		if n > 0 {
			last = b + 1
		}
	}
	return json.Marshal(idleJSON{i.counts[:last]})
}

// UnmarshalJSON replaces i by what MarshalJSON wrote.
func (i *Idle) UnmarshalJSON(text []byte) error {
	var j idleJSON
	if err := json.Unmarshal(text, &j); err != nil {
		return err
	}
	*i = Idle{}
	copy(i.counts[:], j.Counts)
	for b := range i.counts {
		i.counts[b] = min(i.counts[b], 2*gapsKept)
		i.n += i.counts[b]
	}
	return nil
}
