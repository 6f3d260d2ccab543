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
	// Readiness says when a machine is ready, instead of Check. nil means the driver, if it is a
	// [Readiness], else Check.
	Readiness Readiness
	// BootCap bounds a start, from the call of the driver to ready. A machine that takes longer is
	// stopped and has failed. 0 means 10 min.
	BootCap time.Duration
	// Parallel bounds the starts that are under way at once, so that a host does not boot all of them
	// at once with none of them getting ready, and so that an interface with a limit on calls is not
	// overrun. A start counts from the call of the driver until the machine is ready, but not for
	// longer than 2 s after the call. The others wait in the order in which they were accepted, and
	// count as starting. 0 means 16; negative: no bound.
	Parallel int
	Trace    Trace
}

// Starter carries out the starts of the machines that its node owns: it moves their gates from
// starting to started or failed, notices when they end, and checks their health while they run. A
// machine whose checks fail for its app's [balance.App.RestartAfter], by default 30 s, is stopped
// and started again; one at whose address nothing listens any longer is restarted after 1 s.
// Requests in flight there are cut off. Each restart that does not help doubles both times, up to
// 16 times their length; how requests are answered does not count. If all machines of an app fail
// their checks, only the first of the canonical order is restarted.
//
// What went wrong is in the row's Fault. A driver that panics, blocks or answers nonsense fails the
// start of that one machine and nothing else. All methods are safe for concurrent use.
type Starter struct {
	fleet   *balance.Fleet
	config  Config
	probe   *prober
	turns   turns
	calls   calls
	learned learned

	ran   atomic.Bool
	begun chan struct{} // closed when starts may begin

	mu       sync.Mutex
	base     context.Context // of Run; nil when it does not run
	jobs     sync.WaitGroup
	hosts    map[balance.MachineKey]*hosted
	adoption adoption
}

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
	if c.Readiness == nil {
		c.Readiness, _ = d.(Readiness)
	}
	var err error
	if c.Check, err = c.Check.withDefaults(); err != nil {
		return nil, err
	}
	c.Parallel = cmp.Or(c.Parallel, 16)
	return &Starter{
		fleet: f, config: c, probe: newProber(c.Check), turns: turns{limit: c.Parallel},
		calls:   calls{driver: d},
		learned: learned{fleet: f, books: map[balance.AppID]*boots.Book{}},
		begun:   make(chan struct{}), hosts: map[balance.MachineKey]*hosted{},
	}, nil
}

// Run carries out starts, watches for exits and checks health until ctx ends. Then it stops the
// machines that are still booting, leaves the others as they are, and returns nil. A Starter runs
// once: another call returns an error.
//
// If the driver is a [Lister], Run begins by adopting the machines of the node that run already,
// started by an earlier process or by an earlier Starter. An adopted machine keeps its epoch, is
// starting until it passes its check, and is then checked and watched as any other. It may still
// work on requests of an earlier process: one slot of its gate is taken for a minute, or its app's
// AbandonedHold, so that it is not stopped meanwhile. Machines that the node does not host are
// reported to [Trace] and left alone; one that is hosted later is adopted when it is to be started.
// So host all machines before Run. No start begins before List has answered, but for 10 s at most:
// after that, starting a machine that runs already fails, and ends it.
func (s *Starter) Run(ctx context.Context) error {
	if s.ran.Swap(true) {
		return errors.New("machine: Starter.Run was called before: make another starter with NewStarter")
	}
	s.mu.Lock()
	s.base = ctx
	s.mu.Unlock()
	begin := sync.OnceFunc(func() { close(s.begun) })
	if l, ok := s.calls.driver.(Lister); ok {
		s.adoption.begin(s)
		s.jobs.Go(func() { s.adoption.run(ctx, l, begin) })
	} else {
		begin()
	}
	release := s.fleet.Keep(balance.Keeper{Wanted: s.wanted, Suspect: s.suspect, Removed: s.removed})
	s.watch(ctx)
	release()
	s.mu.Lock()
	s.base = nil
	s.mu.Unlock()
	begin()
	s.jobs.Wait()
	return nil
}

// watch calls the driver's Watch, again when it fails, until ctx ends.
func (s *Starter) watch(ctx context.Context) {
	for n := 1; ; n++ {
		began := time.Now()
		err := bounded(
			ctx, func(ctx context.Context) error { return s.calls.driver.Watch(ctx, s.exited) },
		)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("it returned early")
		}
		s.config.Trace.driverFailed(fmt.Errorf("machine: the driver's Watch: %w", err))
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

// Start starts m from the epoch of its row, unless the machine has moved on, and returns the gate's
// answer; Run does the rest. It is idempotent: however often a start is asked for, and by whomever,
// the machine starts once. It waits only for Run to begin, so that requests may come before
// everything is up. The error says that Run has ended, that ctx ended before Run began, or that
// this node does not own m.
func (s *Starter) Start(ctx context.Context, m balance.Machine) (balance.StartAnswer, error) {
	gate, err := s.gate(m)
	if err != nil {
		return balance.StartRefused, err
	}
	select {
	case <-s.begun:
	case <-ctx.Done():
		return balance.StartRefused, fmt.Errorf("%w: %w", errNotRunning, context.Cause(ctx))
	}
	if !s.running() {
		return balance.StartRefused, errNotRunning
	}
	if r, ok := s.adoption.take(m.Key()); ok && s.adoption.adopt(r) {
		return balance.StartAccepted, nil
	}
	if st := gate.State(); st == balance.StateStopping || st == balance.StateSuspending {
		s.host(m.Key()) // hosted before the gate may remember the start, see wanted
	}
	token, answer := gate.Start(m.Epoch)
	if answer != balance.StartAccepted {
		return answer, nil
	}
	m = s.row(m)
	m.Epoch = gate.Load().Epoch // it cannot change while the machine is starting
	r := s.newRun(m, gate, token)
	if !s.begin(r, func() bool { return (&boot{run: r}).start() }) {
		r.fail("shutting down")
		return balance.StartRefused, errNotRunning
	}
	return answer, nil
}

var errNotRunning = errors.New("machine: the starter does not run")

// Recall ends the soft cordon that m's row shows, so that the machine counts as capacity again.
// With it a Starter is an Owner of package autostart for the machines of its own process; whoever
// set the cordon sees at the gate that it is over. It also returns nil when that cordon was over
// already and the machine runs. It does not wait and needs no Run. The error says that it is too
// late, and the machine must be started instead, or that this node does not own m.
func (s *Starter) Recall(_ context.Context, m balance.Machine) error {
	g, err := s.gate(m)
	if err != nil {
		return err
	}
	if st := g.State(); !g.Uncordon(m.CordonGen) && g.State() != balance.StateStarted {
		return fmt.Errorf("machine: too late to recall machine %q of app %q: it is %v", m.ID, m.App, st)
	}
	return nil
}

// gate returns the gate of a machine that this node owns.
func (s *Starter) gate(m balance.Machine) (*balance.Gate, error) {
	if g := s.fleet.Gate(m.App, m.ID); g != nil {
		return g, nil
	}
	return nil, fmt.Errorf(
		"machine: machine %q of app %q is not owned by node %q: ask its owner", m.ID, m.App,
		s.fleet.Node(),
	)
}

// wanted carries out a start that a gate has remembered while the machine was being stopped. Of
// several starters only the one that was asked, or that has started the machine before, does so.
func (s *Starter) wanted(app balance.AppID, id balance.MachineID) {
	s.mu.Lock()
	_, mine := s.hosts[balance.MachineKey{App: app, ID: id}]
	s.mu.Unlock()
	rows, ok := s.fleet.App(app)
	if !ok || !mine {
		return
	}
	if m, ok := rows.Machine(id); ok {
		// Start does not wait, as Run has begun; it is no error if somebody else was quicker
		_, _ = s.Start(context.Background(), m)
	}
}

// suspect has a machine checked at once: a request found that nothing listens at its address.
func (s *Starter) suspect(app balance.AppID, id balance.MachineID, epoch uint64) {
	if r := s.runOf(balance.MachineKey{App: app, ID: id}, epoch); r != nil {
		r.lookNow()
	}
}

// removed forgets a machine that has left the fleet, and its app with the last of its machines.
func (s *Starter) removed(app balance.AppID, id balance.MachineID) {
	_, known := s.fleet.App(app)
	s.mu.Lock()
	key := balance.MachineKey{App: app, ID: id}
	if h := s.hosts[key]; h != nil && h.run != nil {
		h.run.end(errAgain)
	}
	delete(s.hosts, key)
	s.mu.Unlock()
	if !known {
		s.learned.forget(app)
	}
}

// exited takes in the driver's report that a machine has ended. It does not block: the machine's
// own goroutine does the rest.
func (s *Starter) exited(e Exit) {
	key := balance.MachineKey{App: e.App, ID: e.ID}
	s.adoption.exited(key, e)
	// else it is about an earlier start, or somebody else's machine
	if r := s.runOf(key, e.Epoch); r != nil {
		r.end(&ended{e})
	}
}

// runOf returns the run of a machine's start of that epoch, if it is the last, or nil.
func (s *Starter) runOf(key balance.MachineKey, epoch uint64) *run {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.hosts[key]; h != nil && h.run != nil && h.run.m.Epoch == epoch {
		return h.run
	}
	return nil
}

// host returns the entry of a machine, made on demand.
func (s *Starter) host(key balance.MachineKey) *hosted {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.hosts[key]
	if h == nil {
		h = &hosted{}
		s.hosts[key] = h
	}
	return h
}

func (s *Starter) running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.base != nil && s.base.Err() == nil
}

// newRun makes a run of an accepted start.
func (s *Starter) newRun(m balance.Machine, gate *balance.Gate, token uint64) *run {
	return &run{
		s: s, h: s.host(m.Key()), m: m, gate: gate, token: token, suspect: make(chan struct{}, 1),
	}
}

// begin begins a run: it calls boot and, if that reports that the machine is ready, attends to it.
// It reports false when Run does not run.
func (s *Starter) begin(r *run, boot func() bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.base == nil || s.base.Err() != nil {
		return false
	}
	if r.h.run != nil {
		r.h.run.end(errAgain)
	}
	r.ctx, r.end = context.WithCancelCause(s.base)
	r.h.run = r
	s.jobs.Go(func() {
		defer s.ended(r)
		if boot() {
			(&attendance{run: r}).attend()
		}
	})
	return true
}

// ended drops a run that is over, so that a sleeping machine keeps no memory for it.
func (s *Starter) ended(r *run) {
	r.end(nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.h.run == r {
		r.h.run = nil
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

// prober returns the prober of an app's machines.
func (s *Starter) prober(app balance.AppID) (*prober, error) {
	if s.config.CheckOf == nil {
		return s.probe, nil
	}
	row := balance.App{ID: app}
	if rows, ok := s.fleet.App(app); ok {
		row = rows.App()
	}
	var c Check
	err := contained(func() (err error) { c, err = s.config.CheckOf(row).withDefaults(); return err })
	if err != nil {
		return nil, err
	}
	return newProberWith(c, s.probe.fineTimers), nil
}

// restartAfter returns how long an app's checks may fail; negative means for ever.
func (s *Starter) restartAfter(app balance.AppID) time.Duration {
	if rows, ok := s.fleet.App(app); ok {
		return cmp.Or(rows.App().RestartAfter, health.RestartDefault)
	}
	return health.RestartDefault
}

// trial returns what a machine shows about others that fail their checks. For a machine that
// another node owns, its row decides.
func (s *Starter) trial(m *balance.Machine, after time.Duration) health.Trial {
	s.mu.Lock()
	h := s.hosts[m.Key()]
	s.mu.Unlock()
	return h.trial(m, after)
}
