package balance

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// Gate admits work to one machine and holds what the owner decides about it: {state, epoch,
// operation token, cordon generation, start wanted, limits, in flight}. It is the only source of
// these facts; rows are copies.
//
// [Gate.Enter] and [Gate.Leave] are one compare-and-swap each and may be called from any goroutine.
// The other methods are transitions. Each succeeds only from the states that its comment names, so
// if two callers compete, one fails and must look again.
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
	kept    *kept                  // who performs remembered starts; nil for a gate of no fleet
	// the cell in its owner's fleet, whose score follows the gate; nil for a gate of no fleet
	cell *cell
}

// operation is a start or a stop that a caller carries out.
type operation struct {
	token uint64 // of the caller that carries it out: calls with another one change nothing
	ended bool   // the run ended by itself while the gate was closing
	final bool   // no start is remembered during this stop
	doubt bool   // whoever closed the gate does not know how the stop has ended
}

// begin replaces the operation by a new one and returns its token.
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
	touchedShift = cordonShift + 1        // a request came whose node knew the cordon
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

// Enter counts a request in, or returns why not. An admitted request leaves with [Gate.Leave], and
// the load includes it.
//
// token is that of a granted slot, 0 for none. A token that is still reserved is spent, and its
// slot becomes the request's. With a token that was spent, revoked, or never issued here the
// request gets a slot that is really free, or is bounced as full.
//
// epoch is the machine's epoch that the caller means, 0 for any. knownGen is the cordon generation
// that the caller's node had seen when it picked: a request that comes although its node knows the
// present cordon had no better choice, and its arrival aborts the stop.
func (g *Gate) Enter(token, epoch, knownGen uint64) (Load, Bounce) {
	if token != 0 && g.drop(token) {
		return g.use(epoch, knownGen)
	}
	for {
		w := g.word.Load()
		if b := g.refuses(w, epoch); b != BounceNone {
			return g.load(w), b
		}
		next := (w + 1) | usedBit
		// gen belongs to w, or to a transition that is about to change the word; in that case the
		// swap fails.
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

// Leave counts one admitted request out. It panics if there are more Leaves than admissions.
func (g *Gate) Leave() {
	if g.word.Add(^uint64(0))&inFlightMask == inFlightMask {
		panic("balance: Gate.Leave without Admit")
	}
	g.moved()
	if f := g.left.Load(); f != nil {
		(*f)()
	}
}

// moved tells the owner's own view that the number in flight has changed.
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

// Granted returns how many slots are granted and not yet used. They count as in flight, since they
// are taken, but are no load.
func (g *Gate) Granted() int { return int(g.slots.count.Load()) }

// InFlight returns the number of requests in flight, and of slots granted.
func (g *Gate) InFlight() int { return int(g.word.Load() & inFlightMask) }

// State returns the machine's state.
func (g *Gate) State() State { return stateOf(g.word.Load()) }

// TakeSample returns the load, and what has happened since the last TakeSample: the most requests
// that were in flight at once, granted slots among them, and whether anything was admitted. So a
// request that came and went between two looks is not mistaken for idleness. It has one caller:
// whatever decides whether the machine stops.
func (g *Gate) TakeSample() (l Load, peak int, used bool) {
	for {
		w := g.word.Load()
		if g.word.CompareAndSwap(w, w&^usedBit) {
			now := w & inFlightMask
			return g.load(w), int(max(now, g.peak.Swap(now))), w&usedBit != 0
		}
	}
}

// Touched reports whether a request came although its node knew the present soft cordon: the stop
// must then be aborted.
func (g *Gate) Touched() bool {
	w := g.word.Load()
	return w&cordonBit != 0 && w&touchedBit != 0
}

func stateOf(w uint64) State { return State(w & stateMask >> stateShift) }

func stateField(s State) uint64 { return uint64(s) << stateShift }

// Grant reserves a slot for a request that is still to come. The slot counts as in flight from now
// on: the machine cannot close until [Gate.Enter] or [Gate.Revoke] takes the token. It does not
// count as use: a machine whose slots are only reserved is as idle as it was, see [Load].
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

// use gives a request the slot of a token that has been dropped.
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

// OnLeave sets a function that is called after each request that leaves, with no lock held; it must
// not block. It replaces the function set before.
func (g *Gate) OnLeave(f func()) { g.left.Store(&f) }

// Tier returns how well this node's picks can use the machine now: by its row, and by whether this
// node has ejected it as an outlier. For a gate of no fleet it is [TierNone].
func (g *Gate) Tier() Tier {
	if g.cell == nil {
		return TierNone
	}
	if r := g.cell.row.Load(); r.shared != nil { // else Host has not returned
		return r.tier
	}
	return TierNone
}

// SetLimits changes the limits. Requests in flight above a lowered hard limit stay; nothing is
// admitted until enough of them have left.
func (g *Gate) SetLimits(l Limits) error {
	if err := l.validate(); err != nil {
		return fmt.Errorf("balance: gate: %w", err)
	}
	g.mu.Lock()
	g.soft.Store(int64(l.Soft))
	g.set(hardMask, uint64(l.Hard)<<hardShift)
	g.unlock(true)
	return nil
}

// Start moves stopped, suspended or failed to starting under a new epoch, for the caller to carry
// out with the token. fromEpoch is the epoch that the caller saw. If the machine has moved on
// since, the answer says what it is now.
func (g *Gate) Start(fromEpoch uint64) (token uint64, a StartAnswer) {
	g.mu.Lock()
	switch s := g.State(); {
	case s == StateStarting:
		a = StartUnderway
	case s == StateStarted:
		a = StartRunning
		if g.word.Load()&cordonBit != 0 {
			g.set(0, touchedBit) // a wanted start is as good a reason to keep it as a request
		}
	case s == StateStopping || s == StateSuspending:
		if !g.op.final && !g.retired && g.kept.remembers() {
			a = StartRemembered
			g.set(0, wantedBit)
		}
	case fromEpoch == g.epoch.Load() && !g.retired:
		a = StartAccepted
		token = g.op.begin()
		g.epoch.Add(1) // before the word, see there
		g.set(stateMask|cordonBit|touchedBit|wantedBit, stateField(StateStarting))
	}
	g.unlock(a == StartAccepted)
	return token, a
}

// Adopt takes in a machine that exists although this gate has not started it, because an earlier
// process did, as the run of that epoch. It moves stopped or failed, of an earlier epoch, to
// starting, and the caller reports with the token how that ends; or it moves to suspended. What an
// earlier process had in flight there is unknown: slot, a token as of [Gate.Grant], keeps a machine
// that is not suspended from closing until it is revoked.
func (g *Gate) Adopt(epoch uint64, suspended bool) (token, slot uint64, ok bool) {
	g.mu.Lock()
	s := g.State()
	ok = (s == StateStopped || s == StateFailed) && epoch > g.epoch.Load() && !g.retired
	if ok {
		token = g.op.begin()
		g.epoch.Store(epoch) // before the word, see there
		to := StateSuspended
		if !suspended {
			to, slot = StateStarting, g.slots.add()
			g.word.Add(1)
		}
		g.set(stateMask|cordonBit|touchedBit|wantedBit, stateField(to))
	}
	g.unlock(ok)
	if slot != 0 {
		g.moved()
	}
	return token, slot, ok
}

// Ready moves starting to started.
func (g *Gate) Ready(token uint64) bool { return g.endStart(token, StateStarted) }

// Fail moves starting to failed: the start did not succeed.
func (g *Gate) Fail(token uint64) bool { return g.endStart(token, StateFailed) }

func (g *Gate) endStart(token uint64, to State) bool {
	g.mu.Lock()
	ok := token == g.op.token && g.State() == StateStarting
	if ok {
		g.set(stateMask, stateField(to))
	}
	g.unlock(ok)
	return ok
}

// Cordon soft-cordons a started machine and returns the generation of the cordon.
func (g *Gate) Cordon() (gen uint64, ok bool) {
	g.mu.Lock()
	w := g.word.Load()
	if ok = stateOf(w) == StateStarted && w&cordonBit == 0; ok {
		gen = g.gen.Add(1) // before the word, see there
		g.set(touchedBit, cordonBit)
	}
	g.unlock(ok)
	return gen, ok
}

// Uncordon ends the soft cordon of that generation, unless the gate has closed since.
func (g *Gate) Uncordon(gen uint64) bool {
	g.mu.Lock()
	w := g.word.Load()
	ok := stateOf(w) == StateStarted && w&cordonBit != 0 && gen == g.gen.Load()
	if ok {
		g.set(cordonBit|touchedBit, 0)
	}
	g.unlock(ok)
	return ok
}

// Close moves a machine under the soft cordon of that generation to stopping, or to suspending, if
// nothing is in flight and no request has touched the cordon. From then on nothing is admitted.
func (g *Gate) Close(gen uint64, suspend bool) (token uint64, ok bool) {
	to := StateStopping
	if suspend {
		to = StateSuspending
	}
	g.mu.Lock()
	for gen == g.gen.Load() {
		w := g.word.Load()
		if stateOf(w) != StateStarted || w&(cordonBit|touchedBit|inFlightMask) != cordonBit {
			break
		}
		if ok = g.word.CompareAndSwap(w, (w&^stateMask|stateField(to))+turnUnit); ok {
			token = g.op.begin()
			break
		}
	}
	g.unlock(ok)
	return token, ok
}

// CloseNow moves a started machine to stopping whatever is in flight. It is for shutting down and
// for machines that must go: the caller may wait until InFlight is 0.
func (g *Gate) CloseNow() (token uint64, ok bool) {
	g.mu.Lock()
	if ok = g.State() == StateStarted; ok {
		token = g.op.begin()
		g.set(stateMask, stateField(StateStopping))
	}
	g.unlock(ok)
	return token, ok
}

// Closed ends the stop with that token: in suspended if suspended says so, else in stopped. again
// is true when a start was wanted meanwhile: the fleet's keepers have been told, see [Keeper]. For
// a gate of no fleet the caller starts the machine.
func (g *Gate) Closed(token uint64, suspended bool) (again, ok bool) {
	to := StateStopped
	if suspended {
		to = StateSuspended
	}
	g.mu.Lock()
	if ok = token == g.op.token && g.closing(); ok {
		again = g.word.Load()&wantedBit != 0
		g.set(stateMask|cordonBit|touchedBit|wantedBit, stateField(to))
	}
	g.unlock(ok)
	if again {
		g.kept.wanted()
	}
	return again, ok
}

// Wanted reports whether a start is remembered: somebody wants the machine that is being stopped.
func (g *Gate) Wanted() bool { return g.word.Load()&wantedBit != 0 }

// Forget drops the start that is wanted after the present stop, and refuses any other until then.
// It is for stops after which nothing is to start: when a node ends, or a machine is removed. It
// returns false when nothing is being stopped.
func (g *Gate) Forget() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closing() {
		return false
	}
	g.op.final = true
	g.set(wantedBit, 0)
	return true
}

// Abandon ends the caller's part in the stop with that token without knowing whether the machine
// still runs: the gate stays closed until another caller calls [Gate.TakeOver].
func (g *Gate) Abandon(token uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	ok := token == g.op.token && g.closing()
	g.op.doubt = g.op.doubt || ok
	return ok
}

// TakeOver takes over a stop that was abandoned; whether the machine still runs is unknown. The old
// token becomes invalid.
func (g *Gate) TakeOver() (token uint64, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if ok = g.op.doubt && g.closing(); ok {
		g.op.doubt = false
		g.op.token++
		token = g.op.token
	}
	return token, ok
}

// Retire says whether the machine is about to be removed: while it is, every start is refused, and
// a remembered one is dropped.
func (g *Gate) Retire(on bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.retired = on; on {
		g.set(wantedBit, 0)
	}
}

// remove retires a machine that does not run; for any other it returns the state and false.
func (g *Gate) remove() (State, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.State()
	ok := s == StateStopped || s == StateFailed
	g.retired = g.retired || ok
	return s, ok
}

// Suspect tells the fleet's keepers that nothing listens at the machine's address in the run of
// that epoch. Whoever forwards requests calls it.
func (g *Gate) Suspect(epoch uint64) {
	if g.epoch.Load() == epoch && g.State() == StateStarted {
		g.kept.suspect(epoch)
	}
}

// Reopen moves stopping or suspending back to started: the driver failed, and the machine still
// runs. If it has exited meanwhile, see Exited, it moves to failed.
func (g *Gate) Reopen(token uint64) bool {
	g.mu.Lock()
	ok := token == g.op.token && g.closing()
	if ok {
		to := StateStarted
		if g.op.ended {
			to = StateFailed
		}
		g.set(stateMask|cordonBit|touchedBit|wantedBit, stateField(to))
	}
	g.unlock(ok)
	return ok
}

// Exited records that the run of that epoch has ended by itself: it moves to failed if the run
// failed, else to stopped. A late report of an older epoch changes nothing. During stopping or
// suspending, which Closed ends, it changes nothing yet: but the machine cannot go back to started
// any more, see Reopen.
func (g *Gate) Exited(epoch uint64, failed bool) bool {
	to := StateStopped
	if failed {
		to = StateFailed
	}
	g.mu.Lock()
	s := g.State()
	current := epoch == g.epoch.Load()
	g.op.ended = g.op.ended || current && g.closing()
	ok := current && (s == StateStarting || s == StateStarted || s == StateSuspended)
	if ok {
		// Whatever was under way for this run is invalid: no token counts in the states that this
		// leads to, and the states in which one does are entered with a new token.
		g.set(stateMask|cordonBit|touchedBit|wantedBit, stateField(to))
	}
	g.unlock(ok)
	return ok
}

func (g *Gate) closing() bool { s := g.State(); return s == StateStopping || s == StateSuspending }

// set replaces fields of the word and increments its turn; the counts beside them may move
// meanwhile. g.mu is held, so the state and the cordon cannot.
func (g *Gate) set(clear, set uint64) {
	for {
		w := g.word.Load()
		if g.word.CompareAndSwap(w, (w&^clear|set)+turnUnit) {
			return
		}
	}
}

// AfterRun calls f once when the run of that epoch has ended: when the machine is stopped,
// suspended or failed, or its process is known to have ended while it was being stopped. If that is
// so already, f is called at once, else on the goroutine that tells the gate; it must not block.
// After stop it is not called.
func (g *Gate) AfterRun(epoch uint64, f func()) (stop func()) {
	g.mu.Lock()
	over := epoch != g.epoch.Load() || g.over()
	if !over {
		if g.after == nil {
			g.after = map[*func()]struct{}{}
		}
		g.after[&f] = struct{}{}
	}
	g.mu.Unlock()
	if over {
		f()
	}
	return func() {
		g.mu.Lock()
		delete(g.after, &f)
		g.mu.Unlock()
	}
}

// over reports whether the present run has ended; g.mu is held.
func (g *Gate) over() bool { return g.State() != StateStarted && (!g.closing() || g.op.ended) }

func (g *Gate) unlock(changed bool) {
	var after map[*func()]struct{}
	if len(g.after) > 0 && g.over() {
		after, g.after = g.after, nil
	}
	g.mu.Unlock()
	for f := range after {
		(*f)()
	}
	if changed && g.changed != nil {
		g.changed()
	}
}
