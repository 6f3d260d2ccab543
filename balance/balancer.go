package balance

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Distance tells how far regions are, as a round trip from this node. Package rtt measures it.
type Distance interface {
	// RTT returns the round trip to a region; ok is false when it is unknown, and a negative one
	// counts as unknown. Unknown is never taken for near. It is asked on each tick and change, from
	// several goroutines and with no lock held, and must not block.
	RTT(region string) (rtt time.Duration, ok bool)
}

// Config configures a [Balancer].
type Config struct {
	// Strategy picks for apps that name none of their own; nil means Closest{}.
	Strategy Strategy
	// Distance orders the regions; nil means that only the node's own region is near and all others
	// are unknown.
	Distance Distance
	// Trace observes picks; the zero value costs nothing.
	Trace Trace
	// GiveBack carries a granted slot that could not be used back to the machine's owner: there to
	// Granter.Back of package balance/grants. It is called by [Reservation.Release] and must not
	// block. nil: such slots return when they expire.
	GiveBack func(owner NodeID, g Grant)
}

// tickEvery moves the coarse clock, ages estimates and reads distances again: a pick never reads a
// clock.
const tickEvery = 100 * time.Millisecond

// Balancer picks machines for requests on one node. All methods are safe for concurrent use.
type Balancer struct {
	fleet    *Fleet
	strategy Strategy
	distance Distance
	trace    Trace
	giveBack func(NodeID, Grant)
	apps     atomic.Pointer[map[AppID]*appBalance] // replaced when an app comes or goes
	only     atomic.Pointer[appBalance]            // when there is but one, as in many programs
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
	asks atomic.Uint64                // times that parked requests were split over owners
	live map[*liveRegion]*regionState // under Balancer.mu
}

// regionState is what a balancer keeps of a region from view to view.
type regionState struct {
	share float32
	rows  *regionRows // of which slice was made
	width int
	peers int
	slice []int32
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

// Run keeps the coarse clock, the estimates and the order of the regions up to date until ctx ends;
// then it returns nil. Without it picks work, but estimates do not age and distances are read only
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
	// a clock that goes back stands still
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

// restTicks is how often the distances of an app that sleeps are looked at: each 5 s, before its
// planner needs them.
const restTicks = 50

// SetPeers says which nodes of this node's region balance the same apps, this one included. When
// they are many and the machines few, each keeps to a slice of the machines. The last call counts;
// without one there are no slices.
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
	ab := &appBalance{id: id, app: a, live: map[*liveRegion]*regionState{}}
	b.setApps(func(apps map[AppID]*appBalance) {
		if v, ok := apps[id]; ok && v.app == a { // somebody was quicker
			ab = v
		}
		ab.view.CompareAndSwap(nil, newView(a.snap.Load(), nil))
		apps[id] = ab
	})
	return ab
}

// rebuild makes the view of the present snapshot, distances and shares, unless it is the one that
// stands. dt is how many ticks have passed since the last time.
func (b *Balancer) rebuild(ab *appBalance, dt float32) {
	var few [16]distanceTo
	far := few[:0]
	for _, r := range ab.app.snap.Load().regions { // before the lock: this calls what is not ours
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
	b.shares(ab, s, order, dt)
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

func (v *View) strategy(b *Balancer) Strategy {
	if s := v.snap.app.Strategy; s != nil {
		return s
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
// release, when an owner says that it has room, when a row has changed, and on each tick. It must
// not block and not call back into b. It replaces the one set before.
func (b *Balancer) OnRoom(f func(AppID)) { b.room.Store(&f) }

func (b *Balancer) signal(id AppID) {
	if f := b.room.Load(); f != nil {
		(*f)(id)
	}
}

// shares fills in what this node decided about each region: its share, its slice, and the level of
// water-filling.
func (b *Balancer) shares(ab *appBalance, s *Snapshot, order []regionView, dt float32) {
	target := float32(spillAt)
	strategy := s.app.Strategy
	if strategy == nil {
		strategy = b.strategy
	}
	c, _ := strategy.(Closest)
	if c.SpillAt > 0 {
		target = float32(c.SpillAt)
	}
	b.fleet.ageing.Lock() // for what the tick has gathered
	defer b.fleet.ageing.Unlock()
	for i := range order {
		p := &order[i]
		a := p.rows.live
		l := ab.live[a]
		if l == nil {
			l = &regionState{share: 1}
			ab.live[a] = l
		}
		if dt > 0 {
			sp := spilling{use: a.use, target: target, cost: a.stay, limits: a.limits, gap: a.gap}
			sp.other = cheapest(order, i, target)
			if c.SpillAt < 0 {
				sp.other = 0
			}
			l.share = sp.next(l.share, dt)
		}
		p.share = fixed(l.share)
		p.regionStats = regionStats{
			ready: len(p.rows.byTier[TierReady]), use: float64(int(a.use*100)) / 100,
			stay: a.stayed().Round(tickEvery / 100),
		}
		p.level, p.least = waterLevel(a.use, a.stay, a.gap+1), a.least
		b.slice(l, p)
	}
	if len(ab.live) > len(order) { // regions have gone
		for a := range ab.live {
			if !slices.ContainsFunc(order, func(p regionView) bool { return p.rows.live == a }) {
				delete(ab.live, a)
			}
		}
	}
}

// cheapest returns the least cost of a request in a farther region that has room, in ticks; 0 when
// there is none. Where none was sent the cost is that of region i, but for the way.
func cheapest(order []regionView, i int, target float32) (least float32) {
	from := order[i].rows.live
	for j := order[i].end; j < len(order); j++ {
		a := order[j].rows.live
		if a.ready == 0 || a.use >= target {
			continue
		}
		cost := a.stay
		if cost <= 0 && order[j].known && from.stay > 0 {
			cost = from.stay + float32(order[j].rtt-order[i].rtt)/float32(tickEvery)
		}
		if cost <= 0 {
			cost = 1e9 // unknown is not cheap, but it has room
		}
		if least == 0 || cost < least {
			least = cost
		}
	}
	return least
}

// slice brings the region's slice up to date.
func (b *Balancer) slice(l *regionState, p *regionView) {
	ready := p.rows.byTier[TierReady]
	width := sliceWidth(len(ready), len(b.peers), p.rows.live.own, l.width > 0)
	i, ok := slices.BinarySearch(b.peers, b.fleet.node)
	if width == 0 || !ok {
		*l = regionState{share: l.share}
		return
	}
	// A width that follows the load step by step would move the slice all the time.
	if l.rows != p.rows || l.peers != len(b.peers) || width > l.width || width < l.width/2 {
		ring := slices.DeleteFunc(
			slices.Clone(p.rows.byRank), func(pos int32) bool { return p.rows.rows[pos].tier != TierReady },
		)
		*l = regionState{
			share: l.share, rows: p.rows, width: width, peers: len(b.peers),
			slice: sliceOf(ring, i, len(b.peers), width),
		}
	}
	p.slice = l.slice
}
