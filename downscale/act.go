package downscale

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale/cordon"
)

// answer is how a driver call ended.
type answer struct {
	m     *machine
	cmd   cordon.Command
	err   error
	doubt bool // it ran into its timeout
}

// observe looks at a machine's gate, tells its state machine, and does what that wants.
func (r *run) observe(m *machine, now time.Time) {
	l, used := m.gate.TakeSample()
	// a slot that is only reserved is not demand
	m.load, m.used = max(0, l.InFlight-m.gate.Granted()), m.used || used
	m.peak = max(m.peak, m.gate.TakePeak()-m.gate.Granted())
	up := l.State == balance.StateStarted
	anew := l.Epoch != m.epoch
	m.began = m.began || up && anew
	m.epoch = l.Epoch
	if len(m.orders) > 0 {
		before := m.cordon.Phase()
		if r.obey(m, now, l); m.cordon.Phase() != before {
			return // l is of before
		}
	}
	look := cordon.Look{
		Up: up, Cordoned: l.Cordon == balance.CordonSoft, Gen: l.CordonGen,
		InFlight: l.InFlight, Used: used, NoRoom: r.pending >= r.config.Parallel,
	}
	leaving := m.cordon.Leaving() && up
	recalled := leaving && (!look.Cordoned || look.Gen != m.cordon.Gen())
	if leaving && !recalled {
		look.Touched = m.gate.Touched()
		look.Acked = r.config.Acks == nil || r.config.Acks.Acked(m.row.App, m.row.ID, l.CordonGen)
		look.Busy = r.config.Busy != nil && r.config.Busy(m.row)
		look.Tellable = r.tellable(m, r.quietFor(m))
	}
	c := m.cordon.Look(now, look)
	if recalled && !anew { // somebody counts on it
		if m.used = true; m.cordon.Running() {
			call(r.config.Trace.Uncordoned, m.row, m.cordon.Reason())
		}
	}
	r.follow(m, now, c)
	if !up && m.cordon.Resting() {
		r.adopt(m, now)
	}
}

// adopt takes up the stop of a machine that an earlier Run left in doubt.
func (r *run) adopt(m *machine, now time.Time) {
	if token, ok := m.gate.TakeOver(); ok {
		m.cordon.Adopt(now, token)
		r.follow(m, now, m.cordon.Look(now, cordon.Look{}))
	}
}

// follow carries out a command, and what comes of it.
func (r *run) follow(m *machine, now time.Time, c cordon.Command) {
	for c.Do != cordon.ActNone {
		c = r.do(m, now, c)
	}
	m.settle()
	if !m.listed && !m.cordon.Resting() {
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
			return m.cordon.Failed(now, c)
		}
		m.since = now
		call(t.Cordoned, m.row, c.Reason)
		return m.cordon.Done(now, c, gen)
	case cordon.ActUncordon:
		if m.gate.Uncordon(c.Gate) {
			call(t.Uncordoned, m.row, c.Reason)
		}
	case cordon.ActClose:
		token, ok := m.gate.Close(c.Gate, c.Suspend)
		if !ok {
			return m.cordon.Failed(now, c)
		}
		return m.cordon.Done(now, c, token)
	case cordon.ActCloseNow:
		token, ok := m.gate.CloseNow()
		if !ok {
			return m.cordon.Failed(now, c)
		}
		call(t.Draining, m.row, c.Reason)
		return m.cordon.Done(now, c, token)
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

// notify tells a machine's long connections: those of some classes, and those of the others that are
// idle.
func (r *run) notify(m *machine, c cordon.Command) {
	of := r.config.Notify
	if c.All {
		of = AllClasses
	}
	told, quiet := Class(0), r.quietFor(m)
	if r.long(m, of) > 0 {
		told = of
		r.config.Connections.Notify(r.rowOf(m), of, c.Within)
	}
	if rest := AllClasses &^ of; r.idle(m, rest, quiet) > 0 {
		for class := Class(1); class < AllClasses; class <<= 1 {
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

// drive calls the driver in the background. The answer comes through answers, or to the gate when Run is over.
func (r *run) drive(m *machine, now time.Time, c cordon.Command) {
	r.pending++
	m.since = now
	row := r.rowOf(m)
	do, told := r.driver.Stop, r.config.Trace.Stopping
	if c.Do == cordon.ActSuspend {
		do, told = r.driver.Suspend, r.config.Trace.Suspending
	}
	call(told, row, c.Reason)
	go func() {
		ctx, cancel := context.WithTimeout(r.ctx, r.config.StopTimeout)
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
		case r.answers <- a:
		case <-r.over:
			if a.err != nil {
				m.gate.Abandon(c.Gate)
			} else {
				m.gate.Closed(c.Gate, c.Do == cordon.ActSuspend)
			}
		}
	}()
}

// pause waits before the driver is called again. It is false when the call has no time left, or
// when somebody wants the machine, which runs.
func pause(ctx context.Context, gate *balance.Gate, d time.Duration) bool {
	end := time.Now().Add(d)
	if limit, ok := ctx.Deadline(); ok && !limit.After(end) {
		return false
	}
	t := time.NewTicker(wantedEvery)
	defer t.Stop()
	for left := d; left > 0; left = time.Until(end) {
		if gate.Wanted() {
			return false
		}
		t.Reset(min(left, wantedEvery))
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
		}
	}
	return !gate.Wanted()
}

// wantedEvery is how often somebody who wants a machine is looked for while its stop is put off.
const wantedEvery = 100 * time.Millisecond

// answered takes in how a driver call ended.
func (r *run) answered(a answer) {
	r.pending--
	if a.err != nil && !errors.Is(a.err, errors.ErrUnsupported) {
		call(r.config.Trace.Failed, a.m.row, a.err)
	}
	now := time.Now()
	switch {
	case a.err == nil:
		r.follow(a.m, now, a.m.cordon.Done(now, a.cmd, 0))
	case a.doubt:
		r.follow(a.m, now, a.m.cordon.Unknown(now, a.cmd))
	default:
		r.follow(a.m, now, a.m.cordon.Failed(now, a.cmd))
	}
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
		r.follow(m, now, m.cordon.Withdraw(now))
		r.follow(m, now, m.cordon.Needed(now, "the downscaler ends"))
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
		if r.follow(m, now, m.cordon.End(now)); !m.cordon.Resting() {
			silent = append(silent, m.row.Key().String())
		}
	}
	if len(silent) > 0 {
		return fmt.Errorf("downscale: the driver has left %s in doubt: the gates stay closed until Drain, or another downscaler, has stopped the machines", strings.Join(silent, ", "))
	}
	return nil
}

func call[T any](f func(balance.Machine, T), m balance.Machine, v T) {
	if f != nil {
		f(m, v)
	}
}
