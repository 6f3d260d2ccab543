package autostart

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/waitroom"
	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/balance"
	"golang.org/x/sync/errgroup"
)

// tickEvery repairs lost signals: state is looked at again as long as there is demand.
const tickEvery = 100 * time.Millisecond

// othersTicks is how many ticks pass until the demand of other nodes is asked for, also for apps
// that sleep here.
const othersTicks = 5

// Autostart is the waiting room and the planner of one node. All methods are safe for concurrent
// use.
type Autostart struct {
	balancer *balance.Balancer
	owner    Owner
	config   Config

	parked    atomic.Int64  // in all queues: the one look of a request when nobody waits
	occupancy occupancy     // of all queues
	places    atomic.Uint64 // the last place given
	apps      sync.Map      // balance.AppID -> *appRoom

	making    sync.Mutex
	histories histories

	pokes pokes

	began  atomic.Bool
	closed chan struct{}
	mu     sync.Mutex // guards done, and dispatchers against it
	done   bool
	work   sync.WaitGroup // dispatchers
}

// New returns an Autostart over b. With o nil it is a waiting room only, and starts no machines. It
// takes b's OnRoom for itself, and starts nothing before [Autostart.Run].
func New(b *balance.Balancer, o Owner, c Config) (*Autostart, error) {
	if b == nil {
		return nil, fmt.Errorf("autostart: New without a balancer: make one with balance.New")
	}
	if err := c.validate(); err != nil {
		return nil, err
	}
	a := &Autostart{
		balancer: b, owner: o, config: c,
		pokes: pokes{signal: make(chan struct{}, 1)}, closed: make(chan struct{}),
	}
	a.occupancy.apps, a.occupancy.bounds = &a.apps, c.bounds()
	a.places.Store(1) // 0 is a request that has none
	b.OnRoom(a.freed)
	return a, nil
}

// Acquire finds a machine for r and counts the request in; the caller owes one Release. When
// nothing can serve r it waits until ctx ends or patience does; then the error is ctx's cause, or
// an [*Error]. Those who wait for an app are served by turns, one of each tenant, and those of one
// tenant in the order of coming. An app that the fleet does not know is a [balance.ErrNoApp].
//
// It sets r.Place: a request that returns because its machine refused it finds its old place by
// that. Before it waits it sets r.Tried to nil: these machines are still left out for a moment, but
// when nothing else is left it may be one of them.
func (a *Autostart) Acquire(
	ctx context.Context, r *balance.Request,
) (slot balance.Reservation, err error) {
	if a.parked.Load() != 0 && a.Parked(r.App) != 0 {
		return a.park(ctx, r, nil)
	}
	if slot, err = a.balancer.Pick(*r); err != nil {
		return a.park(ctx, r, err)
	}
	if r.Place == 0 {
		r.Place = a.places.Load() // should it return: behind all who wait, before all who will
	}
	if failing := slot.Failing(); failing || slot.Busy() {
		if a.decides() {
			a.roomOf(r.App).pressed(failing)
		}
	}
	return slot, nil
}

// park waits for a slot. why is what the balancer said, nil when it was not asked because others
// wait already.
func (a *Autostart) park(
	ctx context.Context, r *balance.Request, why error,
) (balance.Reservation, error) {
	if ctx.Err() != nil {
		return balance.Reservation{}, fmt.Errorf("autostart: app %q: %w", r.App, context.Cause(ctx))
	}
	if errors.Is(why, balance.ErrNoApp) {
		return balance.Reservation{}, why
	}
	return a.roomOf(r.App).park(ctx, r, why)
}

// Run plans until ctx ends. Then it rejects all parked requests, waits for its goroutines, and
// returns nil. Starts that owners have accepted go on. Before Run, requests wait but nothing is
// started. An Autostart runs once: another call returns an error.
func (a *Autostart) Run(ctx context.Context) error {
	if !a.began.CompareAndSwap(false, true) {
		return fmt.Errorf("autostart: Autostart.Run was called before: make another one with New")
	}
	var commands errgroup.Group // none returns an error: what came of each goes to its planner
	defer commands.Wait()
	defer a.close()
	rows := a.balancer.Fleet().Watch()
	defer rows.Close()
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	again := time.NewTimer(tickEvery) // for what was planned a moment ago
	defer again.Stop()

	var agenda waitroom.Agenda[*appRoom]
	var ready []*appRoom
	for ticks := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-rows.C():
			a.changed(rows.Take(), &agenda)
		case <-tick.C:
			if ticks++; a.config.Others != nil && ticks%othersTicks == 0 { // nobody tells when that changes
				a.apps.Range(func(_, r any) bool { agenda.Wake(r.(*appRoom)); return true })
			}
			agenda.Tick(func(r *appRoom) waitroom.Look { return r.planning.look() })
		case <-a.pokes.signal:
		case <-again.C:
		}
		a.pokes.take(&agenda)

		ready = agenda.Ready(time.Now(), ready[:0])
		for _, r := range ready {
			now := time.Now()
			r.poked.Store(false) // from here on a poke means something new
			d := r.planning.plan(now)
			a.act(ctx, &commands, r, d)
			// the one who waits may have been left out: the next decision is the first
			agenda.Decided(r, now, time.Since(now), d.Acts() || d.Refuse != "", r.planning.last.alone)
		}
		clear(ready)
		if wait, due := agenda.Wait(time.Now()); due {
			again.Reset(max(wait, time.Millisecond))
		}
	}
}

// changed notes whose rows have changed. An app that sleeps and has no room gets none: its first
// request makes one.
func (a *Autostart) changed(us []balance.Update, agenda *waitroom.Agenda[*appRoom]) {
	look := func(app balance.AppID, asleep bool) *appRoom {
		if asleep && a.config.Others == nil {
			r, ok := a.apps.Load(app)
			if !ok {
				return nil
			}
			agenda.Ask(r.(*appRoom))
			return r.(*appRoom)
		}
		r := a.roomOf(app)
		agenda.Ask(r)
		return r
	}
	for _, u := range us {
		switch u := u.(type) {
		case balance.PutApp:
			look(u.App.ID, u.App.Min == 0 && u.App.MinPerRegion == 0)
		case balance.PutMachine:
			m := &u.Machine
			if r := look(m.App, m.State == balance.StateStopped || m.State == balance.StateSuspended); r != nil {
				r.dispatcher.boots(m)
			}
		case balance.RemoveMachine:
			if r := look(u.App, true); r != nil {
				r.dispatcher.boots(&balance.Machine{ID: u.ID})
			}
		case balance.RemoveApp:
			a.histories.drop(u.ID, a.histories.get(u.ID))
			if r, ok := a.apps.LoadAndDelete(u.ID); ok {
				agenda.Forget(r.(*appRoom))
				r.(*appRoom).dispatcher.wakeUp() // its waiters learn that there is no such app
			}
		}
	}
}

// act carries a decision out. The commands outlive the requests that caused them.
func (a *Autostart) act(
	ctx context.Context, commands *errgroup.Group, r *appRoom, d policy.Decision,
) {
	if d.Acts() || d.Refuse != "" {
		a.config.Trace.decided(d)
	}
	if a.config.DryRun {
		r.commands.pretend(d)
		return
	}
	// One command per machine at a time. Our planner sees to that, other policies may not; a
	// singleflight would merge calls that differ in their epochs.
	for _, m := range d.Recall {
		if r.commands.claim(&m, true) {
			commands.Go(func() error { a.recall(ctx, r, m); return nil })
		}
	}
	for _, m := range d.Start {
		if r.commands.claim(&m, false) {
			commands.Go(func() error { a.start(ctx, r, m); return nil })
		}
	}
	if d.Refuse != "" {
		r.queue.rejectAll(func(time.Duration) error { return r.outlook.refusal(d.Refuse, d.RetryAfter) })
	}
}

func (a *Autostart) start(ctx context.Context, r *appRoom, m balance.Machine) {
	call, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	answer, err := a.owner.Start(call, m)
	if ctx.Err() != nil {
		return // nobody plans any more
	}
	r.commands.answer(policy.Answer{At: time.Now(), Machine: m, Start: answer, Err: err})
	a.config.Trace.answered(m, answer, err)
	r.poke()
}

func (a *Autostart) recall(ctx context.Context, r *appRoom, m balance.Machine) {
	call, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err := a.owner.Recall(call, m)
	if ctx.Err() != nil {
		return
	}
	r.commands.answer(policy.Answer{At: time.Now(), Machine: m, Recall: true, Err: err})
	a.config.Trace.recalled(m, err)
	r.poke()
}

// close ends the waiting for good.
func (a *Autostart) close() {
	a.mu.Lock()
	a.done = true
	a.mu.Unlock()
	close(a.closed)
	a.work.Wait()
}

// Fleet returns the fleet that machines are picked from.
func (a *Autostart) Fleet() *balance.Fleet { return a.balancer.Fleet() }

// decides reports whether anything is decided here: what nobody would start is nothing to wait for.
func (a *Autostart) decides() bool { return a.owner != nil || a.config.DryRun }

// spawn runs a dispatcher, unless a has been closed.
func (a *Autostart) spawn(f func()) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.done {
		return false
	}
	a.work.Go(f)
	return true
}

// roomOf returns an app's room, made on demand.
func (a *Autostart) roomOf(app balance.AppID) *appRoom {
	if r, ok := a.apps.Load(app); ok {
		return r.(*appRoom)
	}
	a.making.Lock()
	defer a.making.Unlock()
	if r, ok := a.apps.Load(app); ok {
		return r.(*appRoom)
	}
	r := newAppRoom(a, app)
	a.apps.Store(app, r)
	return r
}

// pokes are the apps for which a decision has been asked for.
type pokes struct {
	signal chan struct{} // to the planning goroutine; one pending signal is as good as many
	mu     sync.Mutex
	apps   []*appRoom
}

func (p *pokes) add(r *appRoom) {
	p.mu.Lock()
	p.apps = append(p.apps, r)
	p.mu.Unlock()
	select {
	case p.signal <- struct{}{}:
	default:
	}
}

// take has them planned for.
func (p *pokes) take(agenda *waitroom.Agenda[*appRoom]) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.apps {
		agenda.Ask(r)
	}
	p.apps = p.apps[:0]
}

// freed is the balancer's signal that a slot may be free.
func (a *Autostart) freed(app balance.AppID) {
	if a.parked.Load() == 0 {
		return
	}
	if r, ok := a.apps.Load(app); ok && r.(*appRoom).queue.parked.Load() > 0 {
		r.(*appRoom).dispatcher.wakeUp()
	}
}

// Parked returns how many requests of an app wait.
func (a *Autostart) Parked(app balance.AppID) int {
	if r, ok := a.apps.Load(app); ok {
		return int(r.(*appRoom).queue.parked.Load())
	}
	return 0
}

// Demand returns this node's demand for an app: what it tells other nodes.
func (a *Autostart) Demand(app balance.AppID) (inFlight, parked int) {
	inFlight = a.balancer.InFlight(app) // before parked, see planning.demand
	if r, ok := a.apps.Load(app); ok {
		parked = r.(*appRoom).dispatcher.waits()
	}
	return inFlight, parked
}

// Home returns the region in which this node's demand for an app counts; "" while no machine of the
// app is known.
func (a *Autostart) Home(app balance.AppID) string {
	if rows, ok := a.Fleet().App(app); ok {
		if order := a.regions(rows); len(order) > 0 {
			return order[0]
		}
	}
	return ""
}

// regions returns the order in which an app's demand at this node is served.
func (a *Autostart) regions(rows *balance.Snapshot) []string {
	nearest := a.Fleet().Region()
	if v, ok := a.balancer.View(rows.App().ID); ok && v.Regions() > 0 {
		if first := v.Region(0); first.Known {
			nearest = first.Name
		}
	}
	return policy.RegionOrder(rows.App(), nearest, rows.Regions())
}
