package node

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
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
	"github.com/ebbkit/ebb/internal/status"
)

// report makes of what the parts tell through their traces the log of decisions, and what else the
// page shows.
type report struct {
	node     balance.NodeID
	log      *eventlog.Log
	logger   *slog.Logger
	answers  answers
	picks    picks
	history  status.History
	started  time.Time
	requests atomic.Uint64
}

func newReport(c *Config) *report {
	return &report{node: c.Node, log: eventlog.New(0), logger: c.Logger, started: time.Now()}
}

// event notes that something happened, where there is a machine to it.
func (r *report) event(k events.Kind, m balance.MachineKey, format string, args ...any) {
	e := events.Event{
		Kind: k, App: string(m.App), Machine: string(m.ID), Node: string(r.node),
		Reason: fmt.Sprintf(format, args...),
	}
	r.log.Add(e)
	r.logger.LogAttrs(context.Background(), levelOf(k), string(k), slog.String("app", e.App),
		slog.String("machine", e.Machine), slog.String("reason", e.Reason))
}

// The kinds of events that are not the page's own.
const (
	kindAlarm   events.Kind = "alarm"
	kindDrain   events.Kind = "drain"
	kindNode    events.Kind = "node"
	kindNotify  events.Kind = "notify"
	kindRestart events.Kind = "restart"
)

// levelOf says how loud an event is in the log: one request's way is nothing beside a machine's end.
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

// then1 to then3 call what a user has set before what is ours.
func then1[A any](f *func(A), g func(A)) {
	was := *f
	*f = g
	if was != nil {
		*f = func(a A) { was(a); g(a) }
	}
}

func then2[A, B any](f *func(A, B), g func(A, B)) {
	was := *f
	*f = g
	if was != nil {
		*f = func(a A, b B) { was(a, b); g(a, b) }
	}
}

func then3[A, B, C any](f *func(A, B, C), g func(A, B, C)) {
	was := *f
	*f = g
	if was != nil {
		*f = func(a A, b B, c C) { was(a, b, c); g(a, b, c) }
	}
}

// counted counts the requests that a handler serves.
func (r *report) counted(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.requests.Add(1)
		h.ServeHTTP(w, req)
	})
}

func (r *report) balance(t *balance.Trace) {
	if t.Picked == nil {
		t.Every = pickEvery
	}
	then1(&t.Picked, func(x balance.Explanation) { r.picks.add(explained(r.node, x)) })
}

func (r *report) autostart(t *autostart.Trace) {
	then2(&t.Parked, func(app balance.AppID, _ int) {
		r.event(events.Park, balance.MachineKey{App: app}, "no machine has room")
	})
	then1(&t.Decided, func(d policy.Decision) {
		for _, m := range d.Start {
			k := events.Start
			if m.State == balance.StateSuspended {
				k = events.Resume
			}
			r.event(k, m.Key(), "%s", d.Reason)
		}
	})
	then3(&t.Answered, func(m balance.Machine, _ balance.StartAnswer, err error) {
		if err != nil {
			r.event(events.Exit, m.Key(), "could not be started: %v", err)
		}
	})
}

func (r *report) transport(t *backhaul.Trace) {
	then1(&t.Event, func(e backhaul.Event) {
		m := balance.MachineKey{App: e.App, ID: e.Machine}
		switch e.Kind {
		case backhaul.EventBounce:
			r.event(events.Bounce, m, "%s", e.Bounce)
		case backhaul.EventRetry:
			r.event(events.Retry, m, "%s", e.Failure)
		}
	})
	then1(&t.Done, func(d backhaul.Done) {
		m := balance.MachineKey{App: d.App, ID: d.Machine}
		if d.Cause == "" && (d.Outcome == balance.OutcomeDone || d.Outcome == balance.OutcomeError) {
			r.answered(m, d.Status, d.Outcome == balance.OutcomeError)
		}
		if d.Err != nil && d.Cause != "client" {
			r.event(events.Failed, m, "%d: %v", d.Status, d.Err)
		}
	})
}

func (r *report) answered(m balance.MachineKey, status int, failed bool) {
	wrong, changed := r.answers.add(m, status, failed)
	switch {
	case !changed:
	case wrong == "":
		r.event(events.Answers, m, "it answers well again")
	default:
		r.event(events.Answers, m, "%s; when it is mended, stop it: the next request starts it anew", wrong)
	}
}

func (r *report) starter(t *machine.Trace) {
	then3(&t.Ready, func(m balance.Machine, resumed bool, took time.Duration) {
		kind := "cold"
		if resumed {
			kind = "resume"
		}
		r.answers.forget(m.Key())
		r.event(events.Started, m.Key(), "ready after %v (%v)", rounded(took), kind)
	})
	then3(&t.Delayed, func(m balance.Machine, err error, wait time.Duration) {
		if wait == 0 {
			r.event(events.Delayed, m.Key(), "given up until it is wanted again: %v", err)
			return
		}
		r.event(events.Delayed, m.Key(), "tried again in %v: %v", rounded(wait), err)
	})
	then3(&t.NotReady, func(m balance.Machine, after time.Duration, err error) {
		r.event(events.NotReady, m.Key(), "not ready after %v: %v", rounded(after), err)
	})
	then3(&t.Health, func(m balance.Machine, h balance.Health, err error) {
		if h == balance.HealthFailing {
			r.event(events.Health, m.Key(), "its checks fail: %v", err)
			return
		}
		r.event(events.Health, m.Key(), "its checks pass again")
	})
	then1(&t.Failed, func(m balance.Machine) {
		r.event(events.Exit, m.Key(), "did not come up: %s", m.Fault)
	})
	then2(&t.Exited, func(m balance.Machine, x machine.Exit) {
		r.event(events.Exit, m.Key(), "%s", x.Reason)
	})
	then1(&t.Restarting, func(m balance.Machine) { r.event(kindRestart, m.Key(), "%s", m.Fault) })
}

func (r *report) downscale(t *downscale.Trace) {
	why := func(k events.Kind) func(balance.Machine, string) {
		return func(m balance.Machine, reason string) { r.event(k, m.Key(), "%s", reason) }
	}
	took := func(k events.Kind) func(balance.Machine, time.Duration) {
		return func(m balance.Machine, d time.Duration) { r.event(k, m.Key(), "took %v", rounded(d)) }
	}
	veto := func(d downpolicy.Decision, reason string) {
		r.event(events.Veto, balance.MachineKey{App: d.App, ID: d.Machine}, "%s", reason)
	}
	then2(&t.Cordoned, why(events.SoftCordon))
	then2(&t.Uncordoned, why(events.Uncordon))
	then2(&t.Stopping, why(events.Stop))
	then2(&t.Suspending, why(events.Suspend))
	then2(&t.Draining, why(kindDrain))
	then2(&t.Notified, func(m balance.Machine, of balance.Class) {
		r.event(kindNotify, m.Key(), "told to end: %v", of)
	})
	then2(&t.Stopped, took(events.Stopped))
	then2(&t.Suspended, took(events.Suspended))
	then1(&t.Held, func(d downpolicy.Decision) {
		if d.Busy() || d.Open != 0 {
			veto(d, d.Reason())
		}
	})
	then1(&t.Vetoed, func(d downpolicy.Decision) {
		veto(d, "not stopped: "+d.Bound+", although "+d.Reason())
	})
	then2(&t.Failed, func(m balance.Machine, err error) {
		r.event(kindAlarm, m.Key(), "the driver failed: %v", err)
	})
	then2(&t.Stuck, func(m balance.Machine, reason string) {
		r.event(kindAlarm, m.Key(), "stuck: %s", reason)
	})
}

// rounded leaves two or three digits: people read these.
func rounded(d time.Duration) time.Duration {
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
