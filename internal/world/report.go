package world

import (
	"fmt"
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

// What the packages tell through their traces becomes the log of decisions.

// tell notes what happened to a machine.
func (n *node) tell(
	log *eventlog.Log, k events.Kind, m balance.Machine, format string, args ...any,
) {
	log.Add(
		events.Event{
			Kind: k, App: string(m.App), Machine: string(m.ID), Node: string(n.id),
			Reason: fmt.Sprintf(format, args...),
		},
	)
}

func (e *edge) traceAuto() autostart.Trace {
	log := e.w.log
	return autostart.Trace{
		Parked: func(app balance.AppID, parked int) {
			e.parkedChanged()
			log.Add(
				events.Event{
					Kind: events.Park, App: string(app), Node: string(e.id), Reason: "no machine has room",
				},
			)
		},
		HandedOver: func(balance.AppID, balance.MachineID, time.Duration) { e.parkedChanged() },
		Rejected:   func(balance.AppID, error) { e.parkedChanged() },
		Left:       func(balance.AppID, time.Duration) { e.parkedChanged() },
		Decided: func(d policy.Decision) {
			for _, m := range d.Start {
				k := events.Start
				if m.State == balance.StateSuspended {
					k = events.Resume
				}
				e.tell(log, k, m, "%s", d.Reason)
			}
		},
		Answered: func(m balance.Machine, a balance.StartAnswer, err error) {
			if err != nil {
				e.tell(log, events.Exit, m, "could not be started: %v", err)
			}
		},
	}
}

func (e *edge) traceTransport() backhaul.Trace {
	log := e.w.log
	return backhaul.Trace{
		Event: func(x backhaul.Event) {
			to := events.Event{App: string(x.App), Machine: string(x.Machine), Node: string(e.id)}
			switch x.Kind {
			case backhaul.EventBounce:
				to.Kind, to.Reason = events.Bounce, x.Bounce.String()
			case backhaul.EventRetry:
				to.Kind, to.Reason = events.Retry, x.Failure.String()
			default:
				return
			}
			log.Add(to)
		},
		Done: func(d backhaul.Done) {
			if d.Cause == "" && (d.Outcome == balance.OutcomeDone || d.Outcome == balance.OutcomeError) {
				e.w.answered(d.App, d.Machine, d.Status, d.Outcome == balance.OutcomeError)
			}
			if d.Err != nil && d.Cause != "client" {
				log.Add(
					events.Event{
						Kind: events.Failed, App: string(d.App), Machine: string(d.Machine), Node: string(e.id),
						Reason: fmt.Sprintf("%d: %v", d.Status, d.Err),
					},
				)
			}
		},
	}
}

func (k *worker) traceStarter() machine.Trace {
	log := k.w.log
	return machine.Trace{
		Ready: func(m balance.Machine, resumed bool, took time.Duration) {
			kind := "cold"
			if resumed {
				kind = "resume"
			}
			k.w.anew(m.ID)
			k.tell(log, events.Started, m, "ready after %v (%v)", rounded(took), kind)
		},
		Delayed: func(m balance.Machine, err error, wait time.Duration) {
			if wait == 0 {
				k.tell(log, events.Delayed, m, "given up until it is wanted again: %v", err)
				return
			}
			k.tell(log, events.Delayed, m, "tried again in %v: %v", rounded(wait), err)
		},
		NotReady: func(m balance.Machine, after time.Duration, err error) {
			k.tell(log, events.NotReady, m, "not ready after %v: %v", rounded(after), err)
		},
		Health: func(m balance.Machine, h balance.Health, err error) {
			if h == balance.HealthFailing {
				k.tell(log, events.Health, m, "its checks fail: %v", err)
				return
			}
			k.tell(log, events.Health, m, "its checks pass again")
		},
		Failed: func(m balance.Machine) { k.tell(log, events.Exit, m, "did not come up: %s", m.Fault) },
		Exited: func(m balance.Machine, x machine.Exit) { k.tell(log, events.Exit, m, "%s", x.Reason) },
		Restarting: func(m balance.Machine) {
			k.tell(log, "restart", m, "%s", m.Fault)
		},
	}
}

func (k *worker) traceScaler() downscale.Trace {
	log := k.w.log
	veto := func(d downpolicy.Decision, reason string) {
		log.Add(
			events.Event{
				Kind: events.Veto, App: string(d.App), Machine: string(d.Machine), Node: string(k.id),
				Reason: reason,
			},
		)
	}
	return downscale.Trace{
		Cordoned:   func(m balance.Machine, reason string) { k.tell(log, events.SoftCordon, m, "%s", reason) },
		Uncordoned: func(m balance.Machine, reason string) { k.tell(log, events.Uncordon, m, "%s", reason) },
		Stopping:   func(m balance.Machine, reason string) { k.tell(log, events.Stop, m, "%s", reason) },
		Suspending: func(m balance.Machine, reason string) { k.tell(log, events.Suspend, m, "%s", reason) },
		Notified:   func(m balance.Machine, of balance.Class) { k.tell(log, "notify", m, "told to end: %v", of) },
		Draining:   func(m balance.Machine, reason string) { k.tell(log, "drain", m, "%s", reason) },
		Stopped:    func(m balance.Machine, took time.Duration) { k.tell(log, events.Stopped, m, "took %v", rounded(took)) },
		Suspended: func(m balance.Machine, took time.Duration) {
			k.tell(log, events.Suspended, m, "took %v", rounded(took))
		},
		Held: func(d downpolicy.Decision) {
			if d.Busy() || d.Open != 0 {
				veto(d, d.Reason())
			}
		},
		Vetoed: func(d downpolicy.Decision) { veto(d, "not stopped: "+d.Bound+", although "+d.Reason()) },
		Failed: func(m balance.Machine, err error) { k.tell(log, "alarm", m, "the driver failed: %v", err) },
		Stuck:  func(m balance.Machine, reason string) { k.tell(log, "alarm", m, "stuck: %s", reason) },
	}
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
