package report

import (
	"fmt"
	"net/http"
	"sync"

	"github.com/ebbkit/ebb/balance"
)

// answersKept is how many of a machine's latest answers are looked at.
const answersKept = 10

// answersMachines bounds the machines whose answers are kept: beyond it all are forgotten.
const answersMachines = 100_000

// Answers tracks which machines answer with errors. Checks may not show that: an app that is up but
// has no database passes them. The zero value is ready to use, and safe for concurrent use.
type Answers struct {
	mu sync.Mutex
	of map[balance.MachineKey]*lately
}

// lately are the latest answers of one machine, since it became ready.
type lately struct {
	failed  [answersKept]bool
	n       int // all answers
	bad     int // failures among the latest
	failing bool
	status  int // of the last failure
}

// add records an answer, and reports whether the machine's state has changed by it. The machine
// begins to fail when half of its latest answers or more failed, and is well again when none did.
func (l *lately) add(status int, failed bool) (changed bool) {
	i := l.n % answersKept
	if l.failed[i] {
		l.bad--
	}
	if l.failed[i] = failed; failed {
		l.bad++
		l.status = status
	}
	l.n++
	was := l.failing
	switch {
	case 2*l.bad >= min(l.n, answersKept):
		l.failing = true
	case l.bad == 0:
		l.failing = false
	}
	return l.failing != was
}

// String says what is wrong, for people; empty when nothing is.
func (l *lately) String() string {
	if !l.failing {
		return ""
	}
	with := fmt.Sprintf("%d %s", l.status, http.StatusText(l.status))
	if l.n == 1 {
		return "its only answer failed, with " + with
	}
	return fmt.Sprintf("%d of its last %d answers failed, the last with %s", l.bad,
		min(l.n, answersKept), with)
}

// add records an answer of a machine, and returns what is wrong with it and whether that has
// changed.
func (a *Answers) add(m balance.MachineKey, status int, failed bool) (wrong string, changed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.of[m]
	if l == nil {
		if a.of == nil || len(a.of) >= answersMachines {
			a.of = map[balance.MachineKey]*lately{}
		}
		l = new(lately)
		a.of[m] = l
	}
	changed = l.add(status, failed)
	return l.String(), changed
}

// Failing says how a machine's answers fail; empty when they do not.
func (a *Answers) Failing(m balance.MachineKey) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if l := a.of[m]; l != nil {
		return l.String()
	}
	return ""
}

// forget forgets a machine's answers.
func (a *Answers) forget(m balance.MachineKey) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.of, m)
}
