package autostart

import (
	"fmt"
	"time"

	"github.com/ebbkit/ebb/balance"
)

const (
	// restartDefault is how long checks may fail until a machine is restarted: as long as
	// Kubernetes takes by default, and longer than most pauses from which a program comes back by
	// itself.
	restartDefault = 30 * time.Second
	// deafFor is how long nothing may listen at a machine's address, looked at in steps of
	// deafStep: what does not listen serves nobody, but a program that opens its port anew gets the
	// time for it.
	deafFor, deafStep = time.Second, 200 * time.Millisecond
	// restartDoublings bounds the back-off to 16 times the first.
	restartDoublings = 4
)

// condition is what one look at a machine found.
type condition uint8

const (
	well   condition = iota
	unwell           // it answers otherwise than it should, or not at all
	deaf             // nothing listens
)

// liveness follows the checks of one machine while it runs: whether it is healthy, when to look
// again, and whether it has to be stopped and started again. Between runs only tries is kept. It is
// not safe for concurrent use.
type liveness struct {
	check  Check // of which Every, FailAfter and PassAfter count
	streak streak
	bad    time.Time // since when checks fail in a row; zero while they do not
	deaf   time.Time // since when nothing listens; zero while something does
	good   time.Time // since when they pass; zero while they do not
	tries  int       // restarts in a row that have not helped
}

// begin begins a run.
func (l *liveness) begin(now time.Time) { *l = liveness{check: l.check, good: now, tries: l.tries} }

// look takes in what a look found. after is how long checks may fail until the machine is
// restarted; negative is for ever. While the machine is recent, failing checks are expected. next
// is when to look again, 0 where that is not planned.
func (l *liveness) look(now time.Time, c condition, after time.Duration, recent bool) (changed, restart bool, next time.Duration) {
	changed = l.streak.add(c == well, l.check.FailAfter, l.check.PassAfter)
	next = max(l.check.Every, 0)
	if c == well {
		l.bad, l.deaf = time.Time{}, time.Time{}
		if l.good.IsZero() {
			l.good = now
		}
		if now.Sub(l.good) >= l.scaled(max(after, deafFor)) {
			l.tries = 0
		}
		return changed, false, next
	}
	l.good = time.Time{}
	if l.bad.IsZero() || recent {
		l.bad = now
	}
	if !l.streak.failing { // what fails is looked into more often, so that several in a row take about one interval
		next /= time.Duration(l.check.FailAfter)
	}
	if left := l.bad.Add(l.scaled(after)).Sub(now); after >= 0 && l.check.Every > 0 {
		restart, next = left <= 0, min(next, max(left, deafStep))
	}
	if c != deaf {
		l.deaf = time.Time{}
		return changed, restart, next
	}
	if l.deaf.IsZero() {
		l.deaf = now
	}
	if after >= 0 {
		restart, next = restart || now.Sub(l.deaf) >= l.scaled(deafFor), l.scaled(deafStep)
	}
	return changed, restart, next
}

// why says why a machine is restarted, in a sentence for people.
func (l *liveness) why(now time.Time, found error) string {
	if !l.deaf.IsZero() {
		return fmt.Sprintf("nothing has listened there for %v: %v", now.Sub(l.deaf).Round(100*time.Millisecond), found)
	}
	return fmt.Sprintf("its checks have failed for %v: %v", now.Sub(l.bad).Round(100*time.Millisecond), found)
}

func (l *liveness) scaled(d time.Duration) time.Duration { return d << min(l.tries, restartDoublings) }

// trial is what is known of another machine of an app whose checks fail.
type trial uint8

const (
	trialNone   trial = iota // nothing that says whether a restart helps
	trialOpen                // it has been restarted for the same, and it remains to be seen
	trialPassed              // it has run well for long enough
)

// blames reports whether a machine's failing checks are a reason to restart it. Where all of the
// app's machines that run fail, it may be something that they share: then only the first of the
// canonical order is restarted, and what comes of that is waited for. of is asked of the others
// whose checks do not fail.
func blames(ms []*balance.Machine, id balance.MachineID, of func(*balance.Machine) trial) bool {
	var first *balance.Machine
	open := false
	for _, m := range ms {
		if m.State == balance.StateStarted && m.Health == balance.HealthFailing {
			if first == nil || balance.CompareCanonical(m, first) < 0 {
				first = m
			}
			continue
		}
		if m.ID == id {
			continue
		}
		switch of(m) {
		case trialPassed:
			return true
		case trialOpen:
			open = true
		}
	}
	return !open && (first == nil || first.ID == id)
}
