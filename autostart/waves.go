package autostart

import (
	"time"

	"github.com/ebbkit/ebb/autostart/internal/waitroom"
	"github.com/ebbkit/ebb/balance"
)

// waves are the machines of an app that have just become ready, and that those who wait go to in
// waves, see [balance.App.SlowStart]. The queue's mutex guards it.
type waves struct {
	of map[balance.MachineID]*waitroom.Ramp
}

// boots takes in that a machine starts: what runs already needs no waves.
func (w *waves) boots(m *balance.Machine) {
	r := w.of[m.ID]
	switch {
	case m.State == balance.StateStarting && (r == nil || r.Epoch != m.Epoch):
		if w.of == nil {
			w.of = map[balance.MachineID]*waitroom.Ramp{}
		}
		w.of[m.ID] = &waitroom.Ramp{Epoch: m.Epoch}
	case r != nil && m.State != balance.StateStarting && m.State != balance.StateStarted:
		delete(w.of, m.ID)
	}
}

// held returns the machines that take nobody before the next wave, of that length.
func (w *waves) held(now time.Time, step time.Duration) (ids []balance.MachineID) {
	for id, r := range w.of {
		if r.Over(now, step) {
			delete(w.of, id)
		} else if r.Full(now, step) {
			ids = append(ids, id)
		}
	}
	return ids
}

// admitted counts one who was let in to m, which takes whole at once, of as many as wait.
func (w *waves) admitted(now time.Time, m *balance.Machine, whole, waiting int) {
	if r := w.of[m.ID]; r != nil && r.Epoch == m.Epoch {
		r.Give(now, whole, waiting)
	}
}
