package policy

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/boots"
	"github.com/ebbkit/ebb/balance"
)

// Planner decides which machines of one app one node recalls and starts. It is a pure state
// machine: it remembers what it has seen and asked for, and reads no clock. The zero value is ready
// for use. It is not safe for concurrent use.
//
// Demand is the capacity wanted, in requests. A machine's capacity is its soft limit, else its hard
// limit, else unlimited. The home region is filled first; what it cannot start overflows to the
// next one. In each region, machines that run or start are counted first, then soft-cordoned
// machines are recalled, then machines that can be started are, in canonical order. A stopping
// machine is one of the latter as long as its stop should be over before another machine has
// booted: it starts again as soon as it has stopped, and nodes that see older or newer rows ask for
// the same machine. One that takes longer is the last resort.
//
// Nodes with different home regions each cover their own demand: if an app sleeps everywhere, one
// machine starts per home region with a request, where a single one might have sufficed.
// App.Regions gives all nodes the same home.
//
// A machine whose boot fails is left alone for 1 s, doubling up to 1 min; so is one whose run ends
// early, from the second time on. Early is before ten times its boot, 1 s at least and 1 min at
// most (1 min where no boot is known): what has run for longer starts again at once, since
// something outside may have killed it. Three boots of an app that fail in a row open a breaker:
// then one machine is tried at a time, at the same intervals.
//
// Invariants: with a static demand no more machines run and start than are wanted, however long
// boots take (one more with hedging, or when the owners of all starting machines say that these
// will not become healthy). Planners that see the same rows start prefixes of the same order
// without communicating, so that together they start no more than the one with the largest demand.
// While the breaker is open, at most one start per interval.
type Planner struct {
	// Hedge allows one extra start when nothing serves and every start in flight is suspect, see
	// [Decision.Suspect]. Without it one is made only when all of them are known never to become
	// healthy: their rows say that they start and that their checks fail, and not that this is to be
	// expected.
	Hedge bool

	boots   boots.Book
	stops   stops
	breaker breaker
	hedged  bool // the extra start of this wake has been used
	rand    uint64
	last    time.Time // of the last decision

	// The machines as of the last decision, all in its order.
	ids        []balance.MachineID
	memory     []memory
	uses       []use                     // and as the present decision leaves them
	usesBefore []use                     // as it found them
	index      map[balance.MachineID]int // nil for few, see find
	order      []int32                   // all, in canonical order
	regions    []inRegion                // the same by region, sorted by name
}

// inRegion are the machines of one region, in canonical order.
type inRegion struct {
	name string
	rows []int32
}

// KeepsBounds marks p as a policy that [Bounded] returns as it is.
func (p *Planner) KeepsBounds() {}

// Plan decides. A start that it returns counts as asked for from now on; its result comes in a
// later Input's Answers.
func (p *Planner) Plan(now time.Time, in Input) Decision {
	p.rand = in.Rand
	if back := p.last.Sub(now); back > 0 && !p.last.IsZero() {
		p.shift(back)
	}
	p.last = now
	p.learn(now, in.Answers)
	p.boots.Hint(in.App.BootHint)
	p.align(in.Machines)
	p.observe(now, in.Machines)
	r := plan{
		census: census{p: p, now: now, in: &in},
		d:      Decision{App: in.App.ID, Demand: in.Demand()},
	}
	return r.decide()
}

// answered takes in the result of a start that was decided from the row m. err means that the owner
// could not be asked.
func (p *Planner) answered(now time.Time, m balance.Machine, a balance.StartAnswer, err error) {
	i, ok := p.find(m.ID)
	if !ok {
		return
	}
	s := &p.memory[i]
	if !s.asked.on || s.asked.epoch != m.Epoch {
		return // the row has shown it meanwhile
	}
	switch {
	case err != nil && s.asked.accepted && s.asked.lost < lostMax:
		s.asked.pending, s.asked.at = false, now
		s.asked.lost++
	case err != nil: // an owner out of reach is not the app's fault: the breaker does not count it
		p.failed(now, &m, s, err.Error(), noStart)
	case a == balance.StartRefused:
		s.asked = asked{}
		s.until = later(s.until, now.Add(refusedFor))
	default:
		s.asked.pending, s.asked.accepted, s.asked.answer, s.asked.at, s.asked.lost = false, true, a, now, 0
	}
}

// recalled takes in the result of a recall. After a failed one the machine does not count as
// capacity for a moment: its row may be about to say that it stops.
func (p *Planner) recalled(now time.Time, m balance.Machine, err error) {
	if i, ok := p.find(m.ID); ok && err != nil && p.memory[i].recall.gen == m.CordonGen {
		p.memory[i].recall = recall{failed: true, gen: m.CordonGen, at: now}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// History is what a [Planner] has learned of its app: how long its machines take to boot, to stop
// and to be suspended. It is a value that can be kept over a restart, as JSON. The zero value knows
// nothing.
type History struct{ learned boots.History }

// IsZero reports whether h knows nothing.
func (h History) IsZero() bool { return !h.learned.Known() }

// MarshalJSON writes h.
func (h History) MarshalJSON() ([]byte, error) { return json.Marshal(h.learned) }

// UnmarshalJSON replaces h by what MarshalJSON wrote.
func (h *History) UnmarshalJSON(text []byte) error {
	h.learned = boots.History{}
	return json.Unmarshal(text, &h.learned)
}

// History returns what p has learned of boots and stops.
func (p *Planner) History() History {
	h := p.boots.History()
	h.Stops, h.Suspends = p.stops[0], p.stops[1]
	return History{h}
}

// Restore gives p what another planner of the same app has learned, as if p had seen it first.
func (p *Planner) Restore(h History) {
	p.boots.Restore(boots.History{Boots: slices.Clone(h.learned.Boots)})
	p.stops[0].Follow(h.learned.Stops)
	p.stops[1].Follow(h.learned.Suspends)
}

const (
	// newsFor is how long a row that shows a stop, or its end, may take to arrive. For that long a
	// stopping machine keeps its place in the order, whatever is known of its stop: other nodes may
	// not know of the stop yet, or may know already that it is over.
	newsFor = 500 * time.Millisecond
	// bootGuess stands for another machine's boot where none is known, when a stop is compared with
	// it.
	bootGuess = time.Second
	// stopUnknown bounds a stop where none is known: package downscale waits that long for a driver.
	stopUnknown = time.Minute
	// restartFor is how soon after a stop the owner carries out the start that it remembers. After
	// that the owner is asked again.
	restartFor = time.Second
)

// stops is what is known of how long an app's machines take to stop, and to be suspended.
type stops [2]boots.Boots

func (k *stops) of(s balance.State) *boots.Boots {
	if s == balance.StateSuspending {
		return &k[1]
	}
	return &k[0]
}

// left returns how much longer a stop of that age should take: until the median, then until the
// longest, then as long again as it is late. If no stop is known, that is as long as it has taken
// so far.
func (k *stops) left(s balance.State, age time.Duration) time.Duration {
	b := k.of(s)
	if !b.Known() {
		return max(age, 0)
	}
	for _, end := range [...]time.Duration{b.Expected(), b.Longest()} {
		if age < end {
			return end - age
		}
	}
	return age - b.Expected()
}

// bound returns how much longer a stop of that age may take at most.
func (k *stops) bound(s balance.State, age time.Duration) time.Duration {
	end := stopUnknown
	if b := k.of(s); b.Known() {
		end = b.Suspect()
	}
	return max(end-age, k.left(s, age))
}

func closing(
	s balance.State,
) bool {
	return s == balance.StateStopping || s == balance.StateSuspending
}

// soon reports whether the stop of machine i should be over before another machine has booted: then
// the machine keeps its place in the order, and is counted on. Otherwise it is the last resort.
func (p *Planner) soon(now time.Time, i int, m *balance.Machine) bool {
	boot := bootGuess
	if b := p.boots.Of(boots.Key{Kind: boots.Cold}); b.Known() {
		boot = b.Expected()
	}
	return p.stops.left(m.State, now.Sub(p.memory[i].since)) <= max(boot, newsFor)
}
