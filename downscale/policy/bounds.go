package policy

import (
	"fmt"
	"slices"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Bounded is a policy that decides what Policy decides, except for decisions that break a bound. A
// [Downscaler] asks each policy through it, so that a policy only decides which machines are
// surplus and need not repeat what must not be stopped:
//
//   - nothing is spared while [balance.App.Autostop] is off, while requests wait, or while the
//     reports of other nodes are too old;
//   - a machine is spared only if this node owns it, it runs, and it is not hard-cordoned, busy or
//     leaving already; one that was needed a moment ago is spared only once the whole app's
//     keep-alive is over; each machine is spared once;
//   - the minimums of the app are kept running, and that many machines at the front of the
//     canonical order are never spared;
//   - nothing is spared in a region whose machines are all at their soft limits, or where a load
//     that should be known is not.
//
// A leaving machine is recalled while nothing may be spared, and when a minimum needs it, whether
// the policy says so or not. A decision is about the machine that it names: the machine's app and
// region are filled in, and a reason if the decision has none that fits.
//
// The suite of package policytest asks policies through it too.
type Bounded struct {
	Policy

	shown   []Seen
	out     []Decision
	refused []Decision // of the last answer

	floors floor // of the present answer, if made
	made   bool
}

// Refused returns the policy's decisions that the last answer leaves out, each with the Bound that
// prevents it. The slice is valid until the next answer.
func (b *Bounded) Refused() []Decision { return b.refused }

// Decide implements [Policy].
func (b *Bounded) Decide(now time.Time, s Situation) []Decision {
	s.sort()
	shown := s
	b.shown = append(b.shown[:0], s.Machines...) // whatever the policy does with them
	shown.Machines = b.shown
	b.out, b.refused, b.made = b.out[:0], b.refused[:0], false
	for _, d := range b.Policy.Decide(now, shown) {
		switch d.Verdict {
		case VerdictSpare:
			b.spare(&s, d)
		case VerdictRecall:
			if i := s.index(d.Machine); i >= 0 && s.Machines[i].isLeaving() && !b.spared(i) {
				b.recall(&s, i, d)
			}
		default:
			b.out = append(b.out, d)
		}
	}
	b.keep(&s)
	return b.out
}

// floor returns the app's minimums, which few answers need.
func (b *Bounded) floor(s *Situation) *floor {
	if !b.made {
		b.floors, b.made = floorOf(s), true
	}
	return &b.floors
}

// spare handles a decision of the policy to spare a machine.
func (b *Bounded) spare(s *Situation, d Decision) {
	i := s.index(d.Machine)
	if d.App = s.App.ID; i >= 0 {
		d.Region = s.Machines[i].Region
		if s.Machines[i].Busy {
			d.Open = s.Machines[i].Open
		}
	}
	switch d.Rule {
	case ruleHeadroom, ruleKeepAlive:
	default:
		if d.Text == "" {
			d.Rule = "" // it is no reason to stop a machine
		}
	}
	if d.Bound = b.bound(s, i, d); d.Bound != "" {
		b.refused = append(b.refused, d)
		return
	}
	b.floor(s).goes(s, i)
	b.out = append(b.out, d)
}

// bound returns what prevents machine i from being spared; i below 0 is no machine of the app.
func (b *Bounded) bound(s *Situation, i int, d Decision) string {
	if i < 0 {
		return "it is no machine of the app"
	}
	m := &s.Machines[i]
	hold, held := s.hold()
	switch {
	case held:
		return hold.Reason()
	case !m.Own:
		return "it is not this node's"
	case m.State != balance.StateStarted:
		return fmt.Sprintf("it is %v", m.State)
	case m.Hard:
		return "it is hard-cordoned"
	case m.Leaving || b.spared(i):
		return "it is on its way already"
	case m.Busy && m.Open != 0:
		return fmt.Sprintf("it has long connections: %v", m.Open)
	case m.Busy:
		return "it says that it is busy"
	case m.Veto && (!d.Idle || s.InUse()):
		return "it was needed a moment ago"
	case s.doubt(m.Region):
		return "what others report of its region is too old"
	case s.full(m.Region):
		return "every machine of its region is at its soft limit"
	case !b.floor(s).lets(s, i):
		return "the minimum keeps it"
	}
	return ""
}

// spared reports whether this answer spares machine i.
func (b *Bounded) spared(i int) bool { return b.made && b.floors.gone[i] }

// recall takes machine i back.
func (b *Bounded) recall(s *Situation, i int, d Decision) {
	m := &s.Machines[i]
	d.App, d.Region, d.Machine, d.Verdict = s.App.ID, m.Region, m.ID, VerdictRecall
	b.floor(s).stays(s, i)
	b.out = append(b.out, d)
}

// keep recalls the machines that a bound keeps and the policy does not, from the front of the
// order.
func (b *Bounded) keep(s *Situation) {
	hold, held := s.hold()
	for i := range s.Machines {
		m := &s.Machines[i]
		if !m.isLeaving() {
			continue
		}
		switch f := b.floor(s); {
		case f.gone[i] || f.back[i]:
		case held:
			b.recall(s, i, hold)
		case f.running < s.App.Min:
			b.recall(s, i, Decision{Rule: ruleMinimum, Count: f.running})
		case f.regions[m.Region] < s.App.MinPerRegion:
			b.recall(s, i, Decision{Rule: ruleMinimum, Count: f.regions[m.Region]})
		}
	}
}

// floor tells which machines may still go under an app's minimums, as one goes after another.
type floor struct {
	app     balance.App
	kept    []bool // by machine: it is one of the first of the order
	running int
	regions map[string]int
	gone    []bool // by machine: it has been told to go
	back    []bool // it has been taken back
}

func floorOf(s *Situation) floor {
	n := len(s.Machines)
	f := floor{
		app: s.App, regions: map[string]int{}, kept: s.kept(nil), gone: make([]bool, n),
		back: make([]bool, n),
	}
	for i := range s.Machines {
		if m := &s.Machines[i]; m.counts() {
			f.running++
			f.regions[m.Region]++
		}
	}
	return f
}

// kept reports for each machine whether it is among the first of the canonical order, of the app or
// of its region, which the minimums keep. It uses the memory of into.
func (s *Situation) kept(into []bool) []bool {
	into = slices.Grow(into[:0], len(s.Machines))[:len(s.Machines)]
	var first map[string]int
	if s.App.MinPerRegion > 0 {
		first = map[string]int{}
	}
	for i := range s.Machines {
		if into[i] = i < s.App.Min; first != nil {
			region := s.Machines[i].Region
			into[i] = into[i] || first[region] < s.App.MinPerRegion
			first[region]++
		}
	}
	return into
}

// lets reports whether the minimums allow machine i of the situation to go.
func (f *floor) lets(s *Situation, i int) bool {
	return !f.kept[i] && f.running > f.app.Min && f.regions[s.Machines[i].Region] > f.app.MinPerRegion
}

func (f *floor) goes(s *Situation, i int) {
	f.gone[i] = true
	f.running--
	f.regions[s.Machines[i].Region]--
}

func (f *floor) stays(s *Situation, i int) {
	f.back[i] = true
	f.running++
	f.regions[s.Machines[i].Region]++
}
