package balance

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/balance/internal/granting"
)

// Distance tells how far away regions are, as round trips from this node. Package rtt measures
// them.
type Distance interface {
	// RTT returns the round trip to a region. ok is false when it is unknown; a negative one counts
	// as unknown. Unknown is never treated as near. RTT is called on each tick and change, from
	// several goroutines and with no lock held, and must not block.
	RTT(region string) (rtt time.Duration, ok bool)
}

// Config configures a [Balancer].
type Config struct {
	// Strategy picks for apps that name none of their own; nil means Closest{}.
	Strategy Strategy
	// Distance orders the regions; nil means that only the node's own region is near and the
	// distance of all others is unknown.
	Distance Distance
	// Trace observes picks; the zero value costs nothing.
	Trace Trace
	// GiveBack carries a granted slot that could not be used back to the machine's owner: there to
	// Granter.Back of package balance/grants. It is called by [Reservation.Release] and must not
	// block. If it is nil, such slots return when they expire.
	GiveBack func(owner NodeID, g Grant)
}

// tickEvery is how often the coarse clock advances, estimates age and distances are read: a pick
// never reads a clock.
const tickEvery = 100 * time.Millisecond

// Balancer picks machines for requests on one node. All methods are safe for concurrent use.
type Balancer struct {
	fleet    *Fleet
	strategy Strategy
	distance Distance
	trace    Trace
	giveBack func(NodeID, Grant)
	apps     atomic.Pointer[map[AppID]*appBalance] // replaced when an app comes or goes
	only     atomic.Pointer[appBalance]            // set when there is only one, as in many programs
	room     atomic.Pointer[func(AppID)]

	ran atomic.Bool

	mu      sync.Mutex   // serializes rebuilding of views
	started time.Time    // of the coarse clock; set by the first Tick
	peers   []NodeID     // sorted
	order   []regionView // scratch
}

type appBalance struct {
	id   AppID
	app  *app
	view atomic.Pointer[View]
	asks atomic.Uint64 // times that parked requests were split over owners
	live regionStates  // under Balancer.mu
}

// New returns a balancer over a fleet. It starts nothing; see [Balancer.Run].
func New(f *Fleet, c Config) (*Balancer, error) {
	if f == nil {
		return nil, fmt.Errorf("balance: New without a fleet: make one with NewFleet")
	}
	if c.Trace.Every < 0 {
		return nil, fmt.Errorf(
			"balance: Config.Trace.Every %d: want 0 (every pick) or more", c.Trace.Every,
		)
	}
	b := &Balancer{
		fleet: f, strategy: c.Strategy, distance: c.Distance, trace: c.Trace, giveBack: c.GiveBack,
	}
	b.apps.Store(&map[AppID]*appBalance{})
	if b.strategy == nil {
		b.strategy = Closest{}
	}
	f.OnChange(b.changed)
	for _, id := range f.Apps() {
		b.changed(id)
	}
	return b, nil
}

// Fleet returns the fleet that b picks from.
func (b *Balancer) Fleet() *Fleet { return b.fleet }

// Pick chooses a machine for r and counts the request in. On success the caller must call
// [Reservation.Release] once. The error matches [ErrNoApp], [ErrFull] or [ErrNoMachine]. It never
// waits.
func (b *Balancer) Pick(r Request) (Reservation, error) {
	ab := b.only.Load()
	if ab == nil || ab.id != r.App {
		ab = (*b.apps.Load())[r.App]
	}
	if ab == nil {
		return Reservation{}, fmt.Errorf("%w: %q: put it into the fleet with PutApp", ErrNoApp, r.App)
	}
	if r.Rand == 0 {
		r.Rand = rand.Uint64()
	}
	if b.trace.Picked != nil && b.trace.samples(r.Rand) {
		return b.traced(ab, &r)
	}
	if r.Prefer == nil {
		if m, slot := b.reserve(ab, &r); m != nil {
			return Reservation{b: b, row: m, ticket: slot}, nil
		}
		return b.insist(ab, &r)
	}
	return b.pick(ab, &r)
}

func (b *Balancer) pick(ab *appBalance, r *Request) (Reservation, error) {
	if !r.Prefer.Empty() {
		r.first = r.Prefer
		if m, slot := b.reserve(ab, r); m != nil {
			return Reservation{b: b, row: m, ticket: slot}, nil
		}
		r.first = nil
	}
	if m, slot := b.reserve(ab, r); m != nil {
		return Reservation{b: b, row: m, ticket: slot}, nil
	}
	return b.insist(ab, r)
}

// insist is the end of a pick that has found nothing: it tries once more for a request that cannot
// wait.
func (b *Balancer) insist(ab *appBalance, r *Request) (Reservation, error) {
	view := ab.view.Load()
	if r.Insist {
		for range attempts {
			s, ok := view.lastResort(r)
			if !ok {
				break
			}
			if m := view.row(s); m.enter(view.order[s.region].rows) {
				return Reservation{b: b, row: m}, nil
			}
		}
	}
	return Reservation{}, whyNone(view, r)
}

// attempts bounds how often a pick looks again because its choice was taken in between, or the row
// of a machine has changed while its score was read.
const attempts = 16

func (b *Balancer) reserve(ab *appBalance, r *Request) (m *row, slot ticket) {
	for range attempts {
		view := ab.view.Load()
		s, ok := choose(b.strategyOf(view.snap), view, r)
		if !ok {
			return nil, ticket{}
		}
		if m := view.row(s); m != nil && m.tier < tiers && m.enter(view.order[s.region].rows) {
			if est(m.cell.est.Load())&grantMask == 0 {
				return m, ticket{}
			}
			if slot, ok := m.cell.remember().granted().take(m.cell); ok {
				return m, slot
			}
			m.cell.leave() // another request of this node took the last grant
		}
		r.Rand = mix(r.Rand, 1)
	}
	return nil, ticket{}
}

// choose calls the strategy; it calls the default one without copying the request.
func choose(s Strategy, v *View, r *Request) (Slot, bool) {
	if c, ok := s.(Closest); ok {
		return c.pick(v, r)
	}
	return s.Pick(v, *r)
}

// Run keeps the coarse clock, the estimates and the order of the regions up to date until ctx ends;
// then it returns nil. Picks work without it, but estimates do not age and distances are read only
// when the fleet changes. A Balancer runs once: another call returns an error.
func (b *Balancer) Run(ctx context.Context) error {
	if b.ran.Swap(true) {
		return errors.New("balance: Balancer.Run was called before: make another balancer with New")
	}
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	for {
		b.Tick(time.Now())
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// Tick does at time now what Run does periodically. It is for callers with a loop or a clock of
// their own.
func (b *Balancer) Tick(now time.Time) {
	b.mu.Lock()
	if b.started.IsZero() {
		b.started = now
	}
	f := b.fleet
	// if the clock goes back, time stands still
	tick := max(f.tick.Load(), 1+int64(now.Sub(b.started)/tickEvery))
	dt := float32(tick - f.tick.Load())
	f.tick.Store(tick)
	b.mu.Unlock()
	f.age(tick)
	for id, a := range *f.apps.Load() {
		if tick%restTicks != 0 && a.quiet.Load() == a.snap.Load() {
			continue // nothing can be picked
		}
		b.rebuild(b.of(id, a), dt)
		b.signal(id) // a machine that said "full" may be tried again
	}
}

// restTicks is how often the distances of a sleeping app are read: every 5 s, before its planner
// needs them.
const restTicks = 50

// SetPeers lists the nodes of this region that balance the same apps, this one included. When there
// are many nodes and few machines, each keeps to a slice of the machines. Each call replaces the
// list; without one there are no slices.
func (b *Balancer) SetPeers(nodes ...NodeID) {
	b.mu.Lock()
	b.peers = slices.Compact(slices.Sorted(slices.Values(nodes)))
	b.mu.Unlock()
	for id, a := range *b.fleet.apps.Load() {
		b.rebuild(b.of(id, a), 0)
	}
}

// changed is called by the fleet after each change of an app.
func (b *Balancer) changed(id AppID) {
	if a, ok := (*b.fleet.apps.Load())[id]; ok {
		b.rebuild(b.of(id, a), 0)
	} else {
		b.setApps(func(apps map[AppID]*appBalance) { delete(apps, id) })
	}
	b.signal(id)
}

func (b *Balancer) setApps(change func(map[AppID]*appBalance)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	next := maps.Clone(*b.apps.Load())
	change(next)
	b.only.Store(nil)
	if len(next) == 1 {
		for _, ab := range next {
			b.only.Store(ab)
		}
	}
	b.apps.Store(&next)
}

func (b *Balancer) of(id AppID, a *app) *appBalance {
	if v, ok := (*b.apps.Load())[id]; ok && v.app == a {
		return v
	}
	ab := &appBalance{id: id, app: a, live: regionStates{}}
	b.setApps(func(apps map[AppID]*appBalance) {
		if v, ok := apps[id]; ok && v.app == a { // another goroutine was quicker
			ab = v
		}
		ab.view.CompareAndSwap(nil, newView(a.snap.Load(), nil))
		apps[id] = ab
	})
	return ab
}

// rebuild makes the view of the present snapshot, distances and shares, unless that view is in
// place already. dt is how many ticks have passed since the last time.
func (b *Balancer) rebuild(ab *appBalance, dt float32) {
	var few [16]distanceTo
	far := few[:0]
	for _, r := range ab.app.snap.Load().regions { // before the lock: this calls foreign code
		d, ok := b.rtt(r.name)
		far = append(far, distanceTo{r.name, d, ok})
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s := ab.app.snap.Load()
	order := b.order[:0]
	for _, r := range s.regions {
		p := regionView{rows: r}
		// A region that has come meanwhile is not among them: the change that brought it asks for it.
		if i := slices.IndexFunc(far, func(d distanceTo) bool { return d.region == r.name }); i >= 0 {
			p.rtt, p.known = far[i].rtt, far[i].known
		}
		order = append(order, p)
	}
	slices.SortFunc(order, compareViews)
	nearGroups(order)
	c, _ := b.strategyOf(s).(Closest)
	b.fleet.ageing.Lock() // for what the tick has recorded
	ab.live.next(order, c.SpillAt, dt, b.peers, b.fleet.node)
	b.fleet.ageing.Unlock()
	b.order = order
	old := ab.view.Load()
	if old.snap != s || !slices.EqualFunc(old.order, order, sameViews) {
		ab.view.Store(newView(s, slices.Clone(order)))
	}
}

// distanceTo is a region's measured round trip.
type distanceTo struct {
	region string
	rtt    time.Duration
	known  bool
}

func (b *Balancer) rtt(region string) (time.Duration, bool) {
	if b.distance != nil {
		if d, ok := b.distance.RTT(region); ok && d >= 0 {
			return d, true
		}
	}
	return 0, region == b.fleet.region
}

// View returns the present view of an app, for strategies and planners that are not called by a
// pick.
func (b *Balancer) View(id AppID) (*View, bool) {
	v, ok := (*b.apps.Load())[id]
	if !ok {
		return nil, false
	}
	return v.view.Load(), true
}

func (b *Balancer) strategyOf(s *Snapshot) Strategy {
	if own := s.app.Strategy; own != nil {
		return own
	}
	return b.strategy
}

// InFlight returns how many requests of this app this node has in flight.
func (b *Balancer) InFlight(id AppID) (n int) {
	a, ok := (*b.fleet.apps.Load())[id]
	if !ok {
		return 0
	}
	for m := range a.snap.Load().rows() {
		n += m.cell.own()
	}
	return n
}

// Loads yields the machines of an app, by region and ID, with their loads as this node estimates
// them.
func (b *Balancer) Loads(id AppID) iter.Seq2[*Machine, Candidate] {
	return func(yield func(*Machine, Candidate) bool) {
		s, ok := b.fleet.App(id)
		if !ok {
			return
		}
		for m := range s.rows() {
			var c Candidate
			m.fill(&c)
			if c.Told = int(m.cell.seen.Load() & seenMask); m.cell.gate != nil {
				c.Told = max(0, m.cell.gate.InFlight()-c.Own)
			}
			if !yield(m.machine(), c) {
				return
			}
		}
	}
}

// OnRoom sets a function that is called whenever a slot of an app may have become free: after a
// release, when an owner reports room, when a row has changed, and on each tick. It must neither
// block nor call b. It replaces the one set before.
func (b *Balancer) OnRoom(f func(AppID)) { b.room.Store(&f) }

func (b *Balancer) signal(id AppID) {
	if f := b.room.Load(); f != nil {
		(*f)(id)
	}
}

// Explain says where a request would go now and why. It counts nothing in. The error matches
// [ErrNoApp] for an unknown app; when nothing is usable the explanation says so.
func (b *Balancer) Explain(r Request) (Explanation, error) {
	ab, ok := (*b.apps.Load())[r.App]
	if !ok {
		return Explanation{}, fmt.Errorf("%w: %q: put it into the fleet with PutApp", ErrNoApp, r.App)
	}
	if r.Rand == 0 {
		r.Rand = 1
	}
	v := ab.view.Load()
	s := b.strategyOf(v.snap)
	x := explain(v, &r, s)
	if !r.Prefer.Empty() {
		r.first = r.Prefer
		if slot, ok := s.Pick(v, r); ok {
			x.chose(v, slot, "what the request prefers has room; ")
			return x, nil
		}
		r.first = nil
	}
	slot, ok := s.Pick(v, r)
	if !ok || v.row(slot) == nil {
		x.Err = whyNone(v, &r)
		x.Why = "no machine can be used"
		return x, nil
	}
	x.chose(v, slot, "")
	return x, nil
}

// traced picks, and passes the state before the pick to the hook.
func (b *Balancer) traced(ab *appBalance, r *Request) (Reservation, error) {
	v := ab.view.Load()
	x := explain(v, r, b.strategyOf(v.snap))
	res, err := b.pick(ab, r)
	if err != nil {
		x.Err, x.Why = err, "no machine can be used"
	} else if s, ok := v.slotOf(res.row); ok {
		x.chose(v, s, "")
	} else {
		x.Picked, x.Why = *res.Machine(), "the view changed while the pick was made"
	}
	b.trace.Picked(x)
	return res, err
}

// AcceptGrant takes in a slot that a machine's owner has granted to this node, or revoked; the next
// pick may use it. It returns false when the machine is not known. Grants may come late, twice and
// out of order: a pick uses each once, and a revoked one not at all. From an app's first grant on,
// this node sends nothing without a grant to machines of the app that take 1 to 3 requests at a
// time, until 5 s have passed without any grant: then it guesses again. So either all owners of an
// app's machines grant their slots, or none.
func (b *Balancer) AcceptGrant(g Grant) bool {
	a, ok := (*b.fleet.apps.Load())[g.App]
	if !ok {
		return false
	}
	c := a.cells.find(g.Machine)
	if c == nil {
		return false
	}
	held := c.remember().granted()
	if g.Revoked {
		held.drop(c, g.Token)
		return true
	}
	now := b.fleet.tick.Load()
	if a.granted.Swap(now) == 0 {
		for m := range a.snap.Load().rows() {
			m.cell.underGrants(m.shared.limits)
		}
	}
	held.put(c, ticket{g.Token, now + max(1, int64(g.For/tickEvery))})
	b.signal(g.App)
	return true
}

// Asks returns whom to tell about an app's parked requests, for Granter.Ask of package
// balance/grants: each owner of machines that take one to three requests at a time, with its part
// of the requests. The parts add up to parked, so that no two owners reserve slots for the same
// request. The nearest regions come first: they get as many as are worth waiting there, by the
// round trips, the slots and how long requests stay, and farther regions get the rest. A negative
// part says that no request waits for this owner and that it need not even keep a slot ready for
// this node. Inside a region the parts are proportional to the slots of the machines that run or
// start, and the remainder goes to another owner in each call. Asks yields nothing for an app that
// has no such machines. Call it when the number has changed, and at least every second while this
// node lives.
func (b *Balancer) Asks(app AppID, parked int) iter.Seq2[NodeID, int] {
	return func(yield func(NodeID, int) bool) {
		ab, ok := (*b.apps.Load())[app]
		if !ok {
			return
		}
		owners := grantingOwners(ab.view.Load())
		split(max(parked, 0), owners, ab.asks.Add(1)+hash2(string(b.fleet.node), string(app)))
		for i := range owners {
			if !yield(owners[i].node, owners[i].part) {
				return
			}
		}
	}
}

// guessTicks is after how many ticks without a grant for the app this node guesses again.
const guessTicks = int64(granting.GuessAfter / tickEvery)
