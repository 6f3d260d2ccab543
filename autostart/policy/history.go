package policy

import (
	"encoding/json"
	"slices"

	"github.com/ebbkit/ebb/autostart/internal/boots"
)

// History is what a [Planner] has learned of its app: how long its machines take to boot, to stop and
// to be suspended. It is a value to be kept over a restart, as JSON. The zero value knows nothing.
type History struct{ learned boots.History }

// IsZero reports whether h knows nothing.
func (h History) IsZero() bool { return !h.learned.Known() }

// MarshalJSON writes h.
func (h History) MarshalJSON() ([]byte, error) { return json.Marshal(h.learned) }

// UnmarshalJSON replaces h by what MarshalJSON wrote.
func (h *History) UnmarshalJSON(text []byte) error {
	h.learned = boots.History{}
	return json.Unmarshal(text, &h.learned)
}

// History returns what p has learned of boots and stops.
func (p *Planner) History() History {
	h := p.boots.History()
	h.Stops, h.Suspends = p.stops[0], p.stops[1]
	return History{h}
}

// Restore gives p what another planner of the same app has learned, as if p had seen it before all
// else.
func (p *Planner) Restore(h History) {
	p.boots.Restore(boots.History{Boots: slices.Clone(h.learned.Boots)})
	p.stops[0].Follow(h.learned.Stops)
	p.stops[1].Follow(h.learned.Suspends)
}
