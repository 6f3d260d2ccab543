package autostart

import (
	"context"
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
	bounds   bounds

	parked    atomic.Int64  // in all queues: the one look of a request when nobody waits
	occupancy occupancy     // of all queues
	places    atomic.Uint64 // the last place given
	queues    sync.Map      // balance.AppID -> *queue

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
		balancer: b, owner: o, config: c, bounds: c.bounds(),
		pokes: pokes{signal: make(chan struct{}, 1)}, closed: make(chan struct{}),
	}
	a.places.Store(1) // 0 is a request that has none
	b.OnRoom(a.room)
	return a, nil
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

	var agenda waitroom.Agenda[*queue]
	var ready []*queue
	for ticks := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-rows.C():
			a.changed(rows.Take(), &agenda)
		case <-tick.C:
			if ticks++; a.config.Others != nil && ticks%othersTicks == 0 { // nobody tells when that changes
				a.queues.Range(func(_, q any) bool { agenda.Wake(q.(*queue)); return true })
			}
			agenda.Tick(func(q *queue) waitroom.Look { return q.planning.look() })
		case <-a.pokes.signal:
		case <-again.C:
		}
		a.pokes.take(&agenda)

		ready = agenda.Ready(time.Now(), ready[:0])
		for _, q := range ready {
			now := time.Now()
			q.poked.Store(false) // from here on a poke means something new
			d := q.planning.plan(now)
			a.act(ctx, &commands, q, d)
			// the one who waits may have been left out: the next decision is the first
			agenda.Decided(q, now, time.Since(now), d.Acts() || d.Refuse != "", q.planning.last.alone)
		}
		clear(ready)
		if wait, due := agenda.Wait(time.Now()); due {
			again.Reset(max(wait, time.Millisecond))
		}
	}
}

// changed notes whose rows have changed. An app that sleeps and has no queue gets none: its first
// request makes one.
func (a *Autostart) changed(us []balance.Update, agenda *waitroom.Agenda[*queue]) {
	look := func(app balance.AppID, asleep bool) *queue {
		if asleep && a.config.Others == nil {
			q, ok := a.queues.Load(app)
			if !ok {
				return nil
			}
			agenda.Ask(q.(*queue))
			return q.(*queue)
		}
		q := a.queue(app)
		agenda.Ask(q)
		return q
	}
	for _, u := range us {
		switch u := u.(type) {
		case balance.PutApp:
			look(u.App.ID, u.App.Min == 0 && u.App.MinPerRegion == 0)
		case balance.PutMachine:
			m := &u.Machine
			if q := look(m.App, m.State == balance.StateStopped || m.State == balance.StateSuspended); q != nil {
				q.boots(m)
			}
		case balance.RemoveMachine:
			if q := look(u.App, true); q != nil {
				q.boots(&balance.Machine{ID: u.ID})
			}
		case balance.RemoveApp:
			if q, ok := a.queues.LoadAndDelete(u.ID); ok {
				agenda.Forget(q.(*queue))
				q.(*queue).wakeUp() // its waiters learn that there is no such app
			}
		}
	}
}

// act carries a decision out. The commands outlive the requests that caused them.
func (a *Autostart) act(
	ctx context.Context, commands *errgroup.Group, q *queue, d policy.Decision,
) {
	if d.Acts() || d.Refuse != "" {
		a.config.Trace.decided(d)
	}
	if a.config.DryRun {
		q.commands.pretend(d)
		return
	}
	// One command per machine at a time. Our planner sees to that, other policies may not; a
	// singleflight would merge calls that differ in their epochs.
	for _, m := range d.Recall {
		if q.commands.claim(&m, true) {
			commands.Go(func() error { a.recall(ctx, q, m); return nil })
		}
	}
	for _, m := range d.Start {
		if q.commands.claim(&m, false) {
			commands.Go(func() error { a.start(ctx, q, m); return nil })
		}
	}
	if d.Refuse != "" {
		q.rejectAll(func(time.Duration) error { return q.refusal(d.Refuse, d.RetryAfter) })
	}
}

func (a *Autostart) start(ctx context.Context, q *queue, m balance.Machine) {
	call, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	answer, err := a.owner.Start(call, m)
	if ctx.Err() != nil {
		return // nobody plans any more
	}
	q.commands.answer(policy.Answer{At: time.Now(), Machine: m, Start: answer, Err: err})
	a.config.Trace.answered(m, answer, err)
	a.poke(q)
}

func (a *Autostart) recall(ctx context.Context, q *queue, m balance.Machine) {
	call, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err := a.owner.Recall(call, m)
	if ctx.Err() != nil {
		return
	}
	q.commands.answer(policy.Answer{At: time.Now(), Machine: m, Recall: true, Err: err})
	a.config.Trace.recalled(m, err)
	a.poke(q)
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

// queue returns an app's queue, made on demand.
func (a *Autostart) queue(app balance.AppID) *queue {
	if q, ok := a.queues.Load(app); ok {
		return q.(*queue)
	}
	q, made := a.makeQueue(app)
	if made {
		q.policy.restore() // by the policy's own code: no lock is held
	}
	return q
}

// makeQueue makes an app's queue, once.
func (a *Autostart) makeQueue(app balance.AppID) (q *queue, made bool) {
	a.making.Lock()
	defer a.making.Unlock()
	if q, ok := a.queues.Load(app); ok {
		return q.(*queue), false
	}
	q = newQueue(a, app)
	a.queues.Store(app, q)
	return q, true
}

// poke asks for a decision without waiting for it.
func (a *Autostart) poke(q *queue) {
	if q.poked.Load() || !q.poked.CompareAndSwap(false, true) {
		return
	}
	a.pokes.add(q)
}

// pokes are the apps for which a decision has been asked for.
type pokes struct {
	signal chan struct{} // to the planning goroutine; one pending signal is as good as many
	mu     sync.Mutex
	apps   []*queue
}

func (p *pokes) add(q *queue) {
	p.mu.Lock()
	p.apps = append(p.apps, q)
	p.mu.Unlock()
	select {
	case p.signal <- struct{}{}:
	default:
	}
}

// take has them planned for.
func (p *pokes) take(agenda *waitroom.Agenda[*queue]) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, q := range p.apps {
		agenda.Ask(q)
	}
	p.apps = p.apps[:0]
}

// room is the balancer's signal that a slot may be free.
func (a *Autostart) room(app balance.AppID) {
	if a.parked.Load() == 0 {
		return
	}
	if q, ok := a.queues.Load(app); ok && q.(*queue).parked.Load() > 0 {
		q.(*queue).wakeUp()
	}
}

// Parked returns how many requests of an app wait.
func (a *Autostart) Parked(app balance.AppID) int {
	if q, ok := a.queues.Load(app); ok {
		return int(q.(*queue).parked.Load())
	}
	return 0
}

// Demand returns this node's demand for an app: what it tells other nodes.
func (a *Autostart) Demand(app balance.AppID) (inFlight, parked int) {
	inFlight = a.balancer.InFlight(app) // before parked, see queue.demand
	if q, ok := a.queues.Load(app); ok {
		parked = q.(*queue).waits()
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
