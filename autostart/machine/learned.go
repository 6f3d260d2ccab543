package machine

import (
	"sync"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/boots"
	"github.com/ebbkit/ebb/autostart/machine/internal/health"
	"github.com/ebbkit/ebb/balance"
)

// learned is what this node has learned of the boots of all apps. Its mutex also guards
// hosted.boots.
type learned struct {
	fleet *balance.Fleet

	mu    sync.Mutex
	books map[balance.AppID]*boots.Book // of all machines of an app that this node has booted
	calls boots.Boots                   // how long calls of the driver's Start took
}

// book returns what is known of an app's boots, with the hint from its row. l.mu is held.
func (l *learned) book(app balance.AppID) *boots.Book {
	b := l.books[app]
	if b == nil {
		b = &boots.Book{}
		l.books[app] = b
	}
	if rows, ok := l.fleet.App(app); ok {
		b.Hint(rows.App().BootHint)
	}
	return b
}

func (l *learned) forget(app balance.AppID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.books, app)
}

// call records how long a call of the driver's Start took.
func (l *learned) call(took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls.Learn(took)
}

// boot records a boot and returns how long the machine counts as recent.
func (l *learned) boot(r *run, kind boots.Kind, took time.Duration) (recent time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	recent = health.RecentFor(&r.h.boots[kind])
	r.h.boots[kind].Learn(took)
	l.book(r.m.App).Learn(boots.Key{Revision: r.m.Revision, Kind: kind}, took)
	return recent
}

// likely returns when a boot of r's machine should end.
func (l *learned) likely(r *run, kind boots.Kind) health.Window {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := health.Likely(&r.h.boots[kind])
	if w == (health.Window{}) {
		w = health.Likely(l.book(r.m.App).Of(boots.Key{Revision: r.m.Revision, Kind: kind}))
	}
	return w
}

// patience returns how long a boot of r's machine may take, see [health.Patience].
func (l *learned) patience(r *run, kind boots.Kind) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return health.Patience(l.book(r.m.App), r.m.Revision, kind, r.probe.check.Grace)
}

// callPatience returns how long a call of the driver may take, see [health.CallPatience].
func (l *learned) callPatience() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return health.CallPatience(&l.calls)
}

// known returns what is known of the boots of r's app.
func (l *learned) known(r *run) health.Known {
	l.mu.Lock()
	defer l.mu.Unlock()
	return health.KnownOf(l.book(r.m.App), r.m.Revision, r.probe.check.Grace)
}

// count changes what is known of the boots of r's app.
func (l *learned) count(r *run, change func(*boots.Book)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(l.book(r.m.App))
}
