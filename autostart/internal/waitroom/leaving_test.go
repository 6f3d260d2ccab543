package waitroom

import (
	"testing"

	"github.com/ebbkit/ebb/balance"
)

// What was in flight at a machine before its cordon does not have it recalled; what comes later
// does.
func TestWhatAMachineHeldBeforeItsCordonIsNoDemand(t *testing.T) {
	const none, soft, hard = balance.CordonNone, balance.CordonSoft, balance.CordonHard
	type look struct {
		cordon balance.Cordon
		state  balance.State
		own    int
		others int
		told   int // by other nodes
		want   int // of own
		rest   int // of told
	}
	const up = balance.StateStarted
	for _, c := range []struct {
		name  string
		looks []look
	}{
		{"what runs", []look{{none, up, 3, 2, 2, 3, 2}, {none, up, 1, 0, 0, 1, 0}}},
		{"held since before", []look{{none, up, 1, 0, 0, 1, 0}, {soft, up, 1, 0, 0, 0, 0}, {soft, up, 1, 0, 0, 0, 0}}},
		{"one comes later", []look{{none, up, 1, 0, 0, 1, 0}, {soft, up, 2, 0, 0, 1, 0}, {soft, up, 3, 0, 0, 2, 0}}},
		{"one comes where nothing was", []look{{none, up, 0, 0, 0, 0, 0}, {soft, up, 1, 0, 0, 1, 0}}},
		{"one comes to a machine that was not known", []look{{soft, up, 1, 0, 0, 1, 0}, {soft, up, 1, 0, 0, 1, 0}}},
		{"one ends, and then another comes", []look{{none, up, 2, 0, 0, 2, 0}, {soft, up, 1, 0, 0, 0, 0}, {soft, up, 2, 0, 0, 1, 0}}},
		{"all ends, and then one comes", []look{{none, up, 1, 0, 0, 1, 0}, {soft, up, 0, 0, 0, 0, 0}, {soft, up, 1, 0, 0, 1, 0}}},
		{"recalled", []look{{none, up, 1, 0, 0, 1, 0}, {soft, up, 1, 0, 0, 0, 0}, {none, up, 1, 0, 0, 1, 0}}},
		{"cordoned again", []look{{none, up, 1, 0, 0, 1, 0}, {soft, up, 2, 0, 0, 1, 0}, {none, up, 2, 0, 0, 2, 0}, {soft, up, 2, 0, 0, 0, 0}}},
		{"it stops, with its connections", []look{{none, up, 1, 0, 0, 1, 0}, {soft, balance.StateStopping, 1, 0, 0, 1, 0}}},
		{"a hard cordon has the requests go elsewhere soon", []look{{none, up, 1, 0, 0, 1, 0}, {hard, up, 1, 1, 1, 1, 1}}},
		{"other nodes' are there too", []look{{soft, up, 0, 1, 1, 0, 0}, {soft, up, 0, 1, 4, 0, 3}}},
		{"other nodes' end, and they tell later", []look{{none, up, 0, 1, 1, 0, 1}, {soft, up, 0, 1, 1, 0, 0}, {soft, up, 0, 0, 1, 0, 0}, {none, up, 0, 0, 1, 0, 1}}},
		{"other nodes' end before they tell so", []look{{soft, up, 0, 2, 1, 0, 0}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var l Leaving
			for i, k := range c.looks {
				m := balance.Machine{App: "web", ID: "m", State: k.state, Cordon: k.cordon}
				l.Begin()
				got := l.Look(&m, k.own, k.others)
				l.End()
				if rest := l.Elsewhere(k.told); got != k.want || rest != k.rest {
					t.Errorf("look %d: %d own and %d others', want %d and %d", i, got, rest, k.want, k.rest)
				}
			}
			l.Begin()
			if l.End(); l.held != nil {
				t.Errorf("remembered of machines that are gone: %v", l.held)
			}
		})
	}
}
