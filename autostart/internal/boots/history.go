package boots

import (
	"encoding/json"
	"time"
)

// History is what has been learned of one app's boots and stops: a value to be kept over a restart,
// in JSON or otherwise. The zero value knows nothing.
type History struct {
	Boots []HistoryBoots `json:"boots,omitempty"`
	// Stops and Suspends are how long its machines took to stop and to be suspended. They decide
	// whether to wait for a machine that is stopping or to start another.
	Stops    Boots `json:"stops,omitzero"`
	Suspends Boots `json:"suspends,omitzero"`
}

// Known reports whether h knows anything.
func (h *History) Known() bool { return len(h.Boots) > 0 || h.Stops.Known() || h.Suspends.Known() }

// HistoryBoots are the boots of one kind.
type HistoryBoots struct {
	// All says that they are those of all revisions together; else they are Revision's. Revisions are
	// in the order in which they last booted.
	All      bool   `json:"all,omitempty"`
	Revision string `json:"revision,omitempty"`
	Resume   bool   `json:"resume,omitempty"` // resumes, else cold boots
	Boots    Boots  `json:"boots"`
}

// bootsJSON is the JSON form of Boots.
type bootsJSON struct {
	Hint time.Duration   `json:"hintNs,omitempty"`
	Last []time.Duration `json:"lastNs,omitempty"` // oldest first
}

// MarshalJSON writes the hint and the remembered boots, in nanoseconds and oldest first.
func (b Boots) MarshalJSON() ([]byte, error) {
	return json.Marshal(bootsJSON{b.Hint, b.last})
}

// UnmarshalJSON replaces b by what MarshalJSON wrote. It drops negative durations, and keeps the
// last ones if there are too many.
func (b *Boots) UnmarshalJSON(text []byte) error {
	var j bootsJSON
	if err := json.Unmarshal(text, &j); err != nil {
		return err
	}
	*b = Boots{Hint: max(j.Hint, 0)}
	for _, d := range j.Last {
		b.Learn(d)
	}
	return nil
}

func (k *Book) History() (h History) {
	for kind := range k.All {
		if b := k.All[kind]; len(b.last) > 0 {
			b.Hint = 0 // the app's row says it
			h.Boots = append(h.Boots, HistoryBoots{All: true, Resume: Kind(kind) == Resume, Boots: b})
		}
	}
	for _, r := range k.recent {
		b := r.Boots
		b.Hint = 0
		h.Boots = append(h.Boots, HistoryBoots{Revision: r.Revision, Resume: r.Kind == Resume, Boots: b})
	}
	return h
}

// Restore puts h before what has been learned since.
func (k *Book) Restore(h History) {
	since := *k
	*k = Book{}
	for kind := range since.All {
		k.All[kind].Hint = since.All[kind].Hint
	}
	for _, from := range []History{h, since.History()} {
		for _, e := range from.Boots {
			key := Key{e.Revision, Cold}
			if e.Resume {
				key.Kind = Resume
			}
			for _, took := range e.Boots.last {
				if e.All {
					k.All[key.Kind].Learn(took)
				} else {
					k.revision(key).Learn(took)
				}
			}
		}
	}
}
