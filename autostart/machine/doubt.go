package machine

import (
	"fmt"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/boots"
	"github.com/ebbkit/ebb/balance"
)

// doubtMin is how long no start is doubted: a host that is busy makes a quick boot late. It is half of what a request waits at
// least, so that another machine may still come in time.
const doubtMin = boots.WaitMin / 2

// patience returns how long a start of r's machine may take before the row says that it does not become healthy: what is
// suspect after all that this node has seen of the app, see boots.Boots.Suspect. A resume may have to become a cold boot.
func (s *Starter) patience(r *run, kind boots.Kind) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	book := s.book(r)
	d := max(doubtMin, r.probe.check.Grace, book.Of(boots.Key{Revision: r.m.Revision, Kind: boots.Cold}).Suspect())
	if kind == boots.Resume {
		d = max(d, book.Of(boots.Key{Revision: r.m.Revision, Kind: boots.Resume}).Suspect())
	}
	return d
}

// book returns what is known of the boots of r's app, as of its row's hint. s.mu is held.
func (s *Starter) book(r *run) *boots.Book {
	b := s.books[r.m.App]
	if b == nil {
		b = &boots.Book{}
		s.books[r.m.App] = b
	}
	if rows, ok := s.fleet.App(r.m.App); ok {
		b.Hint(rows.App().BootHint)
	}
	return b
}

// doubt says in the row of a machine that starts, and that has been looked at in vain for longer than its boots take, that its
// checks fail and that this is not to be expected. It goes on starting, and its start may still end well; but where nothing
// else serves, one other machine is started.
func (s *Starter) doubt(r *run, began time.Time) {
	told := false
	s.edit(r, func(m *balance.Machine) {
		if told = m.State == balance.StateStarting && !r.up.Load(); told {
			m.Health, m.Recent = balance.HealthFailing, false
		}
	})
	if told {
		took := time.Since(began).Round(time.Millisecond)
		s.config.Trace.health(r.m, balance.HealthFailing, fmt.Errorf("not ready after %v", took))
	}
}
