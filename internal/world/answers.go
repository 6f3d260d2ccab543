package world

import (
	"fmt"
	"net/http"
	"sync"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/events"
)

// answersKept is how many of a machine's latest answers are looked at.
const answersKept = 10

// answers follows whether machines answer that they fail. What their checks say is another matter:
// an app that is up and has no database passes them.
type answers struct {
	mu sync.Mutex
	of map[balance.MachineID]*lately
}

// lately are the latest answers of one machine, since it became ready.
type lately struct {
	failed  [answersKept]bool
	n       int // in all
	bad     int // of the latest
	failing bool
	status  int // of the last that failed
}

// add takes in an answer, and reports whether the machine has begun to fail by it: half of its
// latest answers or more; or whether it is well again: the last ones were all good.
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

// answered takes in an answer of a machine.
func (w *World) answered(app balance.AppID, id balance.MachineID, status int, failed bool) {
	a := &w.answers
	a.mu.Lock()
	if a.of == nil {
		a.of = map[balance.MachineID]*lately{}
	}
	l := a.of[id]
	if l == nil {
		l = new(lately)
		a.of[id] = l
	}
	changed := l.add(status, failed)
	what := l.String()
	a.mu.Unlock()
	if !changed {
		return
	}
	e := events.Event{
		Kind: events.Answers, App: string(app), Machine: string(id), Reason: "it answers well again",
	}
	if what != "" {
		e.Reason = what + "; when it is mended, stop it: the next request starts it anew"
	}
	w.log.Add(e)
}

// failing says how a machine's answers fail; empty when they do not.
func (w *World) failing(id balance.MachineID) string {
	w.answers.mu.Lock()
	defer w.answers.mu.Unlock()
	if l := w.answers.of[id]; l != nil {
		return l.String()
	}
	return ""
}

// anew forgets a machine's answers.
func (w *World) anew(id balance.MachineID) {
	w.answers.mu.Lock()
	defer w.answers.mu.Unlock()
	delete(w.answers.of, id)
}
