package balance

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Distance tells how far regions are, as a round trip from this node. Package rtt measures it.
type Distance interface {
	// RTT returns the round trip to a region; ok is false when it is unknown. Unknown is never taken for near.
	RTT(region string) (rtt time.Duration, ok bool)
}

// Config configures a [Balancer].
type Config struct {
	// Strategy picks for apps that name none of their own; nil means Closest{}.
	Strategy Strategy
	// Distance orders the regions; nil means that only the node's own region is near and all others are unknown.
	Distance Distance
}

const (
	// tickEvery moves the coarse clock, ages estimates and reads distances again. A fifth of the default age at which a
	// report is stale, and a pick never reads a clock.
	tickEvery = 100 * time.Millisecond
	// fullTicks is how long a machine is left out after its owner said that it is full, unless a reply says otherwise.
	// Short: 20-100 ms is about neutral and 300 ms hurts with short requests.
	fullTicks = 1
	// ageTau is the time constant with which what was last heard of others fades into the region's mean.
	ageTau = 2 * time.Second
)

// Balancer picks machines for requests on one node. All methods are safe for concurrent use.
type Balancer struct {
	fleet    *Fleet
	strategy Strategy
	distance Distance
	apps     sync.Map // AppID -> *appBalance
	picks    atomic.Int64
	room     atomic.Pointer[func(AppID)]

	mu      sync.Mutex // serializes rebuilding of views
	started time.Time  // of the coarse clock; set by the first Tick
}

type appBalance struct {
	app  *app
	view atomic.Pointer[View]
}

// New returns a balancer over a fleet. It starts nothing; see [Balancer.Run].
func New(f *Fleet, c Config) (*Balancer, error) {
	if f == nil {
		return nil, fmt.Errorf("balance: New without a fleet: make one with NewFleet")
	}
	b := &Balancer{fleet: f, strategy: c.Strategy, distance: c.Distance}
	if b.strategy == nil {
		b.strategy = Closest{}
	}
	f.listen(b.changed)
	return b, nil
}

// Fleet returns the fleet that b picks from.
func (b *Balancer) Fleet() *Fleet { return b.fleet }

// Run keeps the coarse clock, the estimates and the order of the regions up to date until ctx ends; then it returns nil.
// Without it picks work, but estimates do not age and distances are read only when the fleet changes.
func (b *Balancer) Run(ctx context.Context) error {
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

// Tick does at time now what Run does periodically. It is for callers with a loop or a clock of their own.
func (b *Balancer) Tick(now time.Time) {
	b.mu.Lock()
	if b.started.IsZero() {
		b.started = now
	}
	tick := max(b.fleet.tick.Load(), 1+int64(now.Sub(b.started)/tickEvery)) // a clock that goes back stands still
	b.fleet.tick.Store(tick)
	b.mu.Unlock()
	for id, a := range *b.fleet.apps.Load() {
		for _, r := range a.snap.Load().regions {
			ageRegion(r, tick)
		}
		b.rebuild(b.of(id, a))
		b.signal(id) // a machine that said "full" may be tried again
	}
}

// ageRegion lets what was heard of each machine fade into the region's mean, and halves the penalties each second.
func ageRegion(r *regionRows, tick int64) {
	var sum float64
	n := 0
	for _, m := range r.rows {
		if at := m.cell.seenTick.Load(); at > 0 && m.tier < tiers {
			sum += float64(m.cell.seen.Load() & othersMask)
			n++
		}
	}
	mean := 0.0
	if n > 0 {
		mean = sum / float64(n)
	}
	for _, m := range r.rows {
		c := m.cell
		others, at := mean, c.seenTick.Load()
		if at > 0 {
			age := time.Duration(tick-at) * tickEvery
			w := math.Exp(-float64(age) / float64(ageTau))
			others = mean + (float64(c.seen.Load()&othersMask)-mean)*w
		}
		c.others.Store(int32(others * (1 << othersShift)))
		if p := c.penalty.Load(); p > 0 && tick%int64(time.Second/tickEvery) == 0 {
			c.penalty.CompareAndSwap(p, p/2)
		}
	}
}

// changed is called by the fleet after each change of an app.
func (b *Balancer) changed(id AppID) {
	if a, ok := (*b.fleet.apps.Load())[id]; ok {
		b.rebuild(b.of(id, a))
	} else {
		b.apps.Delete(id)
	}
	b.signal(id)
}

func (b *Balancer) of(id AppID, a *app) *appBalance {
	if v, ok := b.apps.Load(id); ok && v.(*appBalance).app == a {
		return v.(*appBalance)
	}
	ab := &appBalance{app: a}
	b.apps.Store(id, ab)
	return ab
}

// rebuild makes the view of the present snapshot and distances, unless it is the one that stands.
func (b *Balancer) rebuild(ab *appBalance) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := ab.app.snap.Load()
	order := make([]distance, len(s.regions))
	for i, r := range s.regions {
		order[i] = distance{rows: r}
		order[i].rtt, order[i].known = b.rtt(r.name)
	}
	slices.SortFunc(order, func(x, y distance) int {
		if x.known != y.known {
			if x.known {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(x.rtt, y.rtt), cmp.Compare(x.rows.name, y.rows.name))
	})
	if old := ab.view.Load(); old != nil && old.snap == s && slices.Equal(old.order, order) {
		return
	}
	ab.view.Store(&View{snap: s, order: order, tick: &b.fleet.tick})
}

func (b *Balancer) rtt(region string) (time.Duration, bool) {
	if b.distance != nil {
		if d, ok := b.distance.RTT(region); ok && d >= 0 {
			return d, true
		}
	}
	return 0, region == b.fleet.region
}

// View returns the present view of an app, for strategies and planners that are not called by a pick.
func (b *Balancer) View(id AppID) (*View, bool) {
	v, ok := b.apps.Load(id)
	if !ok {
		return nil, false
	}
	return v.(*appBalance).view.Load(), true
}

// Pick chooses a machine for r and counts the request in. On success the caller owes one [Reservation.Release]. The error
// matches [ErrNoApp], [ErrFull] or [ErrNoMachine]. It never waits.
func (b *Balancer) Pick(r Request) (Reservation, error) {
	v, ok := b.apps.Load(r.App)
	if !ok {
		return Reservation{}, fmt.Errorf("%w: %q: put it into the fleet with PutApp", ErrNoApp, r.App)
	}
	if r.Rand == 0 {
		r.Rand = rand.Uint64()
	}
	return b.reserve(v.(*appBalance), r)
}

func (b *Balancer) reserve(ab *appBalance, r Request) (Reservation, error) {
	for {
		view := ab.view.Load()
		s, ok := b.strategyOf(view).Pick(view, r)
		if !ok {
			return Reservation{}, view.nothing(&r)
		}
		m := view.row(s)
		if !m.cell.enter(m.limits.Hard) {
			r.Rand = mix(r.Rand, 1) // somebody of this node took the last slot between look and act
			continue
		}
		m.cell.picked.Store(b.picks.Add(1))
		return Reservation{b: b, row: m}, nil
	}
}

func (b *Balancer) strategyOf(v *View) Strategy {
	if s := v.snap.app.Strategy; s != nil {
		return s
	}
	return b.strategy
}

// enter counts one request of this node in, below the hard limit.
func (c *cell) enter(hard int) bool {
	if hard == 0 {
		c.own.Add(1)
		return true
	}
	for {
		n := c.own.Load()
		if int(n) >= hard {
			return false
		}
		if c.own.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// InFlight returns how many requests of this app this node has in flight.
func (b *Balancer) InFlight(id AppID) (n int) {
	a, ok := (*b.fleet.apps.Load())[id]
	if !ok {
		return 0
	}
	for _, r := range a.snap.Load().regions {
		for _, m := range r.rows {
			n += int(m.cell.own.Load())
		}
	}
	return n
}

// Loads calls yield with each machine of an app and its load as this node estimates it, until yield returns false.
func (b *Balancer) Loads(id AppID, yield func(*Machine, Candidate) bool) {
	s, ok := b.fleet.App(id)
	if !ok {
		return
	}
	for _, r := range s.regions {
		for _, m := range r.rows {
			var c Candidate
			m.look(&c, b.fleet.tick.Load())
			if !yield(&m.Machine, c) {
				return
			}
		}
	}
}

// OnRoom sets a function that is called whenever a slot of an app may have become free: after a release, when an owner
// says that it has room, when a row has changed, and on each tick. It must not block and not call back into b. It
// replaces the one set before.
func (b *Balancer) OnRoom(f func(AppID)) { b.room.Store(&f) }

func (b *Balancer) signal(id AppID) {
	if f := b.room.Load(); f != nil {
		(*f)(id)
	}
}
