package downscale

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// answer is how a driver call ended.
type answer struct {
	m     *machine
	cmd   Command
	err   error
	doubt bool // it ran into its timeout
}

// observe looks at a machine's gate and tells its protocol.
func (r *run) observe(m *machine, now time.Time) {
	l, used := m.gate.Sample()
	m.load, m.used = max(0, l.InFlight-m.gate.Granted()), m.used || used // a slot that is only reserved is not demand
	m.peak = max(m.peak, m.gate.TakePeak()-m.gate.Granted())
	up := l.State == balance.StateStarted
	anew := l.Epoch != m.epoch
	m.began = m.began || up && anew
	m.epoch = l.Epoch
	if len(m.orders) > 0 {
		if before := m.protocol.Phase(); r.obey(m, now, l) != before {
			return // l is of before
		}
	}
	switch p := &m.protocol; p.Phase() {
	case Stopped, Active:
		if !up {
			r.step(m, now, Input{Kind: Down})
			r.adopt(m, now)
			return
		}
		r.step(m, now, Input{Kind: Up})
		if l.Cordon == balance.CordonSoft && m.gate.Uncordon(l.CordonGen) {
			call(r.config.Trace.Uncordoned, m.row, "the cordon was left over from an earlier run")
		}
	case SoftCordoned, Notifying:
		switch {
		case !up:
			r.step(m, now, Input{Kind: Down})
		case l.Cordon != balance.CordonSoft || l.CordonGen != p.Gen():
			m.why = "it was recalled"
			r.step(m, now, Input{Kind: Uncordoned})
			if m.used = m.used || !anew; !anew && p.Phase() == Active { // somebody counts on it
				call(r.config.Trace.Uncordoned, m.row, m.why)
			}
		default:
			if m.gate.Touched() {
				r.step(m, now, Input{Kind: Touched}) // a firm order goes on
			}
			if m.protocol.Gen() == l.CordonGen {
				r.quiet(m, now, l, used)
				r.remind(m, now)
			}
		}
	case Draining:
		if r.pending >= r.config.Parallel {
			return
		}
		if l.InFlight == 0 {
			r.step(m, now, Input{Kind: Idle})
		}
		r.step(m, now, Input{Kind: Tick})
		r.remind(m, now)
	default:
		r.step(m, now, Input{Kind: Tick})
	}
}

// adopt takes up the stop of a machine that an earlier Run left in doubt.
func (r *run) adopt(m *machine, now time.Time) {
	if token, ok := m.gate.TakeOver(); ok {
		m.protocol = adopted(r.config.timing(), token, now)
		r.step(m, now, Input{Kind: Tick})
	}
}

// quiet brings a cordon forward that nobody has touched.
func (r *run) quiet(m *machine, now time.Time, l balance.Load, used bool) {
	if r.config.Acks == nil || r.config.Acks.Acked(m.row.App, m.row.ID, l.CordonGen) {
		r.step(m, now, Input{Kind: Acknowledged, Gate: l.CordonGen})
	}
	switch {
	case r.config.Busy != nil && r.config.Busy(m.row):
		r.step(m, now, Input{Kind: Busy})
		r.step(m, now, Input{Kind: Needed, Reason: "it says that it is busy"})
	case used || l.InFlight > r.tellable(m, r.quietFor(m)):
		r.step(m, now, Input{Kind: Busy})
	case l.InFlight > 0:
		r.step(m, now, Input{Kind: Lingering})
	case r.pending < r.config.Parallel:
		r.step(m, now, Input{Kind: Idle})
	case now.Sub(m.since) < r.config.CordonMax || len(m.orders) > 0:
		return // a gate does not close before the driver has time for the machine
	default:
		r.step(m, now, Input{Kind: Needed, Reason: "the driver is busy with other machines"})
	}
	r.step(m, now, Input{Kind: Tick})
}

// step steps a machine's protocol and carries out what comes of it.
func (r *run) step(m *machine, now time.Time, in Input) {
	for again := true; again; {
		in, again = r.do(m, now, m.protocol.Step(now, in))
	}
	m.settle()
	if p := m.protocol.Phase(); !m.listed && p != Active && p != Stopped {
		m.listed = true
		r.leaving = append(r.leaving, m)
	}
}

// do carries out a command; ok is true when the answer is known at once.
func (r *run) do(m *machine, now time.Time, c Command) (in Input, ok bool) {
	t := r.config.Trace
	switch c.Do {
	case Cordon:
		gen, ok := m.gate.Cordon()
		if !ok {
			return Input{Kind: Refused, Token: c.Token}, true
		}
		m.since = now
		call(t.Cordoned, m.row, c.Reason)
		return Input{Kind: Cordoned, Token: c.Token, Gate: gen}, true
	case Uncordon:
		m.why = c.Reason
		if m.gate.Uncordon(c.Gate) {
			call(t.Uncordoned, m.row, c.Reason)
		}
	case Close:
		token, ok := m.gate.Close(c.Gate, c.Suspend)
		if !ok {
			return Input{Kind: Refused, Token: c.Token}, true
		}
		return Input{Kind: Closed, Token: c.Token, Gate: token}, true
	case CloseNow:
		token, ok := m.gate.CloseNow()
		if !ok {
			return Input{Kind: Refused, Token: c.Token}, true
		}
		call(t.Draining, m.row, c.Reason)
		return Input{Kind: Closed, Token: c.Token, Gate: token}, true
	case Notify:
		r.notify(m, c)
	case Reopen:
		m.why = c.Reason
		if m.gate.Reopen(c.Gate) {
			call(t.Uncordoned, m.row, c.Reason)
		}
	case Suspend, Stop:
		r.drive(m, now, c)
	case Finish:
		r.finish(m, now, c)
	case Alarm:
		call(t.Stuck, m.row, c.Reason)
	}
	return Input{}, false
}

// notify tells a machine's long connections.
func (r *run) notify(m *machine, c Command) {
	of, within := r.config.Notify, r.config.Notice
	if c.All {
		of, within = AllClasses, m.protocol.drain
	}
	r.tell(m, of, within)
}

// tell tells a machine's long connections of these classes, and those of the others that are idle.
func (r *run) tell(m *machine, of Class, within time.Duration) {
	told, quiet := Class(0), r.quietFor(m)
	if r.long(m, of) > 0 {
		told = of
		r.config.Connections.Notify(r.rowOf(m), of, within)
	}
	if rest := AllClasses &^ of; r.idle(m, rest, quiet) > 0 {
		for c := Class(1); c < AllClasses; c <<= 1 {
			if rest&c != 0 && r.idle(m, c, quiet) > 0 {
				told |= c
			}
		}
		r.config.Connections.NotifyIdle(r.rowOf(m), rest, quiet, within)
	}
	if told != 0 {
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

// remind tells those that have become long since the others were told: a handshake was under way.
func (r *run) remind(m *machine, now time.Time) {
	of := r.config.Notify
	switch m.protocol.Phase() {
	case Draining:
		of = AllClasses
	case Notifying:
	default:
		return
	}
	left := m.protocol.expires.Sub(now)
	if left <= 0 {
		return
	}
	if r.long(m, of) > 0 {
		r.config.Connections.Notify(r.rowOf(m), of, left)
	}
	if rest, quiet := AllClasses&^of, r.quietFor(m); r.idle(m, rest, quiet) > 0 {
		r.config.Connections.NotifyIdle(r.rowOf(m), rest, quiet, left)
	}
}

func (r *run) finish(m *machine, now time.Time, c Command) {
	m.gate.Closed(c.Gate, c.Suspend)
	f := r.config.Trace.Stopped
	if c.Suspend {
		f = r.config.Trace.Suspended
	}
	call(f, m.row, now.Sub(m.since))
}

// drive calls the driver in the background. The answer comes through answers, or to the gate when Run is over.
func (r *run) drive(m *machine, now time.Time, c Command) {
	r.pending++
	m.since = now
	row := r.rowOf(m)
	do, told := r.driver.Stop, r.config.Trace.Stopping
	if c.Do == Suspend {
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
				m.gate.Closed(c.Gate, c.Do == Suspend)
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

// answered tells the protocol how a driver call ended.
func (r *run) answered(a answer) {
	r.pending--
	kind := Done
	switch {
	case a.err == nil:
	case a.doubt:
		kind = Unknown
	default:
		kind = Failed
	}
	if a.err != nil && !errors.Is(a.err, errors.ErrUnsupported) {
		call(r.config.Trace.Failed, a.m.row, a.err)
	}
	r.step(a.m, time.Now(), Input{Kind: kind, Token: a.cmd.Token})
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
		r.step(m, time.Now(), Input{Kind: Withdrawn})
		r.step(m, time.Now(), Input{Kind: Needed, Reason: "the downscaler ends"})
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
		switch p := m.protocol.Phase(); {
		case p == Active || p == Stopped:
		case p == Draining:
			m.gate.Reopen(m.protocol.gate)
		case p == Stuck && !m.protocol.expires.IsZero(): // the driver is free, and in doubt
			m.gate.Abandon(m.protocol.gate)
			fallthrough
		default:
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
