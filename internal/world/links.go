package world

import (
	"fmt"
	"time"

	"github.com/ebbkit/ebb/internal/events"
	"github.com/ebbkit/ebb/internal/report"
	"github.com/ebbkit/ebb/internal/status"
)

// usualLinks returns the links as they were at the start of the world, nearest pairs of the flag's
// order first. It returns none if links take no time, since undelayed connections cannot be slowed
// later.
func (w *World) usualLinks() (ls []status.Link) {
	if w.config.Near {
		return nil
	}
	for i, a := range w.config.Regions {
		for _, b := range w.config.Regions[i+1:] {
			ls = append(
				ls, status.Link{From: a.Name, To: b.Name, Usual: report.Millis(w.links.RTT(a.Name, b.Name))},
			)
		}
	}
	return ls
}

// Links implements [status.Links].
func (w *World) Links() []status.Link {
	ls := append([]status.Link(nil), w.usual...)
	for i := range ls {
		ls[i].MS = report.Millis(w.links.RTT(ls[i].From, ls[i].To))
	}
	return ls
}

// SetLink implements [status.Links]: measurements, and decisions based on them, follow the change.
func (w *World) SetLink(from, to string, rtt time.Duration) error {
	// A link without delay hands out connections that could never be slowed again.
	rtt = max(rtt, 2*time.Nanosecond)
	before := w.links.RTT(from, to)
	w.links.Set(from, to, rtt)
	w.log.Add(
		events.Event{
			Kind: "link", Node: from + "–" + to,
			Reason: fmt.Sprintf("round trip set from %v to %v", report.Rounded(before), report.Rounded(rtt)),
		},
	)
	return nil
}
