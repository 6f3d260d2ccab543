package downscale

import (
	"fmt"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Bounded returns a policy that says what p says, but for what breaks a bound. A [Downscaler] asks
// each policy through it, so that a policy decides which machines are surplus and need not repeat
// what must not be stopped:
//
//   - nothing is spared while [balance.App.Autostop] is off, while requests wait, or while what
//     others report is too old;
//   - only machines of this node are spared that run and are not hard-cordoned, busy, leaving
//     already or, unless the whole app's keep-alive is over, needed a moment ago; each once;
//   - the minimums of the app are kept running, and the first of the canonical order, as many as
//     these, are never spared;
//   - nothing is spared in a region whose machines are all at their soft limits, or where a load
//     that should be known is not.
//
// What leaves is recalled while nothing may be spared, and when a minimum needs it, whether p says
// so or not. A decision is about the machine that it names: its app and region are filled in, and a
// reason where it has none that fits.
//
// The suite of package downscaletest asks policies in the same way.
func Bounded(p Policy) Policy {
	if b, ok := p.(*bounded); ok {
		return b
	}
	return &bounded{Policy: p}
}

// bounded keeps the bounds of one app.
type bounded struct {
	Policy
	shown   []Seen
	out     []Decision
	refused []Decision // of the last answer

	floors floor // of the present answer, if made
	made   bool
}

// Decide implements [Policy].
func (b *bounded) Decide(now time.Time, s Situation) []Decision {
	s.sort()
	shown := s
	b.shown = append(b.shown[:0], s.Machines...) // whatever it does with them
	shown.Machines = b.shown
	b.out, b.refused, b.made = b.out[:0], b.refused[:0], false
	for _, d := range b.Policy.Decide(now, shown) {
		switch d.Verdict {
		case Spare:
			b.spare(&s, d)
		case Recall:
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
func (b *bounded) floor(s *Situation) *floor {
	if !b.made {
		b.floors, b.made = floorOf(s), true
	}
	return &b.floors
}

// spare takes in that the policy spares a machine.
func (b *bounded) spare(s *Situation, d Decision) {
	i := s.index(d.Machine)
	if d.App = s.App.ID; i >= 0 {
		d.Region = s.Machines[i].Region
		if s.Machines[i].Busy {
			d.Open = s.Machines[i].Open
		}
	}
	if d.Text == "" && !d.Why.spares() {
		d.Why = RuleOther
	}
	if d.Bound = b.bound(s, i, d); d.Bound != "" {
		b.refused = append(b.refused, d)
		return
	}
	b.floor(s).goes(s, i)
	b.out = append(b.out, d)
}

// bound returns what keeps machine i from being spared; below 0 is none of the app's.
func (b *bounded) bound(s *Situation, i int, d Decision) string {
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
	case m.Veto && (d.Why != RuleKeepAlive || s.inUse()):
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
func (b *bounded) spared(i int) bool { return b.made && b.floors.gone[i] }

// recall takes machine i back.
func (b *bounded) recall(s *Situation, i int, d Decision) {
	m := &s.Machines[i]
	d.App, d.Region, d.Machine, d.Verdict = s.App.ID, m.Region, m.ID, Recall
	b.floor(s).stays(s, i)
	b.out = append(b.out, d)
}

// keep takes back what a bound keeps and the policy does not, from the front of the order.
func (b *bounded) keep(s *Situation) {
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
			b.recall(s, i, Decision{Why: RuleMinimum, Count: f.running})
		case f.regions[m.Region] < s.App.MinPerRegion:
			b.recall(s, i, Decision{Why: RuleMinimum, Count: f.regions[m.Region]})
		}
	}
}

// doubt reports whether the load of a region's machines is not known where it should be.
func (s *Situation) doubt(region string) bool {
	for i := range s.Machines {
		if m := &s.Machines[i]; m.Region == region && m.Stale && m.counts() {
			return true
		}
	}
	return false
}

// full reports whether all machines of a region whose load is known are at their soft limits.
func (s *Situation) full(region string) bool {
	for i := range s.Machines {
		m := &s.Machines[i]
		seen := m.Region == region && m.State == balance.StateStarted && m.counts() && (m.Own || m.Known)
		if seen && m.Load < max(1, capacity(m)) {
			return false
		}
	}
	return true
}

// spares reports whether a rule is a reason to stop a machine.
func (w Why) spares() bool {
	return w == RuleExcess || w == RuleOther || w == RuleHeadroom || w == RuleKeepAlive
}

// floor tells which machines an app's minimums let go, as one after the other goes.
type floor struct {
	app     balance.App
	kept    []bool // by machine: it is one of the first of the order
	running int
	regions map[string]int
	gone    []bool // by machine: it has been told to go
	back    []bool // it has been taken back
}

func floorOf(s *Situation) floor {
	f := floor{app: s.App, regions: map[string]int{}}
	n := len(s.Machines)
	of := make([]bool, 3*n)
	f.kept, f.gone, f.back = of[:n], of[n:2*n], of[2*n:]
	first := map[string]int{}
	for i := range s.Machines {
		m := &s.Machines[i]
		f.kept[i] = i < s.App.Min || first[m.Region] < s.App.MinPerRegion
		first[m.Region]++
		if m.counts() {
			f.running++
			f.regions[m.Region]++
		}
	}
	return f
}

// counts reports whether m runs or will, and stays.
func (m *Seen) counts() bool {
	return (m.State == balance.StateStarted || m.State == balance.StateStarting) && !m.Hard && !m.Leaving
}

// spareable reports whether m can be told to go at all.
func (m *Seen) spareable() bool {
	return m.Own && m.State == balance.StateStarted && !m.Hard && !m.Leaving && !m.Busy
}

// lets reports whether the minimums let machine i of the situation go.
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

func (s *Situation) index(id balance.MachineID) int {
	for i := range s.Machines {
		if s.Machines[i].ID == id {
			return i
		}
	}
	return -1
}

// held reports whether nothing of the app is to be stopped, whatever the load.
func (s *Situation) held() bool {
	_, held := s.hold()
	return held
}

// hold returns why nothing of the app is to be stopped.
func (s *Situation) hold() (of Decision, held bool) {
	switch {
	case s.App.Autostop == balance.AutostopOff:
		return Decision{Why: RuleOff}, true
	case s.Parked > 0:
		return Decision{Why: RuleParked, Count: s.Parked}, true
	case s.Stale:
		return Decision{Why: RuleStale}, true
	}
	return Decision{}, false
}
