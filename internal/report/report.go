// Package report turns what the parts' traces report into the log of decisions and the other data
// of the status page.
package report

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/autostart/machine"
	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/backhaul"
	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale"
	downpolicy "github.com/ebbkit/ebb/downscale/policy"
	"github.com/ebbkit/ebb/internal/eventlog"
	"github.com/ebbkit/ebb/internal/events"
)

// Report collects what the parts of one node report. Several may share Log, Answers and Picks.
type Report struct {
	Node    balance.NodeID
	Log     *eventlog.Log
	Logger  *slog.Logger // nil: nothing is logged
	Answers *Answers
	Picks   *Picks
}

// Event records that something happened; m is zero if it concerns no machine.
func (r *Report) Event(k events.Kind, m balance.MachineKey, format string, args ...any) {
	e := events.Event{
		Kind: k, App: string(m.App), Machine: string(m.ID), Node: string(r.Node),
		Reason: fmt.Sprintf(format, args...),
	}
	r.Log.Add(e)
	if r.Logger == nil {
		return
	}
	r.Logger.LogAttrs(context.Background(), levelOf(k), string(k), slog.String("app", e.App),
		slog.String("machine", e.Machine), slog.String("reason", e.Reason))
}

// The kinds of events that are not the page's own.
const (
	kindAlarm   events.Kind = "alarm"
	kindDrain   events.Kind = "drain"
	KindNode    events.Kind = "node"
	kindNotify  events.Kind = "notify"
	kindRestart events.Kind = "restart"
)

// levelOf returns an event's log level: a single request's path matters less than a machine's end.
func levelOf(k events.Kind) slog.Level {
	switch k {
	case events.Bounce, events.Retry, events.Park, events.Veto:
		return slog.LevelDebug
	case events.Delayed, events.NotReady, events.Health, events.Answers, events.Exit, events.Failed,
		kindAlarm, kindRestart:
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// Then1, like Then2 and Then3, has g called after the func that is already set.
func Then1[A any](f *func(A), g func(A)) {
	was := *f
	*f = g
	if was != nil {
		*f = func(a A) { was(a); g(a) }
	}
}

func Then2[A, B any](f *func(A, B), g func(A, B)) {
	was := *f
	*f = g
	if was != nil {
		*f = func(a A, b B) { was(a, b); g(a, b) }
	}
}

func Then3[A, B, C any](f *func(A, B, C), g func(A, B, C)) {
	was := *f
	*f = g
	if was != nil {
		*f = func(a A, b B, c C) { was(a, b, c); g(a, b, c) }
	}
}

// Balance samples explanations of picks, unless the user has set a trace for them.
func (r *Report) Balance(t *balance.Trace) {
	if t.Picked == nil {
		t.Every = pickEvery
	}
	Then1(&t.Picked, func(x balance.Explanation) { r.Picks.add(explained(r.Node, x)) })
}

// Autostart reports requests that wait, and starts.
func (r *Report) Autostart(t *autostart.Trace) {
	Then2(&t.Parked, func(app balance.AppID, _ int) {
		r.Event(events.Park, balance.MachineKey{App: app}, "no machine has room")
	})
	Then1(&t.Decided, func(d policy.Decision) {
		for _, m := range d.Start {
			k := events.Start
			if m.State == balance.StateSuspended {
				k = events.Resume
			}
			r.Event(k, m.Key(), "%s", d.Reason)
		}
	})
	Then3(&t.Answered, func(m balance.Machine, _ balance.StartAnswer, err error) {
		if err != nil {
			r.Event(events.Exit, m.Key(), "could not be started: %v", err)
		}
	})
}

// Transport reports requests on their way.
func (r *Report) Transport(t *backhaul.Trace) {
	Then1(&t.Event, func(e backhaul.Event) {
		m := balance.MachineKey{App: e.App, ID: e.Machine}
		switch e.Kind {
		case backhaul.EventBounce:
			r.Event(events.Bounce, m, "%s", e.Bounce)
		case backhaul.EventRetry:
			r.Event(events.Retry, m, "%s", e.Failure)
		}
	})
	Then1(&t.Done, func(d backhaul.Done) {
		m := balance.MachineKey{App: d.App, ID: d.Machine}
		if d.Cause == "" && (d.Outcome == balance.OutcomeDone || d.Outcome == balance.OutcomeError) {
			r.answered(m, d.Status, d.Outcome == balance.OutcomeError)
		}
		if d.Err != nil && d.Cause != "client" {
			r.Event(events.Failed, m, "%d: %v", d.Status, d.Err)
		}
	})
}

func (r *Report) answered(m balance.MachineKey, status int, failed bool) {
	wrong, changed := r.Answers.add(m, status, failed)
	switch {
	case !changed:
	case wrong == "":
		r.Event(events.Answers, m, "it answers well again")
	default:
		r.Event(
			events.Answers, m, "%s; when it is mended, stop it: the next request starts it anew", wrong,
		)
	}
}

// Starter reports machines that start, fail or are unhealthy.
func (r *Report) Starter(t *machine.Trace) {
	Then3(&t.Ready, func(m balance.Machine, resumed bool, took time.Duration) {
		kind := "cold"
		if resumed {
			kind = "resume"
		}
		r.Answers.forget(m.Key())
		r.Event(events.Started, m.Key(), "ready after %v (%v)", Rounded(took), kind)
	})
	Then3(&t.Delayed, func(m balance.Machine, err error, wait time.Duration) {
		if wait == 0 {
			r.Event(events.Delayed, m.Key(), "given up until it is wanted again: %v", err)
			return
		}
		r.Event(events.Delayed, m.Key(), "tried again in %v: %v", Rounded(wait), err)
	})
	Then3(&t.NotReady, func(m balance.Machine, after time.Duration, err error) {
		r.Event(events.NotReady, m.Key(), "not ready after %v: %v", Rounded(after), err)
	})
	Then3(&t.Health, func(m balance.Machine, h balance.Health, err error) {
		if h == balance.HealthFailing {
			r.Event(events.Health, m.Key(), "its checks fail: %v", err)
			return
		}
		r.Event(events.Health, m.Key(), "its checks pass again")
	})
	Then1(&t.Failed, func(m balance.Machine) {
		r.Event(events.Exit, m.Key(), "did not come up: %s", m.Fault)
	})
	Then2(&t.Exited, func(m balance.Machine, x machine.Exit) {
		r.Event(events.Exit, m.Key(), "%s", x.Reason)
	})
	Then1(&t.Restarting, func(m balance.Machine) { r.Event(kindRestart, m.Key(), "%s", m.Fault) })
}

// Downscale reports machines that are cordoned and stopped.
func (r *Report) Downscale(t *downscale.Trace) {
	why := func(k events.Kind) func(balance.Machine, string) {
		return func(m balance.Machine, reason string) { r.Event(k, m.Key(), "%s", reason) }
	}
	took := func(k events.Kind) func(balance.Machine, time.Duration) {
		return func(m balance.Machine, d time.Duration) { r.Event(k, m.Key(), "took %v", Rounded(d)) }
	}
	veto := func(d downpolicy.Decision, reason string) {
		r.Event(events.Veto, balance.MachineKey{App: d.App, ID: d.Machine}, "%s", reason)
	}
	Then2(&t.Cordoned, why(events.SoftCordon))
	Then2(&t.Uncordoned, why(events.Uncordon))
	Then2(&t.Stopping, why(events.Stop))
	Then2(&t.Suspending, why(events.Suspend))
	Then2(&t.Draining, why(kindDrain))
	Then2(&t.Notified, func(m balance.Machine, of balance.Class) {
		r.Event(kindNotify, m.Key(), "told to end: %v", of)
	})
	Then2(&t.Stopped, took(events.Stopped))
	Then2(&t.Suspended, took(events.Suspended))
	Then1(&t.Held, func(d downpolicy.Decision) {
		if d.Busy() || d.Open != 0 {
			veto(d, d.Reason())
		}
	})
	Then1(&t.Vetoed, func(d downpolicy.Decision) {
		veto(d, "not stopped: "+d.Bound+", although "+d.Reason())
	})
	Then2(&t.Failed, func(m balance.Machine, err error) {
		r.Event(kindAlarm, m.Key(), "the driver failed: %v", err)
	})
	Then2(&t.Stuck, func(m balance.Machine, reason string) {
		r.Event(kindAlarm, m.Key(), "stuck: %s", reason)
	})
}

// Rounded returns d with two or three digits, for people.
func Rounded(d time.Duration) time.Duration {
	switch {
	case d < time.Millisecond:
		return d.Round(10 * time.Microsecond)
	case d < 10*time.Millisecond:
		return d.Round(100 * time.Microsecond)
	case d < time.Second:
		return d.Round(time.Millisecond)
	}
	return d.Round(10 * time.Millisecond)
}
