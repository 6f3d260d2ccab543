package balance

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// Load is what the owner says of a machine in every reply, bounce and report. It was exact when it was written.
type Load struct {
	InFlight  int    // requests in flight, including the one that the reply answers, and slots granted
	Limits    Limits // as the gate enforces them
	State     State
	Cordon    Cordon
	CordonGen uint64
	Epoch     uint64
	Seq       uint64 // grows with every Load of one gate, so that older ones can be dropped
}

// Gate admits work to one machine and holds what the owner decides about it: {state, epoch, operation token, cordon
// generation, start wanted, limits, in flight}. It is the only home of these facts; rows are copies.
//
// [Gate.Admit] and [Gate.Leave] are one compare-and-swap each and may be called from any goroutine. The other methods are
// transitions; each succeeds only from the states that its comment names, so of two callers one loses and must look again.
//
//	stopped, suspended, failed --Start--> starting --Ready--> started --Cordon--> started, soft --Close--> stopping, suspending --Closed--> stopped, suspended
//	                                         |                  ^-----Uncordon------|                              |
//	                                         '--Fail--> failed  ^-------------------------Reopen-------------------'
//
// [Gate.Exited] leads from any of them to failed or stopped. Invariant: between a successful Close and the next Ready
// nothing is in flight on that epoch and nothing is admitted.
type Gate struct {
	// word is all that Admit looks at. turn changes with every transition, so that a compare-and-swap on a word read
	// before a transition fails after it.
	word atomic.Uint64
	soft atomic.Int64
	// epoch and gen are written before the word of the same transition is published.
	epoch atomic.Uint64
	gen   atomic.Uint64
	seq   atomic.Uint64
	peak  atomic.Uint64 // the most in flight since the last TakePeak

	mu      sync.Mutex // serializes transitions
	token   uint64
	ended   bool         // the run ended by itself while the gate was closing
	final   bool         // no start is remembered during the present stop
	retired bool         // no start is accepted or remembered
	doubt   bool         // who closed the gate does not know how the present stop has ended
	changed func()       // called after each transition, with no lock held
	tokens  []uint64     // of slots granted and not yet redeemed
	grants  uint64       // the last token given out
	held    atomic.Int32 // len(tokens), for those without the lock
	left    atomic.Pointer[func()]
	after   map[*func()]struct{} // to be called when the present run has ended
	kept    *kept                // who does the starts that it remembers; nil for a gate of no fleet
	// of the machine in its owner's fleet: its score follows the gate; nil for a gate of no fleet
	cell *cell
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
	usedShift    = touchedShift + 1       // something was admitted since the last Sample
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

// Admit counts a request in, or says why not. epoch is the machine's epoch that the caller means, 0
// for any. knownGen is the cordon generation the caller's node had seen when it picked: a caller
// that comes although it knows the present cordon had nothing better, and its arrival aborts the
// stop. The load includes the request when admitted.
func (g *Gate) Admit(epoch, knownGen uint64) (Load, Bounce) {
	for {
		w := g.word.Load()
		if b := g.refuses(w, epoch); b != Admitted {
			return g.load(w), b
		}
		next := (w + 1) | usedBit
		// gen belongs to w or to a transition that is about to change the word; in that case the swap fails.
		if w&cordonBit != 0 && knownGen >= g.gen.Load() {
			next |= touchedBit
		}
		if g.word.CompareAndSwap(w, next) {
			if n := next & inFlightMask; n > g.peak.Load() {
				g.raise(n)
			}
			g.moved()
			return g.load(next), Admitted
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

// TakePeak returns the most requests that were in flight at once, granted slots among them, since the last TakePeak, and
// begins anew. It has one caller: the machine's decider, which so sees the peaks that started a machine and not only what is
// there when it looks.
func (g *Gate) TakePeak() int {
	now := g.word.Load() & inFlightMask
	return int(max(now, g.peak.Swap(now)))
}

func (g *Gate) refuses(w, epoch uint64) Bounce {
	switch stateOf(w) {
	case Started:
	case Stopping, Suspending:
		return Closing
	default:
		return NotStarted
	}
	if epoch != 0 && epoch != g.epoch.Load() {
		return WrongEpoch
	}
	n, hard := w&inFlightMask, w&hardMask>>hardShift
	if n >= inFlightMask || hard > 0 && n >= hard {
		return Full
	}
	return Admitted
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

// Granted returns how many slots are granted and not yet used: they count as in flight, since they are taken, and are no
// load.
func (g *Gate) Granted() int { return int(g.held.Load()) }

// InFlight returns the number of requests in flight, and of slots granted.
func (g *Gate) InFlight() int { return int(g.word.Load() & inFlightMask) }

// State returns the machine's state.
func (g *Gate) State() State { return stateOf(g.word.Load()) }

// Sample returns the load and whether anything was admitted since the last Sample, so that a request which came and went
// between two looks is not taken for idleness. It has one caller: the machine's decider.
func (g *Gate) Sample() (l Load, used bool) {
	for {
		w := g.word.Load()
		if g.word.CompareAndSwap(w, w&^usedBit) {
			return g.load(w), w&usedBit != 0
		}
	}
}

// Touched reports whether a request that knew the present soft cordon came all the same: the stop must be aborted.
func (g *Gate) Touched() bool {
	w := g.word.Load()
	return w&cordonBit != 0 && w&touchedBit != 0
}

// SetLimits changes the limits. What is in flight above a lowered hard limit stays; nothing is admitted until it has left.
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

// StartAnswer is what came of a start command.
type StartAnswer uint8

// The answers. None of them is an error: views are late, and a start is wanted, not a particular transition.
const (
	StartRefused    StartAnswer = iota // the machine ran and ended since the caller looked, or is being stopped and nobody starts it then: look again
	StartAccepted                      // starting now, under a new epoch
	StartUnderway                      // already starting
	StartRunning                       // already started
	StartRemembered                    // being stopped; it starts again when that is over
)

var startAnswerNames = [...]string{"refused", "accepted", "already starting", "already started", "remembered"}

// String returns the answer in words.
func (a StartAnswer) String() string { return name(startAnswerNames[:], uint8(a), "answer") }

// Start moves stopped, suspended or failed to starting under a new epoch, for the caller to carry out with the token.
// fromEpoch is the epoch the caller saw; a machine that has moved on since answers what it is now.
func (g *Gate) Start(fromEpoch uint64) (token uint64, a StartAnswer) {
	g.mu.Lock()
	switch s := g.State(); {
	case s == Starting:
		a = StartUnderway
	case s == Started:
		a = StartRunning
		if g.word.Load()&cordonBit != 0 {
			g.set(0, touchedBit) // who wants it started is as good a reason to keep it as a request
		}
	case s == Stopping || s == Suspending:
		if !g.final && !g.retired && g.kept.remembers() {
			a = StartRemembered
			g.set(0, wantedBit)
		}
	case fromEpoch == g.epoch.Load() && !g.retired:
		a = StartAccepted
		g.token++
		token = g.token
		g.epoch.Add(1) // before the word, see there
		g.set(stateMask|cordonBit|touchedBit|wantedBit, stateField(Starting))
	}
	g.unlock(a == StartAccepted)
	return token, a
}

// Ready moves starting to started.
func (g *Gate) Ready(token uint64) bool { return g.endStart(token, Started) }

// Fail moves starting to failed: the start has come to nothing.
func (g *Gate) Fail(token uint64) bool { return g.endStart(token, Failed) }

func (g *Gate) endStart(token uint64, to State) bool {
	g.mu.Lock()
	ok := token == g.token && g.State() == Starting
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
	if ok = stateOf(w) == Started && w&cordonBit == 0; ok {
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
	ok := stateOf(w) == Started && w&cordonBit != 0 && gen == g.gen.Load()
	if ok {
		g.set(cordonBit|touchedBit, 0)
	}
	g.unlock(ok)
	return ok
}

// Close moves a machine under the soft cordon of that generation to stopping, or to suspending, if nothing is in flight
// and nobody touched it. From here on nothing is admitted.
func (g *Gate) Close(gen uint64, suspend bool) (token uint64, ok bool) {
	to := Stopping
	if suspend {
		to = Suspending
	}
	g.mu.Lock()
	for gen == g.gen.Load() {
		w := g.word.Load()
		if stateOf(w) != Started || w&(cordonBit|touchedBit|inFlightMask) != cordonBit {
			break
		}
		if ok = g.word.CompareAndSwap(w, (w&^stateMask|stateField(to))+turnUnit); ok {
			g.token++
			g.ended, g.final, g.doubt = false, false, false
			token = g.token
			break
		}
	}
	g.unlock(ok)
	return token, ok
}

// CloseNow moves a started machine to stopping whatever is in flight. It is for shutting down and for machines that must
// go: the caller waits until InFlight is 0, or does not.
func (g *Gate) CloseNow() (token uint64, ok bool) {
	g.mu.Lock()
	if ok = g.State() == Started; ok {
		g.token++
		g.ended, g.final, g.doubt = false, false, false
		token = g.token
		g.set(stateMask, stateField(Stopping))
	}
	g.unlock(ok)
	return token, ok
}

// Closed ends the stop with that token: in suspended where suspended says so, else in stopped.
// again is true when a start was wanted meanwhile: the fleet's keepers have been told, see
// [Keeper]. Of a gate of no fleet the caller starts the machine.
func (g *Gate) Closed(token uint64, suspended bool) (again, ok bool) {
	to := Stopped
	if suspended {
		to = Suspended
	}
	g.mu.Lock()
	if ok = token == g.token && g.closing(); ok {
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

// Forget drops the start that is wanted when the present stop is over, and has any other refused
// until then. It is for stops after which nothing is to start: of a node that ends, or of a machine
// that is removed. It is false when nothing is being stopped.
func (g *Gate) Forget() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closing() {
		return false
	}
	g.final = true
	g.set(wantedBit, 0)
	return true
}

// Abandon gives the stop with that token up by whoever carries it out, and does not know whether the machine still runs: the
// gate stays closed until [Gate.TakeOver] has found somebody who sees to it.
func (g *Gate) Abandon(token uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	ok := token == g.token && g.closing()
	g.doubt = g.doubt || ok
	return ok
}

// TakeOver takes over a stop that was abandoned, in doubt whether the machine still runs. The token of who had it is void.
func (g *Gate) TakeOver() (token uint64, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if ok = g.doubt && g.closing(); ok {
		g.doubt = false
		g.token++
		token = g.token
	}
	return token, ok
}

// Retire says whether the machine is to be removed: while it is, every start is refused, and one
// that was remembered is dropped.
func (g *Gate) Retire(on bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.retired = on; on {
		g.set(wantedBit, 0)
	}
}

// remove retires a machine that does not run; of any other it returns the state and false.
func (g *Gate) remove() (State, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.State()
	ok := s == Stopped || s == Failed
	g.retired = g.retired || ok
	return s, ok
}

// Suspect tells the fleet's keepers that nothing listens at the machine's address, in the run of
// that epoch. It is for whoever forwards requests.
func (g *Gate) Suspect(epoch uint64) {
	if g.epoch.Load() == epoch && g.State() == Started {
		g.kept.suspect(epoch)
	}
}

// Reopen moves stopping or suspending back to started: the driver could not, and the machine still runs. Where it has
// ended meanwhile, see Exited, it moves to failed.
func (g *Gate) Reopen(token uint64) bool {
	g.mu.Lock()
	ok := token == g.token && g.closing()
	if ok {
		to := Started
		if g.ended {
			to = Failed
		}
		g.set(stateMask|cordonBit|touchedBit|wantedBit, stateField(to))
	}
	g.unlock(ok)
	return ok
}

// Exited notes that the run of that epoch has ended by itself: to failed where it failed, else to stopped. A late report
// of an older epoch changes nothing. During stopping or suspending, whose end Closed tells, it changes nothing yet: but
// there is no way back to started any more, see Reopen.
func (g *Gate) Exited(epoch uint64, failed bool) bool {
	to := Stopped
	if failed {
		to = Failed
	}
	g.mu.Lock()
	s := g.State()
	current := epoch == g.epoch.Load()
	g.ended = g.ended || current && g.closing()
	ok := current && (s == Starting || s == Started || s == Suspended)
	if ok {
		// Whatever was under way for this run is void: no token counts in the states that this
		// leads to, and those in which one does are entered with a new one.
		g.set(stateMask|cordonBit|touchedBit|wantedBit, stateField(to))
	}
	g.unlock(ok)
	return ok
}

func (g *Gate) closing() bool { s := g.State(); return s == Stopping || s == Suspending }

// set replaces fields of the word and turns it; the counts beside them may move meanwhile. g.mu is held, so the state and
// the cordon cannot.
func (g *Gate) set(clear, set uint64) {
	for {
		w := g.word.Load()
		if g.word.CompareAndSwap(w, (w&^clear|set)+turnUnit) {
			return
		}
	}
}

// AfterRun has f called once when the run of that epoch has ended: when the machine is stopped,
// suspended or failed, or its process is known to have ended while it was being stopped. f is
// called at once where that is so already, else on the goroutine that tells the gate; it must not
// block. stop has it not called any more.
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
func (g *Gate) over() bool { return g.State() != Started && (!g.closing() || g.ended) }

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

func stateOf(w uint64) State    { return State(w & stateMask >> stateShift) }
func stateField(s State) uint64 { return uint64(s) << stateShift }
