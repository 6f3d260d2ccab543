package policy

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/boots"
	"github.com/ebbkit/ebb/balance"
)

const (
	// askedFor is how long an answered command may stay invisible in the row, which may be late. Then
	// the command is sent again, to the same machine: it may have been lost, and if it was not,
	// another machine would be one too many.
	askedFor = 5 * time.Second
	// lostMax is how often asking again may fail before an accepted start is given up: its owner is
	// gone.
	lostMax = 3
	// answerMin and answerRTTs are how long an owner may take to answer a start, at least and in round
	// trips: a shorter wait would start a machine too many for a host that is only busy, a longer one
	// would delay waiting requests for a host that is dead.
	answerMin, answerRTTs = 300 * time.Millisecond, 3
	// refusedFor is how long a machine is left alone that refused because this node's row of it is
	// old.
	refusedFor = time.Second
)

// memory is what a planner knows of one machine beyond its row.
type memory struct {
	known   bool // its row has been seen before
	epoch   uint64
	state   balance.State
	since   time.Time // of this epoch and state, as seen here
	bootAt  time.Time // when the start of this epoch was first seen
	gen     uint64    // the cordon generation when it started or became ready
	kind    boots.Kind
	partial bool // the beginning of the boot, or of the stop, was not seen: its length is not known
	held    bool // its owner has not begun to boot it, see balance.Machine.Recent

	asked  asked
	recall recall

	fails int       // in a row
	until time.Time // not to be started before
	fault string    // why, with the machine's name
}

// asked is a start that this node has asked for and that the row does not show yet.
type asked struct {
	on       bool
	epoch    uint64 // of the row that the start was decided from
	at       time.Time
	pending  bool // no answer yet
	accepted bool // its owner has accepted it at least once
	lost     int  // failed attempts to ask again since then
	answer   balance.StartAnswer
}

type recall struct {
	on     bool
	failed bool
	gen    uint64
	at     time.Time
}

// align updates the tables when the set of machines has changed; otherwise it only compares.
func (p *Planner) align(ms []*balance.Machine) {
	same := len(ms) == len(p.ids)
	for i := 0; same && i < len(ms); i++ {
		same = p.ids[i] == ms[i].ID
	}
	if same {
		return
	}
	memories := make([]memory, len(ms))
	for i, m := range ms {
		if old, ok := p.find(m.ID); ok {
			memories[i] = p.memory[old]
		}
	}
	p.ids, p.order = make([]balance.MachineID, 0, len(ms)), make([]int32, 0, len(ms))
	ranks := make([]uint64, len(ms))
	for i, m := range ms {
		p.ids = append(p.ids, m.ID)
		p.order = append(p.order, int32(i))
		ranks[i] = m.Key().Rank()
	}
	slices.SortFunc(p.order, func(a, b int32) int {
		return cmp.Or(cmp.Compare(ranks[a], ranks[b]), cmp.Compare(p.ids[a], p.ids[b]))
	})
	p.regions = nil
	for _, i := range p.order {
		at, ok := p.region(ms[i].Region)
		if !ok {
			p.regions = slices.Insert(p.regions, at, inRegion{name: ms[i].Region})
		}
		p.regions[at].rows = append(p.regions[at].rows, i)
	}
	p.index = nil
	if len(ms) > fewMachines {
		p.index = make(map[balance.MachineID]int, len(ms))
		for i, m := range ms {
			p.index[m.ID] = i
		}
	}
	p.memory = memories
	p.uses, p.usesBefore = make([]use, len(ms)), make([]use, len(ms))
}

// Up to fewMachines are found by a linear search: a map would take more memory than they do.
const fewMachines = 8

// find returns a machine's place in the tables.
func (p *Planner) find(id balance.MachineID) (int, bool) {
	if len(p.ids) <= fewMachines {
		i := slices.Index(p.ids, id)
		return i, i >= 0
	}
	i, ok := p.index[id]
	return i, ok
}

func (p *Planner) region(name string) (int, bool) {
	return slices.BinarySearchFunc(p.regions, name,
		func(in inRegion, name string) int { return cmp.Compare(in.name, name) })
}

// in returns the machines of a region.
func (p *Planner) in(name string) []int32 {
	if i, ok := p.region(name); ok {
		return p.regions[i].rows
	}
	return nil
}

// observe takes in the rows: boots that ended, runs that failed, commands that took effect.
func (p *Planner) observe(now time.Time, ms []*balance.Machine) {
	for i, m := range ms {
		s := &p.memory[i]
		if s.known && s.epoch == m.Epoch && s.state == m.State {
			if held := m.State == balance.StateStarting && m.Recent && m.Health != balance.HealthPassing; held ||
				s.held {
				s.bootAt, s.partial, s.held = now, false, held // its boot begins now, or later
			}
			continue
		}
		was := *s
		s.known, s.epoch, s.state, s.since, s.held = true, m.Epoch, m.State, now, false
		if was.known {
			p.moved(now, m, s, &was)
		} else if m.State == balance.StateStarting || closing(m.State) {
			s.bootAt, s.partial = now, true
		}
		if m.Epoch > s.asked.epoch || m.State == balance.StateGone {
			s.asked = asked{}
		}
	}
}

// shift moves all remembered times after the clock was set back, so that elapsed and remaining
// times stay the same.
func (p *Planner) shift(back time.Duration) {
	for i := range p.memory {
		s := &p.memory[i]
		for _, t := range []*time.Time{&s.since, &s.bootAt, &s.until, &s.asked.at, &s.recall.at} {
			*t = t.Add(-back)
		}
	}
	p.breaker.next, p.breaker.second = p.breaker.next.Add(-back), p.breaker.second.Add(-back)
}

// moved takes in a change of one machine's epoch or state.
func (p *Planner) moved(now time.Time, m *balance.Machine, s, was *memory) {
	started := m.Epoch != was.epoch // a start has begun since the last look
	if started || m.State == balance.StateStarted {
		s.gen = m.CordonGen
	}
	if ran := now.Sub(was.since); was.state == balance.StateStarted && ran >= p.steady(m, was.kind) &&
		(m.State == balance.StateFailed || ran >= quitFor) {
		s.fails = 0
	}
	if was.state == balance.StateGone { // it is on another node than the one that failed
		s.fails, s.until = 0, now
	}
	if started {
		s.kind, s.partial, s.bootAt = boots.Cold, was.state == balance.StateStarting, now
		if was.state == balance.StateSuspended || was.state == balance.StateSuspending {
			s.kind = boots.Resume
		}
		if was.asked.on && m.Epoch == was.asked.epoch+1 && m.State != balance.StateStarting {
			s.bootAt, s.partial = was.asked.at, false // the whole boot fell between two looks
		} else if m.State != balance.StateStarting {
			s.partial = true
		}
	}
	if closing(was.state) && !started &&
		(m.State == balance.StateStopped || m.State == balance.StateSuspended) &&
		!was.partial {
		p.stops.of(was.state).Learn(now.Sub(was.since))
	}
	switch m.State {
	case balance.StateStopping, balance.StateSuspending:
		s.partial = started
	case balance.StateStarted:
		if !started && was.state != balance.StateStarting {
			return // reopened
		}
		if !s.partial {
			p.boots.Learn(boots.Key{Revision: m.Revision, Kind: s.kind}, now.Sub(s.bootAt))
		}
		p.breaker.succeeded()
		p.hedged = false
	case balance.StateFailed:
		what := noBoot
		if !started && (was.state == balance.StateStarted || was.state == balance.StateSuspended) {
			what = crash
		}
		p.failed(now, m, s, m.Fault, what)
	case balance.StateStopped:
		// Nobody has told it to stop: that takes a cordon first.
		if was.state == balance.StateStarted && !started && m.CordonGen == s.gen &&
			now.Sub(was.since) < quitFor {
			p.failed(
				now, m, s,
				fmt.Sprintf(
					"it ended by itself %v after it was ready", now.Sub(was.since).Round(time.Millisecond),
				),
				crash,
			)
		}
	}
}

// overdue reports whether an owner that far away should have answered by now. An owner is trusted
// to do what it has accepted before.
func (a *asked) overdue(now time.Time, rtt time.Duration) bool {
	return a.on && a.pending && !a.accepted && rtt >= 0 &&
		now.Sub(a.at) >= max(answerMin, answerRTTs*min(rtt, time.Minute))
}

// stale reports whether an answered start has gone unseen for too long. A start that waits for the
// end of a stop is remembered by the machine's gate, however long that takes.
func (s *memory) stale(now time.Time) bool {
	a := &s.asked
	switch {
	case !a.on || a.pending:
		return false
	case a.answer != balance.StartRemembered:
		return now.Sub(a.at) >= askedFor
	}
	return s.state.Startable() && now.Sub(later(a.at, s.since)) >= restartFor
}

// use is what a machine is good for in one decision.
type use uint8

const (
	unusable use = iota // hard-cordoned, or of a node that is gone
	// runs, but is no capacity: requests go to it only when nothing else is left
	broken
	ready      // capacity, now
	starting   // capacity, counted in advance
	recallable // soft-cordoned: capacity once it is recalled
	startable
	held     // startable, but it failed too recently, or its owner is silent
	stopping // can be told to start again once it has stopped
	silent   // asked to start, and its owner does not answer: it may come, but is not counted on
)

// use says what a soft-cordoned machine is good for.
func (r *recall) use(now time.Time, gen uint64) use {
	switch age := now.Sub(r.at); {
	case r.gen != gen:
	case r.on && age < askedFor:
		return ready
	case r.failed && age < refusedFor:
		return broken
	}
	return recallable
}

// use says what machine i is good for.
func (p *Planner) use(now time.Time, i int, m *balance.Machine) use {
	s := &p.memory[i]
	if m.Cordon == balance.CordonHard {
		return unusable
	}
	switch m.State {
	case balance.StateGone:
		return unusable
	case balance.StateStarting:
		return starting
	case balance.StateStarted:
		switch {
		case m.Health == balance.HealthFailing && m.Recent:
			return starting
		case m.Health == balance.HealthFailing:
			return broken
		case m.Cordon == balance.CordonSoft:
			return s.recall.use(now, m.CordonGen)
		}
		return ready
	}
	if s.asked.on {
		if closing(m.State) && !p.soon(now, i, m) {
			return stopping // it will start, but another machine would be ready sooner
		}
		if !s.asked.pending && s.asked.answer == balance.StartRunning {
			return ready
		}
		return starting
	}
	switch {
	case !m.State.Startable():
		return stopping
	case now.Before(s.until):
		return held
	}
	return startable
}
