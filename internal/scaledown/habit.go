package scaledown

import (
	"encoding/json"
	"math"
	"time"
)

const (
	// Gaps are counted in buckets that grow by a fifth, from idleMin to idleMax. Shorter gaps are
	// not pauses, and would soon fill the memory of a busy app; after more than idleMax a request
	// may wait for a boot.
	idleMin, idleMax = 10 * time.Second, 4 * time.Hour
	idleSteps        = 4 // buckets to an octave
	idleBuckets      = 44
	// gapsMin is how many gaps have to be known before anything follows from them.
	gapsMin = 16
	// gapsKept is the count at which all counts are halved, so that an app may change its habits.
	gapsKept = 512
	// stretch bounds how much longer than usual an app is kept awake for its habits: an app that
	// needs more sleeps as others do, since its machines would otherwise hardly ever sleep. shrink
	// bounds the other direction.
	stretch, shrink = 6, 10
)

// Habit learns how long an app's pauses are, and so how long its machines are worth keeping after a
// last request. The zero value has learned nothing. It is a value: a copy is a snapshot, and it can
// be saved as JSON across a restart. It is not safe for concurrent use.
type Habit struct {
	counts [idleBuckets]uint32 // the last: longer than idleMax
	n      uint32              // of all counts
}

// Gap adds a pause between two requests, and reports whether it counts: anything shorter than 10 s
// is not a pause.
func (h *Habit) Gap(d time.Duration) bool {
	if d < idleMin {
		return false
	}
	if h.n >= gapsKept {
		h.n = 0
		for b := range h.counts {
			h.counts[b] /= 2
			h.n += h.counts[b]
		}
	}
	h.counts[idleBucket(d)]++
	h.n++
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

// learned returns how long it is worth keeping an app awake after its last request, from its own
// pauses: 1.1 times the length that 99 % of them do not exceed. ok is false if they are not
// conclusive: fewer than 16 are known, or more than 1 % of them are longer than 4 h, so that no
// keep-alive would bridge them.
func (h *Habit) learned() (d time.Duration, ok bool) {
	if h.n < gapsMin {
		return 0, false
	}
	want := h.n - h.n/100
	sum := uint32(0)
	for b := range idleBuckets - 1 {
		if sum += h.counts[b]; sum >= want {
			return idleEnd(b) * 11 / 10, true
		}
	}
	return 0, false
}

// KeepAlive returns how long an app without requests keeps its machines: what has been learned, or
// otherwise.
//
// The result stays near the usual value. It is at most six times otherwise: an app that would have
// to be kept longer gets the usual value. It is shorter than otherwise only if no remembered pause
// would have been cut short by that, and never below a tenth of otherwise.
func (h *Habit) KeepAlive(otherwise time.Duration) time.Duration {
	d, ok := h.learned()
	switch {
	case !ok || d/stretch > otherwise:
		return otherwise
	case d >= otherwise:
		return d
	}
	return min(max(d, h.longestWithin(otherwise), otherwise/shrink), otherwise)
}

// longestWithin returns 1.1 times the longest gap that is not longer than limit.
func (h *Habit) longestWithin(limit time.Duration) time.Duration {
	for b := idleBuckets - 2; b >= 0; b-- {
		if h.counts[b] > 0 && idleEnd(b-1) < limit {
			return idleEnd(b) * 11 / 10
		}
	}
	return 0
}

// habitJSON is the JSON form of a Habit.
type habitJSON struct {
	Counts []uint32 `json:"gaps,omitempty"` // by bucket, without empty ones at the end
}

// MarshalJSON writes the counts.
func (h Habit) MarshalJSON() ([]byte, error) {
	last := 0
	for b, n := range h.counts {
		if n > 0 {
			last = b + 1
		}
	}
	return json.Marshal(habitJSON{h.counts[:last]})
}

// UnmarshalJSON replaces h by what MarshalJSON wrote.
func (h *Habit) UnmarshalJSON(text []byte) error {
	var j habitJSON
	if err := json.Unmarshal(text, &j); err != nil {
		return err
	}
	*h = Habit{}
	copy(h.counts[:], j.Counts)
	for b := range h.counts {
		h.counts[b] = min(h.counts[b], 2*gapsKept)
		h.n += h.counts[b]
	}
	return nil
}
