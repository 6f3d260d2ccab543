package deal

import (
	"fmt"
	"testing"

	"github.com/ebbkit/ebb/balance"
)

// A node at which more requests wait than slots are on their way comes first; else slots go round.
func TestSlotsGoWhereRequestsWait(t *testing.T) {
	var s turns
	for _, n := range []balance.NodeID{"a", "b", "c"} {
		s.ask(n, 0, 10)
	}
	var got []balance.NodeID
	give := func() {
		n, _, ok := s.next(5)
		if !ok {
			n = "-"
		}
		s.hold(n, 1)
		got = append(got, n)
	}
	give()
	s.ask("c", 2, 10)
	for range 4 {
		give()
	}
	if w := "[a c c b -]"; fmt.Sprint(got) != w {
		t.Errorf("slots went to %v, want %s", got, w)
	}
	s.expire(11)
	if _, _, ok := s.next(11); ok {
		t.Error("a slot for a node that is not heard of")
	}
}

// A node that is not heard of gets no slots, neither for what waited there nor to have one at hand,
// whether it has been forgotten already or not.
func TestSilentNodesGetNoSlots(t *testing.T) {
	for _, parked := range []int{0, 3} {
		var s turns
		s.ask("silent", parked, 10)
		s.ask("heard", 1, 99)
		if n, lacks, ok := s.next(10); !ok || parked > 1 && n != "silent" {
			t.Errorf("%d wait there: in time, the slot is for %q (lacks %v)", parked, n, lacks)
		}
		if n, _, ok := s.next(11); !ok || n != "heard" {
			t.Errorf("%d wait there: the slot is for %q, want the node that is heard of", parked, n)
		}
		s.hold("heard", 1)
		if n, _, ok := s.next(11); ok {
			t.Errorf("%d wait there: a slot for %q", parked, n)
		}
	}
}
