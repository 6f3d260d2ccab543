package downscale

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale/cordon"
	"github.com/ebbkit/ebb/downscale/policy"
	"github.com/ebbkit/ebb/internal/scaledown"
)

// machine is a machine of an app and the state of its stop. For a machine of another node only the
// row is set.
type machine struct {
	run     *run
	row     balance.Machine // as last seen in a snapshot
	rank    uint64
	gate    *balance.Gate // nil for a machine of another owner
	core    scaledown.Machine
	orders  []*stopRequest
	obeying bool      // the state machine has taken them
	listed  bool      // in run.leaving
	since   time.Time // of the cordon; later of the driver call
}

// moves reports whether time alone can change what is decided about a machine: it runs, or is
// starting or stopping. A machine that is asleep wakes by a change of its row.
func (m *machine) moves() bool {
	if m.gate == nil {
		return m.row.State == balance.StateStarted || m.row.State == balance.StateStarting
	}
	switch m.gate.State() {
	case balance.StateStopped, balance.StateSuspended, balance.StateFailed:
		return m.listed || len(m.orders) > 0 || m.core.Pending()
	}
	return true
}

// see returns the machine as a policy sees it.
func (m *machine) see(app balance.App, now time.Time) policy.Seen {
	s := policy.Seen{
		ID: m.row.ID, Region: m.row.Region, Revision: m.row.Revision, Rank: m.rank, State: m.row.State,
		Failing: m.row.Health == balance.HealthFailing, Hard: m.row.Cordon == balance.CordonHard,
		Limits: app.LimitsOf(m.row),
	}
	if m.gate == nil {
		s.Leaving = m.row.Cordon == balance.CordonSoft
		if m.run.config.Views != nil {
			load, idle, told, fresh := m.run.config.Views.Load(app.ID, m.row.ID)
			if s.Known, s.Stale = told && fresh, told && !fresh; s.Known {
				s.Load, s.Idle = load, idle
			}
		}
		return s
	}
	m.core.See(now, &s, m.gate.State())
	if s.State == balance.StateStarted {
		if s.Load > 0 {
			s.Open = m.open(app.IdleAfter)
			s.Long, s.Idle = m.tellable(app.IdleAfter), m.idle(balance.ClassAll, app.IdleAfter)
		}
		s.Busy = m.run.config.Busy != nil && m.run.config.Busy(m.row) || s.Open&^m.run.config.Notify != 0
	}
	return s
}

// open returns the classes of a machine's long connections that are not idle.
func (m *machine) open(quiet time.Duration) (of balance.Class) {
	for c := balance.Class(1); c < balance.ClassAll; c <<= 1 {
		if n := m.long(c); n > 0 && n > m.idle(c, quiet) {
			of |= c
		}
	}
	return of
}

// tellable returns how many long connections may be told to end: all of some classes, and the idle
// ones of the others.
func (m *machine) tellable(quiet time.Duration) int {
	return m.long(m.run.config.Notify) + m.idle(balance.ClassAll&^m.run.config.Notify, quiet)
}

// idle returns how many long connections of these classes have carried no data for that long; 0
// means that none is idle.
func (m *machine) idle(of balance.Class, quiet time.Duration) int {
	if m.run.config.Connections == nil || of == 0 || quiet <= 0 {
		return 0
	}
	return m.run.config.Connections.Idle(m.current(), of, quiet)
}

// long returns how many long connections of these classes a machine has.
func (m *machine) long(of balance.Class) int {
	if m.run.config.Connections == nil || of == 0 {
		return 0
	}
	return m.run.config.Connections.Long(m.current(), of)
}

// observe looks at a machine's gate and acts on what it sees.
func (m *machine) observe(now time.Time) {
	l := m.look()
	if len(m.orders) > 0 {
		before := m.core.Cordon.Phase()
		if m.obey(now, l.Gate); m.core.Cordon.Phase() != before {
			m.core.Note(l) // the rest of l is of before
			return
		}
	}
	if m.core.Asks(l) {
		l.Touched = m.gate.Touched()
		v := m.run.config.Views
		l.Acked = v == nil || v.Acked(m.row.App, m.row.ID, l.Gate.CordonGen)
		l.Busy = m.run.config.Busy != nil && m.run.config.Busy(m.row)
		l.Tellable = m.tellable(m.quietFor())
	}
	c, back := m.core.Look(now, l)
	if back {
		call(m.run.config.Trace.Uncordoned, m.row, m.core.Cordon.Reason())
	}
	m.follow(now, c)
	if l.Gate.State != balance.StateStarted && m.core.Cordon.Resting() {
		m.adopt(now)
	}
}

// look looks at the machine's gate.
func (m *machine) look() (l scaledown.Look) {
	l.Gate, l.Peak, l.Used = m.gate.TakeSample()
	l.Granted = m.gate.Granted()
	l.NoRoom = m.run.pending >= parallel
	return l
}

// adopt takes over the stop of a machine that an earlier Run left in doubt.
func (m *machine) adopt(now time.Time) {
	if token, ok := m.gate.TakeOver(); ok {
		m.core.Cordon.Adopt(now, token)
		m.follow(now, m.core.Cordon.Look(now, cordon.Look{}))
	}
}

// follow carries out a command and those that follow from it.
func (m *machine) follow(now time.Time, c cordon.Command) {
	for c.Do != cordon.ActNone {
		c = m.do(now, c)
	}
	m.settle()
	if !m.listed && !m.core.Cordon.Resting() {
		m.listed = true
		m.run.leaving = append(m.run.leaving, m)
	}
}

// do carries out a command, and returns the next one if the answer is known at once.
func (m *machine) do(now time.Time, c cordon.Command) (next cordon.Command) {
	t := m.run.config.Trace
	switch c.Do {
	case cordon.ActCordon:
		gen, ok := m.gate.Cordon()
		if !ok {
			return m.core.Cordon.Failed(now, c)
		}
		m.since = now
		call(t.Cordoned, m.row, c.Reason)
		return m.core.Cordon.Done(now, c, gen)
	case cordon.ActUncordon:
		if m.gate.Uncordon(c.Gate) {
			call(t.Uncordoned, m.row, c.Reason)
		}
	case cordon.ActClose:
		token, ok := m.gate.Close(c.Gate, c.Suspend)
		if !ok {
			return m.core.Cordon.Failed(now, c)
		}
		return m.core.Cordon.Done(now, c, token)
	case cordon.ActCloseNow:
		token, ok := m.gate.CloseNow()
		if !ok {
			return m.core.Cordon.Failed(now, c)
		}
		call(t.Draining, m.row, c.Reason)
		return m.core.Cordon.Done(now, c, token)
	case cordon.ActNotify:
		m.notify(c)
	case cordon.ActReopen:
		if m.gate.Reopen(c.Gate) {
			call(t.Uncordoned, m.row, c.Reason)
		}
	case cordon.ActAbandon:
		m.gate.Abandon(c.Gate)
	case cordon.ActSuspend, cordon.ActStop:
		m.drive(now, c)
	case cordon.ActFinish:
		m.finish(now, c)
	case cordon.ActAlarm:
		call(t.Stuck, m.row, c.Reason)
	}
	return cordon.Command{}
}

// notify tells a machine's long connections to end: those of some classes, and the idle ones of the
// others.
func (m *machine) notify(c cordon.Command) {
	of := m.run.config.Notify
	if c.All {
		of = balance.ClassAll
	}
	told, quiet := balance.Class(0), m.quietFor()
	if m.long(of) > 0 {
		told = of
		m.run.config.Connections.Notify(m.current(), of, c.Within)
	}
	if rest := balance.ClassAll &^ of; m.idle(rest, quiet) > 0 {
		for class := balance.Class(1); class < balance.ClassAll; class <<= 1 {
			if rest&class != 0 && m.idle(class, quiet) > 0 {
				told |= class
			}
		}
		m.run.config.Connections.NotifyIdle(m.current(), rest, quiet, c.Within)
	}
	if told != 0 && !c.Again {
		call(m.run.config.Trace.Notified, m.row, told)
	}
}

// quietFor is how long a connection of the machine's app may carry no data before it is idle.
func (m *machine) quietFor() time.Duration {
	if snap, ok := m.run.fleet.App(m.row.App); ok {
		return snap.App().IdleAfter
	}
	return 0
}

// finish ends a stop: it tells the gate what state the machine is in now.
func (m *machine) finish(now time.Time, c cordon.Command) {
	m.gate.Closed(c.Gate, c.Suspend)
	f := m.run.config.Trace.Stopped
	if c.Suspend {
		f = m.run.config.Trace.Suspended
	}
	call(f, m.row, now.Sub(m.since))
}

// current returns the machine's row as it is now.
func (m *machine) current() balance.Machine {
	if s, ok := m.run.fleet.App(m.row.App); ok {
		if row, ok := s.Machine(m.row.ID); ok {
			return row
		}
	}
	return m.row
}

// drive calls the driver in the background. Its answer goes to run.answers, or to the gate once Run
// is over.
func (m *machine) drive(now time.Time, c cordon.Command) {
	m.run.pending++
	m.since = now
	row := m.current()
	do, told := m.run.driver.Stop, m.run.config.Trace.Stopping
	if c.Do == cordon.ActSuspend {
		do, told = m.run.driver.Suspend, m.run.config.Trace.Suspending
	}
	call(told, row, c.Reason)
	go func() {
		ctx, cancel := context.WithTimeout(m.run.ctx, m.run.config.StopTimeout)
		defer cancel()
		a := answer{m: m, cmd: c, err: do(ctx, row)}
		passes := false
		for n := 0; a.err != nil; n++ {
			var wait time.Duration
			wait, passes = retryAfter(a.err, n, rand.Uint64())
			if !passes || !pause(ctx, m.gate, wait) {
				break
			}
			a.err = do(ctx, row)
		}
		a.doubt = a.err != nil && ctx.Err() != nil && !passes
		select {
		case m.run.answers <- a:
		case <-m.run.over:
			if a.err != nil {
				m.gate.Abandon(c.Gate)
			} else {
				m.gate.Closed(c.Gate, c.Do == cordon.ActSuspend)
			}
		}
	}()
}

// obey passes the orders to the machine's state machine, again on each look, until they are done or
// given up.
func (m *machine) obey(now time.Time, l balance.Load) {
	kept := m.orders[:0]
	for _, w := range m.orders {
		over := w.epoch != 0 && w.epoch != l.Epoch || l.State.Startable()
		switch {
		case w.ctx.Err() != nil:
		case over && !m.core.Cordon.Closed():
			w.done <- nil
		default:
			kept = append(kept, w)
		}
	}
	clear(m.orders[len(kept):])
	if m.orders = kept; len(kept) == 0 {
		m.orders = nil
		m.follow(now, m.core.Cordon.Withdraw(now))
		return
	}
	for _, w := range slices.Clone(kept) { // a command may end them
		m.follow(now, m.core.Cordon.Order(now, cordon.Order(w.order)))
	}
	m.obeying = len(m.orders) > 0 && !m.core.Cordon.Resting()
}

// settle answers the orders of a machine that has come to rest.
func (m *machine) settle() {
	switch {
	case !m.obeying || !m.core.Cordon.Resting():
	case m.core.Cordon.Running():
		m.dismiss(fmt.Errorf("%w: %v: %s", ErrBusy, m.row.Key(), m.core.Cordon.Reason()))
	default:
		m.dismiss(nil)
	}
}

// dismiss answers all orders of a machine.
func (m *machine) dismiss(err error) {
	for _, w := range m.orders {
		w.done <- err
	}
	m.orders, m.obeying = nil, false
}
