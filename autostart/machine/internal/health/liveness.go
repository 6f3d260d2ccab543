package health

import (
	"fmt"
	"time"

	"github.com/ebbkit/ebb/balance"
)

const (
	// RestartDefault is how long checks may fail until a machine is restarted: as long as
	// Kubernetes takes by default, and longer than most pauses from which a program comes back by
	// itself.
	RestartDefault = 30 * time.Second
	// refusedFor is how long nothing may listen at a machine's address, checked in steps of
	// refusedStep: a machine that does not listen serves nobody, but a program gets the time to reopen
	// its port.
	refusedFor, refusedStep = time.Second, 200 * time.Millisecond
	// restartDoublings bounds the backoff to 16 times its first length.
	restartDoublings = 4
)

// Condition is what one look at a machine found.
type Condition uint8

// The conditions.
const (
	ConditionGood    Condition = iota
	ConditionFailing           // it answers otherwise than it should, or not at all
	ConditionRefused           // nothing listens
)

// Checks says how a machine that runs is checked.
type Checks struct {
	Every                time.Duration // the interval; 0 or less: none
	FailAfter, PassAfter int           // in a row, until a machine is failing, or passing again
}

// Liveness follows the checks of one machine while it runs: whether it is healthy, when to look
// again, and whether it has to be stopped and started again. Between runs only tries is kept. It is
// not safe for concurrent use.
type Liveness struct {
	Check   Checks
	streak  streak
	bad     time.Time // since when checks fail in a row; zero while they do not
	refused time.Time // since when nothing listens; zero while something does
	good    time.Time // since when checks pass; zero while they do not
	Tries   int       // restarts in a row that have not helped
}

// Begin begins a run.
func (l *Liveness) Begin(now time.Time) { *l = Liveness{Check: l.Check, good: now, Tries: l.Tries} }

// Look takes in what a look found. after is how long checks may fail until the machine is
// restarted; negative means for ever. While the machine is recent, failing checks are expected.
// next is the time until the next look; 0 means that none is planned.
func (l *Liveness) Look(
	now time.Time, c Condition, after time.Duration, recent bool,
) (changed, restart bool, next time.Duration) {
	changed = l.streak.add(c == ConditionGood, l.Check.FailAfter, l.Check.PassAfter)
	next = max(l.Check.Every, 0)
	if c == ConditionGood {
		l.bad, l.refused = time.Time{}, time.Time{}
		if l.good.IsZero() {
			l.good = now
		}
		if now.Sub(l.good) >= l.scaled(max(after, refusedFor)) {
			l.Tries = 0
		}
		return changed, false, next
	}
	l.good = time.Time{}
	if l.bad.IsZero() || recent {
		l.bad = now
	}
	// until it counts as failing, looks come more often: several failures in a row take one interval
	if !l.streak.failing {
		next /= time.Duration(l.Check.FailAfter)
	}
	if left := l.bad.Add(l.scaled(after)).Sub(now); after >= 0 && l.Check.Every > 0 {
		restart, next = left <= 0, min(next, max(left, refusedStep))
	}
	if c != ConditionRefused {
		l.refused = time.Time{}
		return changed, restart, next
	}
	if l.refused.IsZero() {
		l.refused = now
	}
	if after >= 0 {
		restart, next = restart || now.Sub(l.refused) >= l.scaled(refusedFor), l.scaled(refusedStep)
	}
	return changed, restart, next
}

// Failing reports whether the machine is failing after the checks so far.
func (l *Liveness) Failing() bool { return l.streak.failing }

// Why says why a machine is restarted, in a sentence for people.
func (l *Liveness) Why(now time.Time, found error) string {
	if !l.refused.IsZero() {
		return fmt.Sprintf(
			"nothing has listened there for %v: %v", now.Sub(l.refused).Round(100*time.Millisecond), found,
		)
	}
	return fmt.Sprintf(
		"its checks have failed for %v: %v", now.Sub(l.bad).Round(100*time.Millisecond), found,
	)
}

func (l *Liveness) scaled(
	d time.Duration,
) time.Duration {
	return d << min(l.Tries, restartDoublings)
}

// Trial is what another machine of an app shows about whether a restart helps against failing
// checks.
type Trial uint8

// The trials.
const (
	TrialNone   Trial = iota // it shows nothing
	TrialOpen                // it has been restarted for the same; whether that helped is open
	TrialPassed              // it has run well for long enough
)

// MayRestart reports whether a machine's failing checks are a reason to restart it. If all running
// machines of the app fail, the cause may be something that they share: then only the first of the
// canonical order is restarted, and the others wait for the result. of is called for the other
// machines whose checks do not fail.
func MayRestart(ms []*balance.Machine, id balance.MachineID, of func(*balance.Machine) Trial) bool {
	var first *balance.Machine
	open := false
	for _, m := range ms {
		if m.State == balance.StateStarted && m.Health == balance.HealthFailing {
			if first == nil || m.Compare(first) < 0 {
				first = m
			}
			continue
		}
		if m.ID == id {
			continue
		}
		switch of(m) {
		case TrialPassed:
			return true
		case TrialOpen:
			open = true
		}
	}
	return !open && (first == nil || first.ID == id)
}
