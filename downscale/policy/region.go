package policy

import (
	"math"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// regionLoad is what a decider knows of one region: what it remembers, and the sums of the
// present Situation.
type regionLoad struct {
	name    string
	window  window
	started time.Time // when a start was last under way
	asked   map[balance.MachineID]asked

	sums
	sparing
}

// asked records since when it has been another owner's turn to let a machine go.
type asked struct{ since, last time.Time }

type sums struct {
	here     bool // the region has machines of the app
	load     int
	burst    int     // by how much peaks exceeded the load beyond noise, summed
	noise    float64 // the squares of the noise part of that excess, summed
	running  int     // of all owners: started or starting, not leaving
	mine     int     // of this node: started, not leaving
	known    int     // mine, and of others with a known load: started, not leaving
	leaving  int     // of those
	capacity int     // of known
	endless  int     // how many of known have no limit
	stale    bool
	starting balance.MachineID
}

// sparing is the state of a region while the present answer is made.
type sparing struct {
	open      bool // more may be spared
	room      int  // how many more
	spared    bool
	vetoed    bool
	oldVetoed bool // one of an old revision is
	busy      balance.MachineID
	keep      balance.Class     // of busy: the long connections that keep it
	turn      balance.MachineID // a machine of another owner that goes first
	recalled  bool
}

// split divides the excess of a machine's peak over its load into noise and burst. Requests that
// arrive by chance vary by the root of their number, and three times that is as far as chance goes
// in a second; anything above has a cause that other machines are likely to share.
func split(load, peak int) (noise float64, burst int) {
	above := max(0, peak-load)
	limit := int(3*math.Sqrt(float64(max(1, load))) + 0.5)
	return float64(min(above, limit)), max(0, above-limit)
}

// peak estimates the most that the region's machines had together. Their own peaks came at
// different times: the noise part is independent, so its squares add up, not the peaks themselves.
func (r *regionLoad) peak() int { return r.load + r.burst + int(math.Sqrt(r.noise)+0.5) }

// add counts m's capacity in, or out with -1.
func (r *regionLoad) add(m *Seen, sign int) {
	switch c := capacity(m); c {
	case unlimited:
		r.endless += sign
	default:
		r.capacity += sign * c
	}
}

// The classes of machines, the ones to be spared first at the front; classNone cannot be spared.
const (
	classOldIdle = iota
	classOldBusy
	classOldLong
	classIdle
	classBusy
	classLong
	classes
	classNone
)

func isOld(m *Seen, revision string) bool { return revision != "" && m.Revision != revision }

func classOf(m *Seen, revision string) int {
	if !m.Own && !m.Known || m.Leaving || m.Hard || m.State != balance.StateStarted {
		return classNone
	}
	class := classIdle
	if isOld(m, revision) {
		class = classOldIdle
	}
	switch {
	case m.Own && m.Long > 0:
		class += classLong - classIdle
	case m.Load > m.Idle || m.Own && m.Used:
		class += classBusy - classIdle
	}
	return class
}

// waited reports whether another owner has kept a machine for so long that others may go instead.
func (r *regionLoad) waited(id balance.MachineID, now time.Time, patience time.Duration) bool {
	a := r.asked[id]
	if a.since.IsZero() || now.Sub(a.last) > patience { // not asked recently
		a.since = now
	}
	a.last = now
	if r.asked == nil {
		r.asked = map[balance.MachineID]asked{}
	}
	r.asked[id] = a
	return now.Sub(a.since) >= patience
}
