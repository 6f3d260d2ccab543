package policy

import (
	"fmt"
	"math"
	"strings"

	"github.com/ebbkit/ebb/balance"
)

// unlimited is the worth of a machine without limits.
const unlimited = math.MaxInt32

func worth(l balance.Limits) int64 {
	switch {
	case l.Soft > 0:
		return int64(l.Soft)
	case l.Hard > 0:
		return int64(l.Hard)
	}
	return unlimited
}

// tally counts capacity for the reason of a decision.
type tally struct {
	ready, starting int
	worth           int64 // of all that are ready
	each            int64 // of each of them; -1 when they differ
}

func (t *tally) add(st use, worth int64) {
	switch st {
	case starting:
		t.starting++
	case ready:
		t.ready++
		t.worth += worth
		if t.ready == 1 {
			t.each = worth
		} else if t.each != worth {
			t.each = -1
		}
	}
}

// reason is the first part of every reason, for that demand.
func (t *tally) reason(demand int) string {
	if demand == 0 { // then no region was searched
		return "demand 0"
	}
	var s strings.Builder
	fmt.Fprintf(&s, "demand %d, ready ", demand)
	switch {
	case t.ready == 0:
		s.WriteString("0")
	case t.each >= unlimited:
		fmt.Fprintf(&s, "%d without limit", t.ready)
	case t.each > 0:
		fmt.Fprintf(&s, "%dx%d", t.ready, t.each)
	default:
		fmt.Fprintf(&s, "%d for %d", t.ready, t.worth)
	}
	fmt.Fprintf(&s, ", starting %d", t.starting)
	return s.String()
}
