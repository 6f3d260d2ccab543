package policy

import (
	"fmt"
	"strings"
)

// tally counts capacity for the reason of a decision.
type tally struct {
	ready, starting int
	worth           int64 // of all that are ready
	each            int64 // of each of them; -1 when they differ
}

func (t *tally) add(st standing, worth int64) {
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

// inputs is the first part of every reason.
func (r *plan) inputs() string {
	if r.d.Demand == 0 { // then it was not looked for anywhere
		return "demand 0"
	}
	var s strings.Builder
	fmt.Fprintf(&s, "demand %d, ready ", r.d.Demand)
	switch t := &r.home; {
	case t.ready == 0:
		s.WriteString("0")
	case t.each >= unlimited:
		fmt.Fprintf(&s, "%d without limit", t.ready)
	case t.each > 0:
		fmt.Fprintf(&s, "%dx%d", t.ready, t.each)
	default:
		fmt.Fprintf(&s, "%d for %d", t.ready, t.worth)
	}
	fmt.Fprintf(&s, ", starting %d", r.home.starting)
	return s.String()
}
