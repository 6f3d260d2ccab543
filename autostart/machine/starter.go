package machine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/boots"
	"github.com/ebbkit/ebb/autostart/machine/internal/health"
	"github.com/ebbkit/ebb/balance"
)

// Config configures a [Starter].
type Config struct {
	// Check says when a machine is ready, and how it is checked afterwards.
	Check Check
	// CheckOf returns the check of an app, instead of Check. It is called for each start, and must
	// not block. A check that makes no sense fails the start. nil means Check for all.
	CheckOf func(balance.App) Check
	// Readiness says when a machine is ready, instead of looks at it. nil: the driver does, if it is a
	// [Readiness], else Check.
	Readiness Readiness
	// BootCap bounds a start, from the call of the driver to ready. A machine that takes longer is
	// stopped and has failed. 0 means 10 min.
	BootCap time.Duration
	// Parallel bounds the starts that are under way at once, so that a host is not busy with all of
	// them and ready with none, and so that an interface with a limit on calls is not run over. A
	// start counts from the call of the driver until the machine is ready, but not for longer than
	// 2 s after the call. The others wait in the order in which they were accepted, and count as
	// starting. 0 means 16; negative: no bound.
	Parallel int
	// Recent is how long after ready failing checks mean "coming" rather than "broken". 0 means as
	// long as the machine's longest known boot, between 5 s and 1 min, and 20 s before one is known;
	// negative: not at all.
	Recent time.Duration
	// RestartAfter is how long the checks of a machine that was ready may fail until it is stopped
	// and started again, where its app's own RestartAfter is 0. 0 means 30 s; negative: never. A
	// machine at whose address nothing listens any longer is restarted after 1 s already. What is
	// in flight there is cut off. Each restart that does not help doubles both, up to 16 times;
	// answers to requests do not count. Where all machines of an app fail their checks, only the
	// first of the canonical order is restarted.
	RestartAfter time.Duration
	Trace        Trace
}

// stopTimeout bounds the stop of a machine that failed to start, and the wait for a driver that
// does not end with its context.
const stopTimeout = 10 * time.Second

// ErrNotRunning is returned by [Starter.Start] after Run has ended, and when the context ends
// before Run begins.
var ErrNotRunning = errors.New("machine: the starter does not run")

// Starter carries out the starts of the machines that its node owns: it moves their gates from
// starting to started or failed, notices when they end, and checks their health while they run.
// What went wrong is in the row's Fault. All methods are safe for concurrent use.
//
// A driver that panics, blocks or answers nonsense costs its own machine's start and nothing else.
type Starter struct {
	fleet  *balance.Fleet
	driver Driver
	config Config
	probe  *prober
	turns  turns

	ran   atomic.Bool
	begun chan struct{} // closed by Run

	mu    sync.Mutex
	base  context.Context // of Run; nil when it does not run
	jobs  sync.WaitGroup
	hosts map[balance.MachineKey]*hosted
	books map[balance.AppID]*boots.Book // of all machines of an app that this node has booted
	calls boots.Boots                   // how long calls of the driver's Start took
}

// hosted is what a starter holds of one machine; Starter.mu guards it.
type hosted struct {
	run       *run      // the last start
	calling   bool      // the driver has not come back from a call
	notBefore time.Time // the driver wants to be called again
	boots     [2]boots.Boots
	tries     int // restarts in a row that have not helped

	restarted, ready time.Time // when it was and became so, the last time
}

// run is one start of a machine and what follows, until it ends or the machine is started again.
type run struct {
	m         balance.Machine // as of the start; Addr is set when it is known
	gate      *balance.Gate
	token     uint64
	ctx       context.Context
	end       context.CancelCauseFunc // with an ended, when the machine has
	began     time.Time
	suspect   chan struct{} // holds one when it is to be looked at now
	probe     *prober
	lastCheck lastCheck   // by the last look while it boots
	up        atomic.Bool // it has become ready; edits of the row look
}

// ended is the cause with which a run ends when its machine does.
type ended struct{ exit Exit }

func (e *ended) Error() string { return e.exit.Reason }

// errAgain ends a run whose machine is started again.
var errAgain = errors.New("started again")

// NewStarter returns a starter for the machines that f's node hosts. It starts nothing; see
// [Starter.Run].
func NewStarter(f *balance.Fleet, d Driver, c Config) (*Starter, error) {
	switch {
	case f == nil:
		return nil, fmt.Errorf("machine: NewStarter without a fleet: make one with balance.NewFleet")
	case d == nil:
		return nil, fmt.Errorf("machine: NewStarter without a driver: package process has one")
	case c.BootCap < 0:
		return nil, fmt.Errorf("machine: Config.BootCap %v: want 0 (10 min) or more", c.BootCap)
	}
	if c.BootCap == 0 {
		c.BootCap = 10 * time.Minute
	}
	if c.RestartAfter == 0 {
		c.RestartAfter = health.RestartDefault
	}
	if c.Readiness == nil {
		c.Readiness, _ = d.(Readiness)
	}
	var err error
	if c.Check, err = c.Check.withDefaults(); err != nil {
		return nil, err
	}
	c.Parallel = cmp.Or(c.Parallel, 16)
	return &Starter{
		fleet: f, driver: d, config: c, probe: newProber(c.Check),
		turns: turns{limit: c.Parallel}, begun: make(chan struct{}),
		hosts: map[balance.MachineKey]*hosted{}, books: map[balance.AppID]*boots.Book{},
	}, nil
}

// Run carries out starts, watches for exits and checks health until ctx ends. Then it stops the
// machines that are still booting, leaves the others as they are, and returns nil. A Starter runs
// once: another call returns an error.
func (s *Starter) Run(ctx context.Context) error {
	if s.ran.Swap(true) {
		return errors.New("machine: Starter.Run was called before: make another starter with NewStarter")
	}
	s.mu.Lock()
	s.base = ctx
	s.mu.Unlock()
	close(s.begun)
	release := s.fleet.Keep(balance.Keeper{Wanted: s.wanted, Suspect: s.suspect, Removed: s.removed})
	s.watch(ctx)
	release()
	s.mu.Lock()
	s.base = nil
	s.mu.Unlock()
	s.jobs.Wait()
	return nil
}

// watch keeps the driver's Watch going until ctx ends.
func (s *Starter) watch(ctx context.Context) {
	for n := 1; ; n++ {
		began := time.Now()
		err := s.bounded(
			ctx, time.Second, func(ctx context.Context) error { return s.driver.Watch(ctx, s.exited) },
		)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("it returned early")
		}
		s.config.Trace.watchFailed(fmt.Errorf("machine: the driver's Watch: %w", err))
		if time.Since(began) > time.Minute {
			n = 0
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(boots.Backoff(n, 1<<63)):
		}
	}
}

// Start starts m from the epoch of its row, unless it has moved on, and returns what came of that;
// the rest is Run's. It is idempotent: however often and by whom a start is asked for, one comes of
// it. It waits only for Run to begin, so that requests may come before everything is up. The error
// is [ErrNotRunning], or says that m is not this node's.
func (s *Starter) Start(ctx context.Context, m balance.Machine) (balance.StartAnswer, error) {
	gate := s.fleet.Gate(m.App, m.ID)
	if gate == nil {
		return balance.StartRefused, fmt.Errorf(
			"machine: machine %q of app %q is not owned by node %q: ask its owner", m.ID, m.App,
			s.fleet.Node(),
		)
	}
	select {
	case <-s.begun:
	case <-ctx.Done():
		return balance.StartRefused, fmt.Errorf("%w: %w", ErrNotRunning, context.Cause(ctx))
	}
	if !s.running() {
		return balance.StartRefused, ErrNotRunning
	}
	if gate.State() == balance.StateStopping || gate.State() == balance.StateSuspending {
		s.host(m) // before the gate may remember it
	}
	token, answer := gate.Start(m.Epoch)
	if answer != balance.StartAccepted {
		return answer, nil
	}
	m = s.row(m)
	m.Epoch = gate.Load().Epoch // it cannot change while the machine is starting
	if !s.begin(m, gate, token) {
		s.fail(m, gate, token, "shutting down")
		return balance.StartRefused, ErrNotRunning
	}
	return answer, nil
}

// wanted does a start that a gate has remembered while the machine was being stopped. Of several
// starters it is for the one that was asked, or that has started the machine before.
func (s *Starter) wanted(app balance.AppID, id balance.MachineID) {
	s.mu.Lock()
	_, mine := s.hosts[balance.MachineKey{App: app, ID: id}]
	s.mu.Unlock()
	rows, ok := s.fleet.App(app)
	if !ok || !mine {
		return
	}
	if m, ok := rows.Machine(id); ok {
		// it does not wait, as Run has begun; who has been quicker is no error
		_, _ = s.Start(context.Background(), m)
	}
}

// removed forgets a machine that has left the fleet, and its app with the last of its machines.
func (s *Starter) removed(app balance.AppID, id balance.MachineID) {
	_, known := s.fleet.App(app)
	s.mu.Lock()
	defer s.mu.Unlock()
	key := balance.MachineKey{App: app, ID: id}
	if h := s.hosts[key]; h != nil && h.run != nil {
		h.run.end(errAgain)
	}
	delete(s.hosts, key)
	if !known {
		delete(s.books, app)
	}
}

// host returns what is held of a machine, made on demand.
func (s *Starter) host(m balance.Machine) *hosted {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hostLocked(m)
}

func (s *Starter) hostLocked(m balance.Machine) *hosted {
	h := s.hosts[m.Key()]
	if h == nil {
		h = &hosted{}
		s.hosts[m.Key()] = h
	}
	return h
}

func (s *Starter) running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.base != nil && s.base.Err() == nil
}

// begin makes a run of an accepted start.
func (s *Starter) begin(m balance.Machine, gate *balance.Gate, token uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.base == nil || s.base.Err() != nil {
		return false
	}
	h := s.hostLocked(m)
	if h.run != nil {
		h.run.end(errAgain)
	}
	r := &run{m: m, gate: gate, token: token, suspect: make(chan struct{}, 1)}
	r.ctx, r.end = context.WithCancelCause(s.base)
	h.run = r
	s.jobs.Go(func() {
		defer s.ended(h, r)
		if s.boot(h, r) {
			s.attend(h, r)
		}
	})
	return true
}

// ended lets go of a run that is over: a machine that sleeps holds nothing of it.
func (s *Starter) ended(h *hosted, r *run) {
	r.end(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.run == r {
		h.run = nil
	}
}

// row returns m as its row is now.
func (s *Starter) row(m balance.Machine) balance.Machine {
	if app, ok := s.fleet.App(m.App); ok {
		if now, ok := app.Machine(m.ID); ok {
			return now
		}
	}
	return m
}

// edit changes the row of r's machine as long as it is about the same start.
func (s *Starter) edit(r *run, change func(*balance.Machine)) {
	// An error means that the machine has been removed: then there is nothing to say about it.
	_ = s.fleet.Edit(r.m.App, r.m.ID, func(m *balance.Machine) {
		if m.Epoch == r.m.Epoch {
			change(m)
		}
	})
}

// book returns what is known of the boots of r's app, with the hint from its row. s.mu is held.
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

// ErrTooLate is what a recall answers when the machine's gate has closed: start the machine
// instead.
var ErrTooLate = errors.New("machine: too late to recall: the machine is stopping or has stopped")

// Recall ends the soft cordon that m's row speaks of, so that the machine counts again. With it a
// Starter is an Owner of package autostart for the machines of its own process; who decided on the
// cordon sees at the gate that it is over. It is nil also when that cordon was over already and the
// machine runs. It does not wait and needs no Run.
func (s *Starter) Recall(_ context.Context, m balance.Machine) error {
	g := s.fleet.Gate(m.App, m.ID)
	if g == nil {
		return fmt.Errorf(
			"machine: machine %q of app %q is not owned by node %q: ask its owner", m.ID, m.App,
			s.fleet.Node(),
		)
	}
	if !g.Uncordon(m.CordonGen) && g.State() != balance.StateStarted {
		return fmt.Errorf("%w: %q is %v", ErrTooLate, m.ID, g.State())
	}
	return nil
}
