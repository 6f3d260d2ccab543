package waitroom

import (
	"slices"
	"time"
)

// Agenda says which apps to plan for, and when: each app for which planning was requested, as soon
// as its [Pace] allows. Each tick looks at the apps that are awake, until they rest: a thousand
// apps that are asleep cost no more than ten. The zero value is empty. It is not safe for
// concurrent use.
type Agenda[A comparable] struct {
	apps map[A]*entry
	due  []A // in the order of the requests
}

// entry is the record of an app that is due or awake.
type entry struct {
	pace       Pace
	due, awake bool
}

// Look is the result of a tick's look at an awake app.
type Look uint8

// The results.
const (
	LookStay Look = iota // nothing to decide yet
	LookAsk              // it is to be planned for
	LookRest             // only a change can make a difference to it
)

func (g *Agenda[A]) entry(a A) *entry {
	e := g.apps[a]
	if e == nil {
		if g.apps == nil {
			g.apps = map[A]*entry{}
		}
		e = &entry{}
		g.apps[a] = e
	}
	return e
}

// Ask requests planning for an app, which is then awake.
func (g *Agenda[A]) Ask(a A) {
	if e := g.entry(a); !e.due {
		e.due, e.awake = true, true
		g.due = append(g.due, a)
	}
}

// Wake makes ticks look at an app.
func (g *Agenda[A]) Wake(a A) { g.entry(a).awake = true }

// Forget drops an app that has been removed.
func (g *Agenda[A]) Forget(a A) {
	delete(g.apps, a)
	g.due = slices.DeleteFunc(g.due, func(b A) bool { return a == b })
}

// Tick looks at all apps that are awake.
func (g *Agenda[A]) Tick(look func(A) Look) {
	for a, e := range g.apps {
		switch l := look(a); {
		case l == LookAsk:
			g.Ask(a)
		case l == LookRest && !e.due:
			delete(g.apps, a)
		}
	}
}

// Ready appends to ready the apps that may be planned for now. Report each to [Agenda.Decided].
func (g *Agenda[A]) Ready(now time.Time, ready []A) []A {
	g.due = slices.DeleteFunc(g.due, func(a A) bool {
		e := g.apps[a]
		if e.pace.Next.After(now) {
			return false
		}
		e.due = false
		ready = append(ready, a)
		return true
	})
	return ready
}

// Wait returns how long it is until one is ready; ok is false when none is due.
func (g *Agenda[A]) Wait(now time.Time) (d time.Duration, ok bool) {
	for i, a := range g.due {
		if left := g.apps[a].pace.Next.Sub(now); i == 0 || left < d {
			d = left
		}
	}
	return max(d, 0), len(g.due) > 0
}

// Decided records a decision made at now for an app that was ready, see [Pace.Decided]. again says
// that it has left something out: the next one may come at once.
func (g *Agenda[A]) Decided(a A, now time.Time, took time.Duration, acts, again bool) {
	e := g.apps[a]
	if e == nil {
		return // it has been forgotten meanwhile
	}
	if e.pace.Decided(now, took, acts); again {
		e.pace.Next = now
	}
}
