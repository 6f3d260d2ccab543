package waitroom

import (
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Waves are an app's machines that have just become ready, which waiting requests enter in waves,
// see [balance.App.SlowStart]. The zero value has none. It is not safe for concurrent use.
type Waves struct {
	of map[balance.MachineID]*Ramp
}

// Boots records that a machine starts: one that already runs needs no waves.
func (w *Waves) Boots(m *balance.Machine) {
	r := w.of[m.ID]
	switch {
	case m.State == balance.StateStarting && (r == nil || r.Epoch != m.Epoch):
		if w.of == nil {
			w.of = map[balance.MachineID]*Ramp{}
		}
		w.of[m.ID] = &Ramp{Epoch: m.Epoch}
	case r != nil && m.State != balance.StateStarting && m.State != balance.StateStarted:
		delete(w.of, m.ID)
	}
}

// Held returns the machines that admit nobody before the next wave, of that length.
func (w *Waves) Held(now time.Time, step time.Duration) (ids []balance.MachineID) {
	for id, r := range w.of {
		if r.Over(now, step) {
			delete(w.of, id)
		} else if r.Full(now, step) {
			ids = append(ids, id)
		}
	}
	return ids
}

// Admitted counts a request admitted to m, which serves whole at once, out of waiting.
func (w *Waves) Admitted(now time.Time, m *balance.Machine, whole, waiting int) {
	if r := w.of[m.ID]; r != nil && r.Epoch == m.Epoch {
		r.Give(now, whole, waiting)
	}
}

// Ramp admits waiting requests to a machine that has just become ready in waves: a quarter of its
// limit, half of it after a step, all of it after another.
type Ramp struct {
	Epoch uint64 // of the run it is for
	began time.Time
	whole int // the machine's limit
	given int
}

// Over reports whether nothing is held back any more.
func (r *Ramp) Over(now time.Time, step time.Duration) bool {
	return !r.began.IsZero() && now.Sub(r.began) >= 2*step
}

// Full reports whether the present wave is over.
func (r *Ramp) Full(now time.Time, step time.Duration) bool {
	if r.began.IsZero() || r.Over(now, step) {
		return false
	}
	wave := max(1, r.whole/4)
	if now.Sub(r.began) >= step {
		wave *= 2
	}
	return r.given >= wave
}

// Give counts an admitted request, out of waiting. whole is the machine's limit, 0 if it has none.
func (r *Ramp) Give(now time.Time, whole, waiting int) {
	if r.began.IsZero() {
		r.began = now
		if r.whole = whole; whole == 0 {
			r.whole = waiting
		}
	}
	r.given++
}
