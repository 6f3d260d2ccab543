package rtt

import (
	"slices"
	"strings"
	"time"
)

// publish makes a new table when it is time and returns when it will be.
func (m *Mesh) publish(now time.Time) time.Time {
	m.mu.Lock()
	every := tableRest
	switch {
	case m.urgent:
		every = urgentAfter
	case m.dirty:
		every = tableEvery
	}
	if at := m.made.Add(every); !m.made.IsZero() && now.Before(at) {
		m.mu.Unlock()
		return at
	}
	m.dirty, m.urgent, m.made = false, false, now
	rows := make([]row, 0, len(m.byID))
	for _, p := range m.byID {
		s := p.est.Stat(now)
		rows = append(rows, row{p.node, s, s.State == StateLost})
	}
	m.mu.Unlock()

	slices.SortFunc(rows, func(a, b row) int { return strings.Compare(a.node.ID, b.node.ID) })
	t := m.builder.build(now, rows)
	old := m.table.Swap(t)
	m.repace(t)
	m.tell(old, t)
	return now.Add(tableRest)
}

// repace tells every peer how often it is probed from now on.
func (m *Mesh) repace(t *Table) {
	near := nearOnes(t, nearPeers)
	m.mu.Lock()
	defer m.mu.Unlock()
	n, f := intervals(len(near), len(m.byID)-len(near), m.cfg.Interval, m.cfg.FarInterval, float64(m.cfg.Budget))
	for id, p := range m.byID {
		p.pace.every = f
		if near[id] {
			p.pace.every = n
		}
		p.est.Expect(p.pace.every)
	}
}

// tell reports what differs between two tables.
func (m *Mesh) tell(old, t *Table) {
	for _, r := range t.rows {
		was := false
		if i, ok := old.find(r.node.ID); ok {
			was = old.rows[i].lost
		}
		switch {
		case r.lost && !was:
			m.cfg.Logger.Info("rtt: peer lost", "peer", r.node.ID, "region", r.node.Region)
			if f := m.cfg.Trace.Lost; f != nil {
				f(r.node.ID)
			}
		case !r.lost && was:
			m.cfg.Logger.Info("rtt: peer back", "peer", r.node.ID, "region", r.node.Region, "rtt", r.stat.Base)
			if f := m.cfg.Trace.Back; f != nil {
				f(r.node.ID)
			}
		}
	}
	if f := m.cfg.Trace.Table; f != nil {
		f(t)
	}
}
