package downscale

import (
	"fmt"
	"strings"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale/cordon"
	"github.com/ebbkit/ebb/internal/scaledown"
)

// observe looks at a machine's gate, and does what comes of it.
func (r *run) observe(m *machine, now time.Time) {
	l := r.lookAt(m)
	if len(m.orders) > 0 {
		before := m.core.Cordon.Phase()
		if r.obey(m, now, l.Gate); m.core.Cordon.Phase() != before {
			m.core.Note(l) // the rest of l is of before
			return
		}
	}
	if m.core.Asks(l) {
		l.Touched = m.gate.Touched()
		l.Acked = r.config.Views == nil || r.config.Views.Acked(m.row.App, m.row.ID, l.Gate.CordonGen)
		l.Busy = r.config.Busy != nil && r.config.Busy(m.row)
		l.Tellable = r.tellable(m, r.quietFor(m))
	}
	c, back := m.core.Look(now, l)
	if back {
		call(r.config.Trace.Uncordoned, m.row, m.core.Cordon.Reason())
	}
	r.follow(m, now, c)
	if l.Gate.State != balance.StateStarted && m.core.Cordon.Resting() {
		r.adopt(m, now)
	}
}

// lookAt looks at a machine's gate.
func (r *run) lookAt(m *machine) (l scaledown.Look) {
	l.Gate, l.Peak, l.Used = m.gate.TakeSample()
	l.Granted = m.gate.Granted()
	l.NoRoom = r.pending >= parallel
	return l
}

// adopt takes up the stop of a machine that an earlier Run left in doubt.
func (r *run) adopt(m *machine, now time.Time) {
	if token, ok := m.gate.TakeOver(); ok {
		m.core.Cordon.Adopt(now, token)
		r.follow(m, now, m.core.Cordon.Look(now, cordon.Look{}))
	}
}

// follow carries out a command, and what comes of it.
func (r *run) follow(m *machine, now time.Time, c cordon.Command) {
	for c.Do != cordon.ActNone {
		c = r.do(m, now, c)
	}
	m.settle()
	if !m.listed && !m.core.Cordon.Resting() {
		m.listed = true
		r.leaving = append(r.leaving, m)
	}
}

// do carries out a command, and returns the next where its answer is known at once.
func (r *run) do(m *machine, now time.Time, c cordon.Command) (next cordon.Command) {
	t := r.config.Trace
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
		r.notify(m, c)
	case cordon.ActReopen:
		if m.gate.Reopen(c.Gate) {
			call(t.Uncordoned, m.row, c.Reason)
		}
	case cordon.ActAbandon:
		m.gate.Abandon(c.Gate)
	case cordon.ActSuspend, cordon.ActStop:
		r.drive(m, now, c)
	case cordon.ActFinish:
		r.finish(m, now, c)
	case cordon.ActAlarm:
		call(t.Stuck, m.row, c.Reason)
	}
	return cordon.Command{}
}

// notify tells a machine's long connections: those of some classes, and those of the others that
// are idle.
func (r *run) notify(m *machine, c cordon.Command) {
	of := r.config.Notify
	if c.All {
		of = balance.ClassAll
	}
	told, quiet := balance.Class(0), r.quietFor(m)
	if r.long(m, of) > 0 {
		told = of
		r.config.Connections.Notify(r.rowOf(m), of, c.Within)
	}
	if rest := balance.ClassAll &^ of; r.idle(m, rest, quiet) > 0 {
		for class := balance.Class(1); class < balance.ClassAll; class <<= 1 {
			if rest&class != 0 && r.idle(m, class, quiet) > 0 {
				told |= class
			}
		}
		r.config.Connections.NotifyIdle(r.rowOf(m), rest, quiet, c.Within)
	}
	if told != 0 && !c.Again {
		call(r.config.Trace.Notified, m.row, told)
	}
}

// quietFor is how long a connection of the machine's app may be without data until it is idle.
func (r *run) quietFor(m *machine) time.Duration {
	if snap, ok := r.fleet.App(m.row.App); ok {
		return snap.App().IdleAfter
	}
	return 0
}

func (r *run) finish(m *machine, now time.Time, c cordon.Command) {
	m.gate.Closed(c.Gate, c.Suspend)
	f := r.config.Trace.Stopped
	if c.Suspend {
		f = r.config.Trace.Suspended
	}
	call(f, m.row, now.Sub(m.since))
}

// rowOf returns the machine's row as it is now.
func (r *run) rowOf(m *machine) balance.Machine {
	if s, ok := r.fleet.App(m.row.App); ok {
		if row, ok := s.Machine(m.row.ID); ok {
			return row
		}
	}
	return m.row
}

// end releases what is cordoned and waits for the driver.
func (r *run) end() error {
	for _, w := range r.orders.end() {
		w.done <- errEnded
	}
	for _, a := range r.apps {
		for _, m := range a.machines {
			m.dismiss(errEnded)
		}
	}
	for _, m := range r.leaving {
		m.dismiss(errEnded)
		now := time.Now()
		r.follow(m, now, m.core.Cordon.Withdraw(now))
		r.follow(m, now, m.core.Cordon.Needed(now, "the downscaler ends"))
	}
	patience := time.NewTimer(2 * r.config.StopTimeout)
	defer patience.Stop()
	for r.pending > 0 {
		select {
		case a := <-r.answers:
			r.answered(a)
			continue
		case <-patience.C:
		}
		break
	}
	var silent []string
	for _, m := range r.leaving {
		now := time.Now()
		if r.follow(m, now, m.core.Cordon.End(now)); !m.core.Cordon.Resting() {
			silent = append(silent, m.row.Key().String())
		}
	}
	if len(silent) > 0 {
		return fmt.Errorf(
			"downscale: the driver has left %s in doubt: the gates stay closed until Drain, or another downscaler, has stopped the machines",
			strings.Join(silent, ", "),
		)
	}
	return nil
}

func call[T any](f func(balance.Machine, T), m balance.Machine, v T) {
	if f != nil {
		f(m, v)
	}
}
