// Package scaledown is the downscaler's loop without its clock: what is observed of machines, what
// is decided about them, and what is to be done, each as a step at a time that the caller gives.
// Package downscale drives it with gates, a driver and real time; the simulation drives it with
// virtual time.
//
//	look:    c, _ := m.Look(now, seen)              // for each machine; do c, and what comes of it
//	decide:  decided, refused := app.Decide(now, s) // every now and then, of s filled in by m.See
//	act:     c := m.Act(now, d, s)                  // for each decision about a machine; do c
package scaledown

import (
	"slices"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale/cordon"
	"github.com/ebbkit/ebb/downscale/policy"
)

// Machine is what the loop knows of one machine of this node: where its stop stands, and what was
// in use since the last decision.
type Machine struct {
	Cordon cordon.Machine

	load  int // at the last look
	peak  int // the most at once since the last decision
	used  bool
	began bool   // it came up since the last decision
	epoch uint64 // at the last look
}

// Look is what an owner sees when it looks at a machine's gate.
type Look struct {
	Gate    balance.Load
	Used    bool // something was admitted since the last look
	Granted int  // slots that are only reserved count as in flight, and are no demand
	Peak    int  // the most that was in flight at once since the last look, reserved slots included
	NoRoom  bool // the driver is overloaded

	// The fields below are only read if [Machine.Asks] says so.

	Acked    bool // every live node knows the cordon
	Touched  bool // a request that knew the cordon was admitted
	Busy     bool // the machine works on something that did not come as a request
	Tellable int  // of what is in flight, long connections that may be told to end
}

// Note takes in what is in flight. It is part of Look; a caller that does not go on to look calls
// it alone.
func (m *Machine) Note(l Look) (anew bool) {
	m.load = max(0, l.Gate.InFlight-l.Granted)
	m.peak = max(m.peak, l.Peak-l.Granted)
	m.used = m.used || l.Used
	anew = l.Gate.Epoch != m.epoch
	m.began = m.began || anew && l.Gate.State == balance.StateStarted
	m.epoch = l.Gate.Epoch
	return anew
}

// Asks reports whether the rest of l matters: the machine is about to stop.
func (m *Machine) Asks(l Look) bool {
	return m.Cordon.Leaving() && l.Gate.State == balance.StateStarted && !m.recalled(l)
}

// recalled reports whether somebody else has ended the cordon that is in force.
func (m *Machine) recalled(l Look) bool {
	return l.Gate.Cordon != balance.CordonSoft || l.Gate.CordonGen != m.Cordon.Gen()
}

// Look takes in what is seen of the machine's gate, and returns what is to be done. back is true if
// somebody has recalled the machine, and it runs on.
func (m *Machine) Look(now time.Time, l Look) (c cordon.Command, back bool) {
	anew := m.Note(l)
	up := l.Gate.State == balance.StateStarted
	recalled := m.Cordon.Leaving() && up && m.recalled(l) && !anew
	m.used = m.used || recalled // somebody counts on it
	c = m.Cordon.Look(now, cordon.Look{
		Up: up, Cordoned: l.Gate.Cordon == balance.CordonSoft, Gen: l.Gate.CordonGen,
		InFlight: l.Gate.InFlight, Used: l.Used, Acked: l.Acked, Touched: l.Touched, Busy: l.Busy,
		Tellable: l.Tellable, NoRoom: l.NoRoom,
	})
	return c, recalled && m.Cordon.Running()
}

// Pending reports whether something has happened on the machine that no decision has seen yet.
func (m *Machine) Pending() bool { return m.used || m.began }

// See fills in what a policy has to know about the machine, and starts a new record of what is in
// use.
func (m *Machine) See(now time.Time, s *policy.Seen, state balance.State) {
	s.Own, s.State, s.Load, s.Peak, s.Used, s.Began = true, state, m.load, m.peak, m.used, m.began
	s.Leaving, s.Veto = m.Cordon.Leaving(), m.Cordon.BackingOff(now)
	m.used, m.began, m.peak = false, false, 0
}

// Act returns what is to be done about a decision on the machine, one of those that s has led to.
func (m *Machine) Act(now time.Time, d policy.Decision, s *policy.Situation) cordon.Command {
	switch d.Verdict {
	case policy.VerdictSpare:
		o := cordon.Order{Suspend: s.App.Autostop == balance.AutostopSuspend, Reason: d.Reason()}
		return m.Cordon.Surplus(now, o, d.Idle && !s.InUse())
	case policy.VerdictRecall:
		return m.Cordon.Needed(now, d.Reason())
	}
	return cordon.Command{}
}

// App decides for one app.
type App struct {
	policy policy.Policy
	pauses pauses
	held   map[string]reason // by region: what was last decided
	vetoed []reason          // what was refused, the last time
}

// reason is what has to change for a decision to be reported again.
type reason struct {
	rule    string
	machine balance.MachineID
	open    balance.Class
}

// NewApp returns an app that p decides for.
func NewApp(p policy.Policy) *App { return &App{policy: p} }

// Pause returns the length of a pause of the app that has just ended.
func (a *App) Pause(now time.Time, s *policy.Situation) (gap time.Duration, ended bool) {
	return a.pauses.look(now, s.InUse())
}

// Rest forgets what was decided: nothing of the app runs.
func (a *App) Rest() { a.held, a.vetoed = nil, nil }

// Decide asks the app's policy. It returns in decided the machines to spare and to recall and the
// holds that have changed, and in refused what a bound newly refuses.
func (a *App) Decide(now time.Time, s policy.Situation) (decided, refused []policy.Decision) {
	all := a.policy.Decide(now, s)
	if b, ok := a.policy.(*policy.Bounded); ok {
		refused = a.refused(b.Refused())
	}
	for _, d := range all {
		switch d.Verdict {
		case policy.VerdictSpare:
			delete(a.held, d.Region)
		case policy.VerdictHold:
			why := reason{rule: d.Rule, open: d.Open}
			if d.Busy() {
				why.machine = d.Machine
			}
			if last, ok := a.held[d.Region]; ok && last == why {
				continue
			}
			if a.held == nil {
				a.held = map[string]reason{}
			}
			a.held[d.Region] = why
		}
		decided = append(decided, d)
	}
	return decided, refused
}

// refused returns those of ds that were not refused the last time.
func (a *App) refused(ds []policy.Decision) (news []policy.Decision) {
	var vetoed []reason
	for _, d := range ds {
		why := reason{d.Rule, d.Machine, d.Open}
		vetoed = append(vetoed, why)
		if !slices.Contains(a.vetoed, why) {
			news = append(news, d)
		}
	}
	a.vetoed = vetoed
	return news
}
