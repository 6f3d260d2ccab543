package autostart

import (
	"cmp"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/waitroom"
	"github.com/ebbkit/ebb/balance"
)

// rampStep returns for how long a wave lasts; 0 is without waves. No lock is held.
func (q *queue) rampStep() time.Duration {
	if q.a.config.Ramp == nil {
		return 0
	}
	return q.a.config.Ramp(q.app)
}

// boots takes in that a machine starts: what runs already needs no ramp.
func (q *queue) boots(m *balance.Machine) {
	if q.a.config.Ramp == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	r := q.ramps[m.ID]
	switch {
	case m.State == balance.StateStarting && (r == nil || r.Epoch != m.Epoch):
		if q.ramps == nil {
			q.ramps = map[balance.MachineID]*waitroom.Ramp{}
		}
		q.ramps[m.ID] = &waitroom.Ramp{Epoch: m.Epoch}
	case r != nil && m.State != balance.StateStarting && m.State != balance.StateStarted:
		delete(q.ramps, m.ID)
	}
}

// held returns the machines that take nobody before the next wave, of that length. q.mu is held.
func (q *queue) held(now time.Time, step time.Duration) (ids []balance.MachineID) {
	if len(q.ramps) == 0 {
		return nil
	}
	for id, r := range q.ramps {
		if r.Over(now, step) {
			delete(q.ramps, id)
		} else if r.Full(now, step) {
			ids = append(ids, id)
		}
	}
	return ids
}

// ramped counts one who has been let in to m. q.mu is held; who it is has left the room.
func (q *queue) ramped(m *balance.Machine) {
	if r := q.ramps[m.ID]; r != nil && r.Epoch == m.Epoch {
		l := m.Limits
		if rows, ok := q.a.balancer.Fleet().App(q.app); ok {
			l = rows.App().LimitsOf(*m)
		}
		r.Give(time.Now(), cmp.Or(l.Hard, l.Soft), q.room.N+1)
	}
}
