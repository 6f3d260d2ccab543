package policy

import (
	"errors"
	"slices"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/boots"
	"github.com/ebbkit/ebb/balance"
)

// Bounded returns a policy that decides as p does, less what breaks a bound. An
// [autostart.Autostart] wraps each policy of yours in it, so that a policy decides what is wanted
// and need not check these bounds itself:
//
//   - nothing is started or recalled of an app whose autostart is off, of another app, or of a row
//     that has changed;
//   - nothing is started that runs, is hard-cordoned, or whose node is gone, and nothing beyond
//     [balance.App.Max];
//   - what has been asked for is not asked for again until its row shows it, its owner has refused,
//     or 10 s have passed;
//   - a machine whose start fails, or whose owner cannot be asked, is not started for 0.4 s,
//     doubling up to 6 s; one that ends after it has run for 1 min may start at once. After three
//     failures of an app in a row, of whichever machines, one machine is tried at a time, at
//     intervals of 0.4 s, doubling up to 25 s, until one has become ready.
//
// What is taken out of a decision is answered as the owner would have answered it: a start as
// refused or as under way, a recall as too late.
//
// The suite of package policytest wraps policies in the same way.
//
// A policy that has a method KeepsBounds, as our own have, keeps bounds of its own and is returned
// as it is.
func Bounded(p Policy) Policy {
	if _, ok := p.(interface{ KeepsBounds() }); ok {
		return p
	}
	return &bounded{Policy: p, of: map[balance.MachineID]*bound{}}
}

// bounded is a policy with what the bounds remember of an app's machines.
type bounded struct {
	Policy
	of      map[balance.MachineID]*bound
	fails   int       // of the app, in a row
	until   time.Time // after these: no start before
	dropped []Answer  // answers to what was taken out, for the next call of the policy
}

// bound is what keeps one machine from being started.
type bound struct {
	// when its start from epoch was last asked for; zero when it was not, or its row shows it
	asked   time.Time
	epoch   uint64
	fails   int // in a row
	failed  uint64
	until   time.Time // after a failure
	up      time.Time // since when it runs; zero when it does not
	present bool      // in the input
}

const (
	// boundFor is how long a start counts as asked for while its row does not show it.
	boundFor = 10 * time.Second
	// boundRefused is how long a start counts as asked for after its owner has refused it: the row
	// that says why is on its way.
	boundRefused = time.Second
	// boundFails is up to how many failures in a row a machine's backoff doubles. The backoff is half
	// of the least that a [Planner] waits, so that the two never wait for each other.
	boundFails = 5
	// boundBreaks is how many failures in a row count as the app's own and not as a machine's.
	// boundBreaksMost is up to how many failures, from there on, the interval between tries doubles.
	boundBreaks, boundBreaksMost = 3, 7
)

// errTooLate answers a recall of a machine that is not under a soft cordon any more.
var errTooLate = errors.New("too late to recall")

// Plan implements [Policy].
func (b *bounded) Plan(now time.Time, in Input) Decision {
	for _, a := range in.Answers {
		b.take(now, a)
	}
	b.look(now, &in)
	if len(b.dropped) > 0 {
		in.Answers = append(slices.Clip(in.Answers), b.dropped...)
		b.dropped = nil
	}
	return b.keep(now, &in, b.Policy.Plan(now, in))
}

// KeepsBounds marks b as it marks a [Planner].
func (b *bounded) KeepsBounds() {}

// take takes in the result of a start.
func (b *bounded) take(now time.Time, a Answer) {
	m := b.of[a.Machine.ID]
	if m == nil || a.Recall {
		return
	}
	switch {
	case a.Err != nil:
		m.asked = time.Time{}
		m.fail(now) // this does not count against the app
	case a.Start == balance.StartRefused && !m.asked.IsZero():
		m.asked = now.Add(boundRefused - boundFor)
	}
}

// fail counts a failure, unless the machine had run for long enough, and reports whether it has
// counted it.
func (m *bound) fail(now time.Time) bool {
	if steady := !m.up.IsZero() && now.Sub(m.up) >= steadyMax; steady {
		m.fails, m.up = 0, time.Time{}
		return false
	}
	m.up = time.Time{}
	m.fails++
	m.until = now.Add(boots.Backoff(min(m.fails, boundFails), 0) / 2)
	return true
}

// failed counts a failure of the app.
func (b *bounded) failed(now time.Time) {
	if b.fails++; b.fails >= boundBreaks {
		b.until = now.Add(boots.Backoff(min(b.fails-boundBreaks+1, boundBreaksMost), 0) / 2)
	}
}

// look takes in the rows as they are now.
func (b *bounded) look(now time.Time, in *Input) {
	for _, m := range b.of {
		m.present = false
	}
	for _, row := range in.Machines {
		m := b.of[row.ID]
		if m == nil {
			m = &bound{failed: row.Epoch}
			b.of[row.ID] = m
		}
		m.present = true
		if row.Epoch != m.epoch || now.Sub(m.asked) >= boundFor {
			m.asked = time.Time{}
		}
		switch {
		case row.State == balance.StateFailed && row.Epoch != m.failed:
			m.failed = row.Epoch
			if m.fail(now) {
				b.failed(now)
			}
		case row.State == balance.StateStarted && m.up.IsZero():
			m.up, b.fails = now, 0
		case row.State != balance.StateStarted:
			m.up = time.Time{}
		}
	}
	for id, m := range b.of {
		if !m.present {
			delete(b.of, id)
		}
	}
}

// keep takes out of a decision what breaks a bound.
func (b *bounded) keep(now time.Time, in *Input, d Decision) Decision {
	if !d.Acts() {
		return d
	}
	rows := make(map[balance.MachineID]*balance.Machine, len(in.Machines))
	runs, tries := 0, 0
	for _, row := range in.Machines {
		rows[row.ID] = row
		if row.State == balance.StateStarting || !b.of[row.ID].asked.IsZero() {
			tries++
		}
		if row.State == balance.StateStarted || row.State == balance.StateStarting ||
			!b.of[row.ID].asked.IsZero() {
			runs++
		}
	}
	present := func(m *balance.Machine) *balance.Machine {
		row := rows[m.ID]
		if !in.App.Autostart || row == nil || m.App != in.App.ID || row.Epoch != m.Epoch {
			return nil
		}
		return row
	}
	recall, start := d.Recall, d.Start
	d.Recall, d.Start = nil, nil
	for _, m := range recall {
		if row := present(&m); row != nil && row.State == balance.StateStarted &&
			row.Cordon == balance.CordonSoft {
			d.Recall = append(d.Recall, m)
		} else {
			b.dropped = append(b.dropped, Answer{At: now, Machine: m, Recall: true, Err: errTooLate})
		}
	}
	refuse := func(m balance.Machine, a balance.StartAnswer) {
		b.dropped = append(b.dropped, Answer{At: now, Machine: m, Start: a})
	}
	for _, m := range start {
		row := present(&m)
		if row == nil || row.Cordon == balance.CordonHard ||
			!row.State.Startable() && row.State != balance.StateStopping &&
				row.State != balance.StateSuspending {
			refuse(m, balance.StartRefused)
			continue
		}
		of := b.of[m.ID]
		if !of.asked.IsZero() {
			refuse(m, balance.StartUnderway)
			continue
		}
		broken := b.fails >= boundBreaks && (now.Before(b.until) || tries > 0)
		if in.App.Max > 0 && runs >= in.App.Max || now.Before(of.until) || broken {
			refuse(m, balance.StartRefused)
			continue
		}
		of.asked, of.epoch = now, row.Epoch
		runs++
		tries++
		d.Start = append(d.Start, m)
	}
	if d.Hedge = d.Hedge && len(d.Start) > 0; !d.Acts() {
		d.Reason = ""
	}
	return d
}
