package balance

import (
	"slices"
	"sync"
	"sync/atomic"
)

// Gate admits work to one machine and holds what the owner decides about it: {state, epoch,
// operation token, cordon generation, start wanted, limits, in flight}. It is the only home of
// these facts; rows are copies.
//
// [Gate.Enter] and [Gate.Leave] are one compare-and-swap each and may be called from any goroutine.
// The other methods are transitions; each succeeds only from the states that its comment names, so
// of two callers one loses and must look again.
//
//	stopped, suspended, failed --Start--> starting --Ready--> started
//	starting --Fail--> failed
//	started --Cordon--> started, soft-cordoned --Uncordon--> started
//	started, soft-cordoned --Close--> stopping, suspending --Closed--> stopped, suspended
//	stopping, suspending --Reopen--> started
//
// [Gate.Exited] leads from any of them to failed or stopped. Invariant: between a successful Close
// and the next Ready nothing is in flight on that epoch and nothing is admitted.
type Gate struct {
	// word is all that Enter looks at. turn changes with every transition, so that a compare-and-swap
	// on a word read before a transition fails after it.
	word atomic.Uint64
	soft atomic.Int64
	// epoch and gen are written before the word of the same transition is published.
	epoch atomic.Uint64
	gen   atomic.Uint64
	seq   atomic.Uint64
	peak  atomic.Uint64 // the most in flight since the last TakeSample

	mu      sync.Mutex           // serializes transitions; for the fields up to slots
	op      operation            // the start or stop under way, or the last one
	retired bool                 // no start is accepted or remembered
	after   map[*func()]struct{} // to be called when the present run has ended
	slots   reserved             // for requests still to come

	changed func()                 // called after each transition, with no lock held
	left    atomic.Pointer[func()] // called after each request that leaves
	kept    *kept                  // who does the starts that it remembers; nil for a gate of no fleet
	// in its owner's fleet, whose score follows the gate; nil for a gate of no fleet
	cell *cell
}

// operation is a start or a stop, which somebody carries out.
type operation struct {
	token uint64 // of who carries it out: what is said with another one changes nothing
	ended bool   // the run ended by itself while the gate was closing
	final bool   // no start is remembered during this stop
	doubt bool   // who closed the gate does not know how the stop has ended
}

// begin makes way for the next operation and returns its token.
func (o *operation) begin() uint64 {
	*o = operation{token: o.token + 1}
	return o.token
}

// reserved are the slots that a gate has granted and that are not yet used.
type reserved struct {
	tokens []uint64
	last   uint64       // the last token given out
	count  atomic.Int32 // len(tokens), for those without the lock
}

func (r *reserved) add() (token uint64) {
	if r.last++; r.last == 0 { // 0 is no token
		r.last = 1
	}
	r.tokens = append(r.tokens, r.last)
	r.count.Store(int32(len(r.tokens)))
	return r.last
}

func (r *reserved) drop(token uint64) bool {
	i := slices.Index(r.tokens, token)
	if i >= 0 {
		r.tokens = slices.Delete(r.tokens, i, i+1)
		r.count.Store(int32(len(r.tokens)))
	}
	return i >= 0
}

// The fields of the word, from the lowest bit.
const (
	inFlightBits = 20
	hardShift    = inFlightBits
	hardBits     = 20
	stateShift   = hardShift + hardBits
	stateBits    = 3
	cordonShift  = stateShift + stateBits // one bit: soft-cordoned
	touchedShift = cordonShift + 1        // somebody who knew the cordon came all the same
	usedShift    = touchedShift + 1       // something was admitted since the last TakeSample
	wantedShift  = usedShift + 1          // a start is wanted when the present stop is over
	turnShift    = wantedShift + 1

	inFlightMask = uint64(1)<<inFlightBits - 1
	hardMask     = (uint64(1)<<hardBits - 1) << hardShift
	stateMask    = (uint64(1)<<stateBits - 1) << stateShift
	cordonBit    = uint64(1) << cordonShift
	touchedBit   = uint64(1) << touchedShift
	usedBit      = uint64(1) << usedShift
	wantedBit    = uint64(1) << wantedShift
	turnUnit     = uint64(1) << turnShift
)

// NewGate returns the gate of a stopped machine that was never started.
func NewGate(l Limits) (*Gate, error) {
	g := &Gate{}
	if err := g.SetLimits(l); err != nil {
		return nil, err
	}
	return g, nil
}

// Enter counts a request in, or says why not. A request that is let in leaves with [Gate.Leave], and
// the load includes it.
//
// token is that of a granted slot, 0 for none. A token that is still reserved is spent, and its slot
// becomes the request's. With one that was spent, revoked, or never given out here the request gets
// a slot that is really free, or is bounced as full.
//
// epoch is the machine's epoch that the caller means, 0 for any. knownGen is the cordon generation
// that the caller's node had seen when it picked: a caller that comes although it knows the present
// cordon had nothing better, and its arrival aborts the stop.
func (g *Gate) Enter(token, epoch, knownGen uint64) (Load, Bounce) {
	if token != 0 && g.drop(token) {
		return g.use(epoch, knownGen)
	}
	return g.admit(epoch, knownGen)
}

func (g *Gate) admit(epoch, knownGen uint64) (Load, Bounce) {
	for {
		w := g.word.Load()
		if b := g.refuses(w, epoch); b != BounceNone {
			return g.load(w), b
		}
		next := (w + 1) | usedBit
		// gen belongs to w or to a transition that is about to change the word; in that case the swap
		// fails.
		if w&cordonBit != 0 && knownGen >= g.gen.Load() {
			next |= touchedBit
		}
		if g.word.CompareAndSwap(w, next) {
			if n := next & inFlightMask; n > g.peak.Load() {
				g.raise(n)
			}
			g.moved()
			return g.load(next), BounceNone
		}
	}
}

// raise lifts the high-water mark to n.
func (g *Gate) raise(n uint64) {
	for old := g.peak.Load(); n > old; old = g.peak.Load() {
		if g.peak.CompareAndSwap(old, n) {
			return
		}
	}
}

func (g *Gate) refuses(w, epoch uint64) Bounce {
	switch stateOf(w) {
	case StateStarted:
	case StateStopping, StateSuspending:
		return BounceClosing
	default:
		return BounceNotStarted
	}
	if epoch != 0 && epoch != g.epoch.Load() {
		return BounceWrongEpoch
	}
	n, hard := w&inFlightMask, w&hardMask>>hardShift
	if n >= inFlightMask || hard > 0 && n >= hard {
		return BounceFull
	}
	return BounceNone
}

// Leave counts one admitted request out. More Leaves than admissions is a broken handle and panics.
func (g *Gate) Leave() {
	if g.word.Add(^uint64(0))&inFlightMask == inFlightMask {
		panic("balance: Gate.Leave without Admit")
	}
	g.moved()
	if f := g.left.Load(); f != nil {
		(*f)()
	}
}

// moved tells the owner's own view that what is in flight has changed.
func (g *Gate) moved() {
	if g.cell != nil {
		g.cell.changed()
	}
}

// Load returns the machine's present load.
func (g *Gate) Load() Load { return g.load(g.word.Load()) }

func (g *Gate) load(w uint64) Load {
	l := Load{
		InFlight:  int(w & inFlightMask),
		Limits:    Limits{Soft: int(g.soft.Load()), Hard: int(w & hardMask >> hardShift)},
		State:     stateOf(w),
		CordonGen: g.gen.Load(),
		Epoch:     g.epoch.Load(),
		Seq:       g.seq.Add(1),
	}
	if w&cordonBit != 0 {
		l.Cordon = CordonSoft
	}
	return l
}

// Granted returns how many slots are granted and not yet used: they count as in flight, since they
// are taken, and are no load.
func (g *Gate) Granted() int { return int(g.slots.count.Load()) }

// InFlight returns the number of requests in flight, and of slots granted.
func (g *Gate) InFlight() int { return int(g.word.Load() & inFlightMask) }

// State returns the machine's state.
func (g *Gate) State() State { return stateOf(g.word.Load()) }

// TakeSample returns the load and what has happened since the last TakeSample: the most requests
// that were in flight at once, granted slots among them, and whether anything was admitted. So a
// request that came and went between two looks is not taken for idleness. It has one caller: the
// machine's decider.
func (g *Gate) TakeSample() (l Load, peak int, used bool) {
	for {
		w := g.word.Load()
		if g.word.CompareAndSwap(w, w&^usedBit) {
			now := w & inFlightMask
			return g.load(w), int(max(now, g.peak.Swap(now))), w&usedBit != 0
		}
	}
}

// Touched reports whether a request that knew the present soft cordon came all the same: the stop
// must be aborted.
func (g *Gate) Touched() bool {
	w := g.word.Load()
	return w&cordonBit != 0 && w&touchedBit != 0
}

func stateOf(w uint64) State { return State(w & stateMask >> stateShift) }

func stateField(s State) uint64 { return uint64(s) << stateShift }

// Grant reserves a slot for a request that is still to come. It counts as in flight from now on:
// until [Gate.Enter] or [Gate.Revoke] takes the token the machine cannot close under it. It does
// not count as use: a machine whose slots are only reserved is as idle as it was, see [Load].
func (g *Gate) Grant() (token uint64, ok bool) {
	for {
		w := g.word.Load()
		if g.refuses(w, 0) != BounceNone {
			return 0, false
		}
		if g.word.CompareAndSwap(w, w+1) {
			break
		}
	}
	g.moved()
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.slots.add(), true
}

// use makes a slot whose token has been dropped a request's.
func (g *Gate) use(epoch, knownGen uint64) (Load, Bounce) {
	for {
		w := g.word.Load()
		if b := g.refuses(w, epoch); b != BounceNone && b != BounceFull {
			g.Leave()
			return g.Load(), b
		}
		next := w | usedBit
		if w&cordonBit != 0 && knownGen >= g.gen.Load() {
			next |= touchedBit
		}
		if g.word.CompareAndSwap(w, next) {
			return g.load(next), BounceNone
		}
	}
}

// Revoke takes a granted slot back, unless it has been used.
func (g *Gate) Revoke(token uint64) bool {
	ok := g.drop(token)
	if ok {
		if g.word.Add(^uint64(0))&inFlightMask == inFlightMask {
			panic("balance: Gate.Revoke without Grant")
		}
		g.moved()
	}
	return ok
}

func (g *Gate) drop(token uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.slots.drop(token)
}

// Holds reports whether the slot with that token is reserved and not yet used.
func (g *Gate) Holds(token uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Contains(g.slots.tokens, token)
}

// OnLeave has f called after each request that leaves, with no lock held; it must not block. It
// replaces the function set before.
func (g *Gate) OnLeave(f func()) { g.left.Store(&f) }

// Tier returns how well this node's picks can use the machine now: by its row, and by whether this
// node has ejected it as an outlier. For the gate of no fleet it is [TierNone].
func (g *Gate) Tier() Tier {
	if g.cell == nil {
		return TierNone
	}
	if r := g.cell.row.Load(); r.shared != nil { // else Host has not returned
		return r.tier
	}
	return TierNone
}
