package policy

import (
	"cmp"
	"slices"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Decider decides which of the machines of one app that this node owns are surplus. It is not safe
// for concurrent use.
//
// Each region is decided by itself. A machine is spared when one of two rules says so:
//
//   - Keep-alive: nothing is in flight in the whole app, nothing waits, and nothing has been
//     admitted or started for [balance.App.KeepAlive], else [Situation].KeepAlive, else
//     [Config.KeepAlive]. All surplus machines go at once.
//   - Head-room: the largest load of the last [Config.Window] is at most [Config.Headroom] of what
//     the other machines can take, no machine is starting or has been within [Config.Settle], and
//     the whole window has been observed. At most max(1, 10 %) of the region's machines are leaving
//     at once. The app's last machine is left to the keep-alive.
//
// A machine can take its soft limit, or its hard limit if it has no soft one. With neither it can
// take everything: load then justifies one machine and never more, just as it never starts a second
// one.
//
// Machines of other nodes whose load is known count like this node's. When one of them is to go
// first, that is left to its owner for a while, so that several deciders with the same view stop
// what one would. A region in which a load is not known although it should be is left alone.
//
// The first [balance.App.Min] machines of the app's canonical order, running or not, are never
// spared, nor are the first MinPerRegion of each region: so several deciders with different views
// of the fleet keep the minimum between them. Nor is a machine spared if that would leave fewer
// than the minimum running or starting, as far as this node sees.
//
// Machines of another revision go first, then idle ones, then those without long connections; among
// equals the back of the canonical order goes first. A leaving machine is recalled, from the front
// of the order, as soon as neither rule holds for it any longer.
type Decider struct {
	config  Config
	now     time.Time              // of the latest Situation: time does not go back
	used    time.Time              // when something was last in use
	regions map[string]*regionLoad // nil while no machine runs
	order   []*regionLoad          // by name; those of the latest Situation
	out     []Decision

	// Of the present Situation.
	at      []*regionLoad // by machine
	running int           // started or starting and not leaving, of all owners
	known   int           // started and not leaving, of this node or with a known load
	leaving int           // of this node
	spares  int           // App.Spare
	open    balance.Class // of this node's machines
	kept    []bool        // by machine: it belongs to a minimum
}

// NewDecider returns a decider.
func NewDecider(c Config) (*Decider, error) {
	c, err := c.resolve()
	if err != nil {
		return nil, err
	}
	return &Decider{config: c}, nil
}

// Decide decides at time now. It returns the machines to spare and to recall, and a Hold with its
// reason for each region in which this node has running machines and spares none. The slice is
// valid until the next call.
func (d *Decider) Decide(now time.Time, s Situation) []Decision {
	d.begin(now, &s)
	idle, isIdle := d.idle(&s)
	if hold, ok := s.hold(); ok {
		d.holdAll(&s, hold)
	} else {
		if d.leaving > 0 {
			d.recall(&s, idle, isIdle)
		}
		d.spare(&s, idle, isIdle)
	}
	out := d.out
	if !slices.ContainsFunc(s.Machines, Seen.moves) {
		// the app sleeps: when it wakes, observation starts from nothing
		d.regions, d.at, d.order, d.out, d.kept = nil, nil, nil, nil, nil
	}
	return out
}

// begin takes the situation in: the sums, the windows, and when something was last in use.
func (d *Decider) begin(now time.Time, s *Situation) {
	if now.Before(d.now) {
		now = d.now
	}
	gap := now.Sub(d.now)
	first := d.now.IsZero()
	d.now = now
	s.sort()
	d.out, d.at, d.order = d.out[:0], d.at[:0], d.order[:0]
	d.running, d.known, d.leaving, d.spares, d.open = 0, 0, 0, s.App.Spare, 0
	for _, r := range d.regions {
		r.sums, r.sparing = sums{}, sparing{}
	}
	inUse := first || s.Parked > 0
	for i := range s.Machines {
		m := &s.Machines[i]
		r := d.region(m.Region)
		d.at = append(d.at, r)
		r.here = true
		inUse = d.count(r, m, s) || inUse
	}
	for name, r := range d.regions {
		if !r.here {
			delete(d.regions, name)
			continue
		}
		d.order = append(d.order, r)
		if !first && gap > d.blind() {
			r.window = newWindow(d.config.Window) // nobody knows what happened meanwhile
		}
		r.window.add(now, r.peak())
		if r.starting != "" {
			r.started = now
			inUse = inUse || r.known+r.leaving > 0
		}
	}
	slices.SortFunc(d.order, func(a, b *regionLoad) int { return cmp.Compare(a.name, b.name) })
	if inUse {
		d.used = now
	}
}

// blind is how long a decider may go unasked before it has to observe a new window.
func (d *Decider) blind() time.Duration { return max(10*d.config.Every, d.config.Window/10) }

func (d *Decider) region(name string) *regionLoad {
	r, ok := d.regions[name]
	if !ok {
		r = &regionLoad{name: name, window: newWindow(d.config.Window)}
		if d.regions == nil {
			d.regions = map[string]*regionLoad{}
		}
		d.regions[name] = r
	}
	return r
}

// count adds m to the sums and reports whether it is in use.
func (d *Decider) count(r *regionLoad, m *Seen, s *Situation) (inUse bool) {
	if m.counts() {
		d.running++
		r.running++
	}
	if m.State == balance.StateStarting {
		r.starting = m.ID
	}
	if !m.Own && !m.Known {
		r.stale = r.stale || m.Stale && m.counts()
		return m.Stale && m.counts() // nothing is stopped while in doubt
	}
	if m.Own && m.Began {
		r.started = d.now
	}
	d.open |= m.Open
	load := max(0, m.Load) // a report may say anything
	if m.Own && m.Used {
		load = max(load, 1) // a request came and went between two looks
	}
	r.load += load
	if !m.Leaving { // its load moves to the others and shows in their peaks
		n, b := split(load, m.Peak)
		r.noise, r.burst = r.noise+n*n, r.burst+b
	}
	switch {
	case m.State != balance.StateStarted || m.Hard:
	case m.Leaving:
		r.leaving++
		if m.Own {
			d.leaving++
		}
	default:
		d.known++
		r.known++
		if m.Own {
			r.mine++
		}
		r.add(m, 1)
	}
	return load > m.Idle || m.Own && m.Began
}

// roomWithout reports whether the region's peak fits without m, or as it is if m is nil. If there
// was load, the capacity that App.Spare reserves does not count: spare machines that could be
// filled would not be spare.
func (d *Decider) roomWithout(r *regionLoad, m *Seen) (fits bool, of Decision) {
	rest, endless := r.capacity, r.endless
	if d.spares > 0 && r.window.peak() > 0 {
		limited := r.known - r.endless
		rest -= r.capacity / max(1, limited) * min(d.spares, limited)
		endless -= max(0, d.spares-limited)
	}
	if m != nil {
		if c := capacity(m); c == unlimited {
			endless--
		} else {
			rest -= c
		}
	}
	if endless > 0 {
		rest = unlimited
	}
	of = Decision{
		Peak: r.window.peak(), Capacity: rest, Headroom: d.config.Headroom, Of: d.config.Window,
	}
	of.Capacity = max(0, rest)
	return rest == unlimited || float64(of.Peak) <= d.config.Headroom*float64(rest), of
}

// idle returns the decision of the keep-alive rule; ok is false if the rule does not hold.
func (d *Decider) idle(s *Situation) (of Decision, ok bool) {
	keep := cmp.Or(s.App.KeepAlive, s.KeepAlive, d.config.KeepAlive)
	of = Decision{Verdict: VerdictSpare, Rule: ruleKeepAlive, For: d.now.Sub(d.used), Of: keep}
	of.Idle = keep >= 0 && of.For >= keep
	return of, of.Idle
}

func (d *Decider) say(s *Situation, r *regionLoad, m *Seen, v Verdict, of Decision) {
	of.App, of.Region, of.Verdict = s.App.ID, r.name, v
	if m != nil {
		of.Machine = m.ID
	}
	d.out = append(d.out, of)
}

func (d *Decider) holdAll(s *Situation, of Decision) {
	for i := range s.Machines {
		if m := &s.Machines[i]; m.isLeaving() {
			d.say(s, d.at[i], m, VerdictRecall, of)
		}
	}
	for _, r := range d.order {
		if r.mine > 0 {
			d.say(s, r, nil, VerdictHold, of)
		}
	}
}

// recall takes back leaving machines, from the front of the order, until those that still leave may
// go.
func (d *Decider) recall(s *Situation, idle Decision, isIdle bool) {
	for i := range s.Machines {
		m, r := &s.Machines[i], d.at[i]
		if !m.isLeaving() {
			continue
		}
		of, needed := d.needed(s, r, idle, isIdle)
		if !needed {
			continue
		}
		d.say(s, r, m, VerdictRecall, of)
		r.recalled = true
		d.running++
		d.known++
		d.leaving--
		r.running++
		r.known++
		r.mine++
		r.leaving--
		r.add(m, 1)
	}
}

// needed returns why the region needs one more machine than it has without the leaving ones.
func (d *Decider) needed(s *Situation, r *regionLoad, idle Decision, isIdle bool) (Decision, bool) {
	switch {
	case d.running < s.App.Min:
		return Decision{Rule: ruleMinimum, Count: d.running}, true
	case r.running < s.App.MinPerRegion:
		return Decision{Rule: ruleMinimum, Count: r.running}, true
	case isIdle:
		return Decision{}, false
	case r.starting != "":
		return Decision{Rule: ruleStarting}, true
	case d.known == 0:
		return d.last(idle), true
	case r.stale:
		return Decision{Rule: ruleStale}, true
	}
	if of, held := d.unwatched(r); held {
		return of, true
	}
	fits, of := d.roomWithout(r, nil)
	of.Rule = ruleNeeded
	return of, !fits
}

// last is the decision about an app's last machine, which only the keep-alive spares.
func (d *Decider) last(idle Decision) Decision {
	return Decision{Rule: ruleLast, For: idle.For, Of: idle.Of, Open: d.open}
}

func (d *Decider) unwatched(r *regionLoad) (Decision, bool) {
	of := Decision{Rule: ruleUnwatched, For: r.window.watched(d.now), Of: d.config.Window}
	return of, of.Of < 0 || of.For < of.Of
}

// spare finds the machines that can go. Nothing leaves a region from which a machine has just been
// recalled.
func (d *Decider) spare(s *Situation, idle Decision, isIdle bool) {
	open := false
	for _, r := range d.order {
		if r.mine == 0 || r.recalled {
			continue
		}
		if isIdle {
			r.open, r.room = true, r.known
		} else if of, held := d.pace(r); held {
			d.say(s, r, nil, VerdictHold, of)
			continue
		} else {
			r.open, r.room = true, max(1, (r.known+r.leaving)/10)-r.leaving
		}
		open = true
	}
	if !open {
		return
	}
	d.kept = s.kept(d.kept)
	for class := range classes {
		for i := len(s.Machines) - 1; i >= 0; i-- {
			m, r := &s.Machines[i], d.at[i]
			if r.open && !d.kept[i] && classOf(m, s.Revision) == class {
				d.consider(s, r, m, idle, isIdle)
			}
		}
	}
	for _, r := range d.order {
		switch {
		case r.spared || r.mine == 0:
		case r.turn != "":
			d.say(s, r, nil, VerdictHold, Decision{Rule: ruleTurn, Machine: r.turn})
		case !r.open: // already reported
		case r.vetoed:
			d.say(s, r, nil, VerdictHold, Decision{Rule: ruleBackoff})
		case r.busy != "":
			d.say(s, r, nil, VerdictHold, Decision{Rule: ruleBusy, Machine: r.busy, Open: r.keep})
		default:
			d.say(s, r, nil, VerdictHold, Decision{Rule: ruleMinimum, Count: r.running})
		}
	}
}

// pace returns what keeps the head-room rule from being applied in a region.
func (d *Decider) pace(r *regionLoad) (Decision, bool) {
	settle := d.config.Settle
	since := d.now.Sub(r.started)
	switch {
	case r.starting != "":
		return Decision{Rule: ruleStarting, Machine: r.starting}, true
	case !r.started.IsZero() && since < settle:
		return Decision{Rule: ruleSettle, For: since, Of: settle}, true
	case r.stale:
		return Decision{Rule: ruleStale}, true
	case max(1, (r.known+r.leaving)/10) <= r.leaving:
		return Decision{Rule: rulePace, Count: r.leaving}, true
	}
	return d.unwatched(r)
}

// consider spares m, if possible, and closes the region when no more can be spared.
func (d *Decider) consider(s *Situation, r *regionLoad, m *Seen, idle Decision, isIdle bool) {
	of := idle
	switch {
	case d.running <= s.App.Min || r.running <= s.App.MinPerRegion:
		return
	case m.Own && m.Busy:
		if r.busy == "" {
			r.busy, r.keep = m.ID, m.Open&^d.config.Notify
		}
		return
	case m.Own && !isIdle && m.Veto:
		r.vetoed = true
		r.oldVetoed = r.oldVetoed || isOld(m, s.Revision)
		return
	case r.oldVetoed && !isIdle && !isOld(m, s.Revision):
		return // else this one would go, and the old one would stay
	case !m.Own && r.waited(m.ID, d.now, d.patience()):
		return
	case !isIdle && d.known == 1:
		if r.open = false; !r.spared && r.turn == "" {
			d.say(s, r, nil, VerdictHold, d.last(idle))
		}
		return
	case !isIdle:
		var fits bool
		if fits, of = d.roomWithout(r, m); !fits {
			r.open = false
			if !r.spared && r.turn == "" {
				of.Rule = ruleNeeded
				d.say(s, r, m, VerdictHold, of)
			}
			return
		}
		of.Rule = ruleHeadroom
	}
	if m.Own {
		d.say(s, r, m, VerdictSpare, of)
		r.spared = true
		r.mine--
	} else {
		r.turn = m.ID
	}
	d.running--
	d.known--
	r.running--
	r.known--
	r.add(m, -1)
	r.room--
	r.open = r.room > 0
}

// patience is how long another owner may take to stop a machine whose turn it is. Its view is as
// late as this node's, and this node cannot know what keeps the machine running there.
func (d *Decider) patience() time.Duration { return max(30*time.Second, 10*d.config.Every) }
