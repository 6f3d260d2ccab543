package downscale

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale/cordon"
	"github.com/ebbkit/ebb/downscale/policy"
	"github.com/ebbkit/ebb/internal/scaledown"
)

// lookEvery is how often machines on their way are looked at, at least: so soon after a request
// came to a machine that was to go it is uncordoned, and others do not avoid it any longer.
const lookEvery = 100 * time.Millisecond

// Downscaler stops and suspends the surplus machines that one node owns. All methods are safe for
// concurrent use.
type Downscaler struct {
	fleet    *balance.Fleet
	driver   Driver
	config   Config
	wake     chan struct{}
	orders   orders
	ran      atomic.Bool
	draining atomic.Int32
}

// New returns a downscaler for the machines that f's node owns. It starts nothing; see
// [Downscaler.Run].
func New(f *balance.Fleet, d Driver, c Config) (*Downscaler, error) {
	switch {
	case f == nil:
		return nil, errors.New("downscale: New without a fleet: make one with balance.NewFleet")
	case d == nil:
		return nil, errors.New(
			"downscale: New without a driver: give one that stops the fleet's machines",
		)
	}
	c, err := c.resolve()
	if err != nil {
		return nil, err
	}
	return &Downscaler{fleet: f, driver: d, config: c, wake: make(chan struct{}, 1)}, nil
}

// Run looks at the machines, decides, and stops what is surplus, until ctx ends. It then releases
// all cordons, waits for the driver calls under way, each bounded by [Config.StopTimeout], and
// returns nil; or an error that names the machines whose driver did not come back, or did not
// know. Their gates stay closed, since nobody knows whether they run; [Downscaler.Drain], or the
// Run of another downscaler, has them stopped for certain. A Downscaler runs once: another call
// returns an error.
func (d *Downscaler) Run(ctx context.Context) error {
	if d.ran.Swap(true) {
		return errors.New("downscale: Downscaler.Run was called before: make another downscaler with New")
	}
	r := &run{
		Downscaler: d, ctx: context.WithoutCancel(ctx), apps: map[balance.AppID]*appRun{},
		answers: make(chan answer), over: make(chan struct{}),
	}
	defer close(r.over)
	d.rouse() // the first look is due at once
	timer := time.NewTimer(d.config.Every)
	defer timer.Stop()
	var next time.Time
	for {
		select {
		case <-ctx.Done():
			return r.end()
		case a := <-r.answers:
			r.answered(a)
			continue
		case <-d.wake:
		case <-timer.C:
		}
		now := time.Now()
		list := d.orders.take()
		if len(list) == 0 && now.Before(next) {
			r.look(now)
		} else {
			r.tick(now)
			next = now.Add(d.config.Every)
		}
		if len(list) > 0 {
			for _, a := range r.apps {
				a.rests = false
			}
			r.accept(list)
			r.hear(now)
		}
		wait := next.Sub(now)
		if len(r.leaving) > 0 {
			wait = min(wait, lookEvery)
		}
		timer.Reset(wait)
	}
}

// run is the state of one Run; only its goroutine touches it.
type run struct {
	*Downscaler
	ctx     context.Context // of driver calls: they outlive Run's, but not their timeout
	apps    map[balance.AppID]*appRun
	leaving []*machine // those that are not at rest
	pending int        // driver calls under way
	answers chan answer
	over    chan struct{} // closed when nobody listens to answers any longer
}

type appRun struct {
	core     *scaledown.App
	snap     *balance.Snapshot
	machines []*machine // in canonical order, of all owners
	byID     map[balance.MachineID]*machine
	seen     []policy.Seen
	// the policy has been asked while something moved, and has to hear once that nothing does
	asked bool
	rests bool // nothing of it runs: looked at again when a row changes, or an order comes
}

type machine struct {
	row     balance.Machine // as last seen in a snapshot
	rank    uint64
	gate    *balance.Gate // nil for a machine of another owner
	core    scaledown.Machine
	orders  []*stopRequest
	obeying bool      // the state machine has taken them
	listed  bool      // in run.leaving
	since   time.Time // of the cordon; later of the driver call
}

// tick looks at everything and decides.
func (r *run) tick(now time.Time) {
	ids := r.fleet.Apps()
	for id := range r.apps {
		if _, ok := slices.BinarySearch(ids, id); !ok {
			delete(r.apps, id)
		}
	}
	r.look(now)
	for _, id := range ids {
		snap, ok := r.fleet.App(id)
		if !ok {
			continue
		}
		a := r.app(id, snap)
		if a.rests {
			continue
		}
		mine := 0
		for _, m := range a.machines {
			if m.gate == nil {
				continue
			}
			mine++
			if !m.listed {
				r.observe(m, now)
			}
		}
		if mine > 0 && r.draining.Load() == 0 {
			moves := slices.ContainsFunc(a.machines, (*machine).moves)
			if moves || a.asked {
				r.decide(a, now)
			}
			if a.rests, a.asked = !moves, moves; a.rests {
				a.seen = nil
				a.core.Rest()
			}
		}
	}
}

// moves reports whether time alone can change what is decided about a machine: it runs, or is on
// its way. What is asleep wakes by a change of its row.
func (m *machine) moves() bool {
	if m.gate == nil {
		return m.row.State == balance.StateStarted || m.row.State == balance.StateStarting
	}
	switch m.gate.State() {
	case balance.StateStopped, balance.StateSuspended, balance.StateFailed:
		return m.listed || len(m.orders) > 0 || m.core.Pending()
	}
	return true
}

// policyOf makes the policy of an app.
func (r *run) policyOf(id balance.AppID) *policy.Bounded {
	if r.config.Policy != nil {
		if p := r.config.Policy(id); p != nil {
			return &policy.Bounded{Policy: p}
		}
	}
	p, err := policy.NewDecider(r.config.decider())
	if err != nil {
		panic(err) // Config.resolve has looked at all of it
	}
	return &policy.Bounded{Policy: p}
}

// look looks at the machines on their way.
func (r *run) look(now time.Time) {
	for _, m := range r.leaving {
		r.observe(m, now)
	}
	r.leaving = slices.DeleteFunc(r.leaving, func(m *machine) bool {
		m.listed = !m.core.Cordon.Resting()
		return !m.listed
	})
}

func (r *run) app(id balance.AppID, snap *balance.Snapshot) *appRun {
	a, ok := r.apps[id]
	if !ok {
		a = &appRun{core: scaledown.NewApp(r.policyOf(id)), byID: map[balance.MachineID]*machine{}}
		r.apps[id] = a
	}
	if a.snap == snap {
		return a
	}
	a.rests = false
	a.snap, a.machines = snap, a.machines[:0]
	old := a.byID
	a.byID = make(map[balance.MachineID]*machine, len(old))
	for row := range snap.All() {
		var gate *balance.Gate
		if row.Owner == r.fleet.Node() {
			gate = r.fleet.Gate(id, row.ID)
		}
		m, ok := old[row.ID]
		if !ok || m.gate != gate {
			m = &machine{rank: row.Key().Rank(), gate: gate}
			m.core.Cordon = cordon.Machine{Config: r.config.cordon()}
		}
		m.row = *row
		a.byID[row.ID] = m
		a.machines = append(a.machines, m)
	}
	for id, m := range old {
		if a.byID[id] != m {
			if m.gate != nil {
				m.dismiss(nil) // what has not ended is not removed
				continue
			}
			m.dismiss(fmt.Errorf("%w: %v has left the fleet", ErrBusy, m.row.Key()))
		}
	}
	slices.SortFunc(a.machines, func(x, y *machine) int { return x.row.Compare(&y.row) })
	return a
}

// decide has the app's policy asked, and does what it says.
func (r *run) decide(a *appRun, now time.Time) {
	s := policy.Situation{App: a.snap.App(), Machines: a.seen[:0]}
	for _, m := range a.machines {
		s.Machines = append(s.Machines, r.see(m, s.App, now))
	}
	a.seen = s.Machines
	if r.config.Views != nil {
		n, fresh := r.config.Views.Parked(s.App.ID)
		s.Parked, s.Stale = n, !fresh
	}
	r.habits(a, now, &s)
	decided, refused := a.core.Decide(now, s)
	for _, d := range refused {
		if r.config.Trace.Vetoed != nil {
			r.config.Trace.Vetoed(d)
		}
	}
	for _, d := range decided {
		if d.Verdict == policy.VerdictHold {
			if r.config.Trace.Held != nil {
				r.config.Trace.Held(d)
			}
		} else if m := a.byID[d.Machine]; m != nil && m.gate != nil {
			r.follow(m, now, m.core.Act(now, d, &s))
		}
	}
}

// habits tells of a pause of the app, and asks how long it is kept.
func (r *run) habits(a *appRun, now time.Time, s *policy.Situation) {
	h := r.config.Habits
	if h == nil {
		return
	}
	if gap, ended := a.core.Pause(now, s); ended {
		h.Gap(s.App.ID, gap)
	}
	if s.App.KeepAlive == 0 && r.config.KeepAlive > 0 {
		s.KeepAlive = h.KeepAlive(s.App.ID, r.config.KeepAlive)
	}
}

func (r *run) see(m *machine, app balance.App, now time.Time) policy.Seen {
	s := policy.Seen{
		ID: m.row.ID, Region: m.row.Region, Revision: m.row.Revision, Rank: m.rank, State: m.row.State,
		Failing: m.row.Health == balance.HealthFailing, Hard: m.row.Cordon == balance.CordonHard, Limits: app.LimitsOf(m.row),
	}
	if m.gate == nil {
		s.Leaving = m.row.Cordon == balance.CordonSoft
		if r.config.Views != nil {
			load, idle, told, fresh := r.config.Views.Load(app.ID, m.row.ID)
			if s.Known, s.Stale = told && fresh, told && !fresh; s.Known {
				s.Load, s.Idle = load, idle
			}
		}
		return s
	}
	m.core.See(now, &s, m.gate.State())
	if s.State == balance.StateStarted {
		if s.Load > 0 {
			s.Open = r.open(m, app.IdleAfter)
			s.Long, s.Idle = r.tellable(m, app.IdleAfter), r.idle(m, balance.ClassAll, app.IdleAfter)
		}
		s.Busy = r.config.Busy != nil && r.config.Busy(m.row) || s.Open&^r.config.Notify != 0
	}
	return s
}

// open returns the classes of a machine's long connections that are not idle.
func (r *run) open(m *machine, quiet time.Duration) (of balance.Class) {
	for c := balance.Class(1); c < balance.ClassAll; c <<= 1 {
		if n := r.long(m, c); n > 0 && n > r.idle(m, c, quiet) {
			of |= c
		}
	}
	return of
}

// tellable returns how many long connections may be told to end: those of some classes, and of
// the others the idle ones.
func (r *run) tellable(m *machine, quiet time.Duration) int {
	return r.long(m, r.config.Notify) + r.idle(m, balance.ClassAll&^r.config.Notify, quiet)
}

// idle returns how many long connections of these classes have carried no data for that long; 0
// means that none is idle.
func (r *run) idle(m *machine, of balance.Class, quiet time.Duration) int {
	if r.config.Connections == nil || of == 0 || quiet <= 0 {
		return 0
	}
	return r.config.Connections.Idle(r.rowOf(m), of, quiet)
}

// long returns how many long connections of these classes a machine has.
func (r *run) long(m *machine, of balance.Class) int {
	if r.config.Connections == nil || of == 0 {
		return 0
	}
	return r.config.Connections.Long(r.rowOf(m), of)
}
