package waitroom

import (
	"slices"
	"time"
)

// Agenda says which apps are planned for, and when: each that was asked for, as soon as its [Pace]
// allows. Those that are awake are looked at with each tick, until they rest: a thousand apps that
// sleep cost no more than ten. The zero value is empty. It is not safe for concurrent use.
type Agenda[A comparable] struct {
	apps map[A]*entry
	due  []A // in the order in which they were asked for
}

// entry is what is kept of an app that is due or awake.
type entry struct {
	pace       Pace
	due, awake bool
}

// Look is what a tick finds of an app that is awake.
type Look uint8

// What a tick finds.
const (
	LookStay Look = iota // nothing to decide yet
	LookAsk              // it is to be planned for
	LookRest             // only news can make a difference to it
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

// Ask has an app planned for; it is then awake.
func (g *Agenda[A]) Ask(a A) {
	if e := g.entry(a); !e.due {
		e.due, e.awake = true, true
		g.due = append(g.due, a)
	}
}

// Wake has ticks look at an app.
func (g *Agenda[A]) Wake(a A) { g.entry(a).awake = true }

// Forget drops an app that has been removed.
func (g *Agenda[A]) Forget(a A) {
	delete(g.apps, a)
	g.due = slices.DeleteFunc(g.due, func(b A) bool { return a == b })
}

// Tick looks at all that are awake.
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

// Ready appends to ready the apps that are planned for now. Tell [Agenda.Decided] of each.
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

// Decided notes a decision for an app that was ready, made at now, see [Pace.Decided]. again says
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
