package policy

import (
	"time"

	"github.com/ebbkit/ebb/balance"
)

// recall takes back machines that leave, from the front of the order, until what is left of them
// may go.
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

// needed returns why the region needs one machine more than it has without those that leave.
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

// spare finds the machines that can go. Nothing leaves a region from which something was recalled
// a moment ago.
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
		case !r.open: // said
		case r.vetoed:
			d.say(s, r, nil, VerdictHold, Decision{Rule: ruleBackoff})
		case r.busy != "":
			d.say(s, r, nil, VerdictHold, Decision{Rule: ruleBusy, Machine: r.busy, Open: r.keep})
		default:
			d.say(s, r, nil, VerdictHold, Decision{Rule: ruleMinimum, Count: r.running})
		}
	}
}

// pace returns what keeps the head-room rule from being asked in a region.
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

// classes of machines, the one to be spared first at the front; classNone cannot be spared.
const (
	classOldIdle = iota
	classOldBusy
	classOldLong
	classIdle
	classBusy
	classLong
	classes
	classNone
)

func isOld(m *Seen, revision string) bool { return revision != "" && m.Revision != revision }

func classOf(m *Seen, revision string) int {
	if !m.Own && !m.Known || m.Leaving || m.Hard || m.State != balance.StateStarted {
		return classNone
	}
	class := classIdle
	if isOld(m, revision) {
		class = classOldIdle
	}
	switch {
	case m.Own && m.Long > 0:
		class += classLong - classIdle
	case m.Load > m.Idle || m.Own && m.Used:
		class += classBusy - classIdle
	}
	return class
}

// consider spares m, if it can be spared, and closes the region when nothing more can be.
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
		return // in its stead one of the present revision would go, and it would stay
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

// patience is how long another owner has to let a machine go whose turn it is: its view is as
// late as this node's, and what keeps the machine running there nobody knows here.
func (d *Decider) patience() time.Duration { return max(30*time.Second, 10*d.config.Every) }

// waited reports whether another owner has not let a machine go for so long that others may go
// instead.
func (r *regionLoad) waited(id balance.MachineID, now time.Time, patience time.Duration) bool {
	a := r.asked[id]
	if a.since.IsZero() || now.Sub(a.last) > patience { // not asked of late
		a.since = now
	}
	a.last = now
	if r.asked == nil {
		r.asked = map[balance.MachineID]asked{}
	}
	r.asked[id] = a
	return now.Sub(a.since) >= patience
}
