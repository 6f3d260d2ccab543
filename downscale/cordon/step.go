package cordon

import (
	"time"

	"github.com/ebbkit/ebb/internal/enum"
)

// event is what an [input] tells.
type event uint8

// The events. Those up to onUncordoned come from a [Look], except surplus, needs and orders.
const (
	onTick         event = iota // time has passed
	onUp                        // the gate says that the machine is started
	onDown                      // the gate says that it is not, and this machine did not cause it
	onSurplus                   // the policy can spare it
	onNeeded                    // the policy cannot spare it any longer, or somebody recalled it
	onOrdered                   // somebody wants it stopped, whether it is surplus or not
	onWithdrawn                 // whoever ordered the stop does not want it any longer
	onTouched                   // a request came although its edge knew the cordon
	onAcknowledged              // every live node knows the cordon
	onIdle                      // nothing is in flight, and nothing has come since the last look
	onLingering                 // the same, except for long connections that may be told to end
	onBusy                      // something is in flight, or has come since the last look
	// the gate says that the cordon is gone, and this machine did not cause it
	onUncordoned
	onCordoned // the gate has carried out Cordon
	onClosed   // the gate has carried out Close or CloseNow
	onRefused  // the gate would not carry out Cordon, Close or CloseNow
	onDone     // the driver has carried out Stop or Suspend
	onFailed   // the driver failed; the machine still runs
	onUnknown  // the driver does not know: it ran into its timeout
)

var eventNames = [...]string{
	"Tick", "Up", "Down", "Surplus", "Needed", "Ordered", "Withdrawn", "Touched", "Acknowledged",
	"Idle", "Lingering", "Busy", "Uncordoned", "Cordoned", "Closed", "Refused", "Done", "Failed",
	"Unknown",
}

// String returns the event's name as it stands in the diagram of the package comment.
func (e event) String() string { return enum.String(eventNames[:], uint8(e), "event") }

// input is one event. Fields that the event does not name are not read.
type input struct {
	event event
	// Cordoned, Closed, Refused, Done, Failed, Unknown: of the command that it answers
	Token   uint64
	Gate    uint64        // Cordoned, Acknowledged: the cordon's generation; Closed: the gate's token
	Idle    bool          // Surplus: the whole app is idle
	Suspend bool          // Surplus, Ordered: suspend rather than stop
	Reason  string        // Surplus, Needed, Ordered: a sentence for people
	Drain   time.Duration // Ordered: see Order
}

// order says whether somebody ordered the stop, and how firmly.
type order uint8

const (
	notOrdered order = iota // it is surplus
	patient                 // somebody, when nothing is in flight
	firm                    // somebody, whatever is in flight
)

// step takes in what happened at time now. Timers fire by onTick.
func (p *Machine) step(now time.Time, in input) Command {
	switch in.event {
	case onCordoned, onClosed, onRefused, onDone, onFailed, onUnknown:
		if in.Token != p.token {
			return Command{}
		}
	}
	switch p.phase {
	case phaseStopped:
		return p.stopped(in)
	case phaseActive:
		return p.active(now, in)
	case phaseSoftCordoned, phaseNotifying:
		switch {
		case p.gate == 0:
			return p.asked(now, in)
		case p.order == firm:
			return p.ordered(now, in)
		}
		return p.cordoned(now, in)
	case phaseClosing:
		return p.closing(now, in)
	case phaseDraining:
		return p.draining(now, in)
	default:
		return p.behindGate(now, in)
	}
}

func (p *Machine) stopped(in input) Command {
	if in.event == onUp {
		p.enter(phaseActive)
	}
	return Command{}
}

func (p *Machine) active(now time.Time, in input) Command {
	switch in.event {
	case onDown:
		p.enter(phaseStopped)
		return Command{}
	case onSurplus:
		if now.Before(p.backoff) && (p.fault || !in.Idle) {
			return Command{}
		}
		p.reason, p.suspend = in.Reason, in.Suspend
	case onOrdered:
		p.obey(in)
	default:
		return Command{}
	}
	p.enter(phaseSoftCordoned)
	p.gate = 0
	p.since, p.expires = now, now.Add(p.Config.CordonMax)
	return p.command(Command{Do: ActCordon})
}

// draining handles events behind a gate that was closed while requests were in flight.
func (p *Machine) draining(now time.Time, in input) Command {
	switch in.event {
	case onIdle:
		return p.stop(now)
	case onTick:
		if !p.expires.IsZero() && !now.Before(p.expires) {
			return p.drive(now, phaseStopping, ActStop) // not suspended: what is left is cut off
		}
	}
	return Command{}
}

func (p *Machine) stop(now time.Time) Command {
	if p.suspend {
		return p.drive(now, phaseSuspending, ActSuspend)
	}
	return p.drive(now, phaseStopping, ActStop)
}

// behindGate handles suspending, stopping and stuck: the gate is closed, so there is no hurry and
// nothing to lose.
func (p *Machine) behindGate(now time.Time, in input) Command {
	switch in.event {
	case onDone:
		c := Command{Do: ActFinish, Gate: p.gate, Suspend: p.suspend, Reason: p.reason}
		p.enter(phaseStopped)
		p.aborts, p.calm = 0, time.Time{}
		return c
	case onFailed, onUnknown:
		switch {
		case p.suspend:
			p.frozen = in.event == onUnknown
			return p.drive(now, phaseStopping, ActStop)
		case in.event == onFailed && !p.frozen:
			return p.reopen(now, "the driver could not stop it")
		}
		alarmed := p.phase == phaseStuck
		p.phase = phaseStuck
		p.expires = now.Add(p.Config.StuckAfter)
		p.token++ // nothing is under way: no answer counts until the next try
		if !alarmed {
			return Command{
				Do:     ActAlarm,
				Reason: "the driver has left the machine in doubt; it will be told again to stop it",
			}
		}
	case onTick:
		switch {
		case p.expires.IsZero() || now.Before(p.expires):
		case p.phase == phaseStuck: // armed by Unknown only: no driver call is under way
			return p.drive(now, phaseStopping, ActStop)
		default:
			// the driver call is still under way: only its answer moves on
			p.phase, p.expires = phaseStuck, time.Time{}
			return Command{Do: ActAlarm, Reason: "the driver does not answer"}
		}
	}
	return Command{}
}

func (p *Machine) drive(now time.Time, to phase, do Act) Command {
	p.phase, p.suspend, p.quiet = to, do == ActSuspend, time.Time{}
	p.expires = now.Add(p.Config.StuckAfter)
	return p.command(Command{Do: do, Gate: p.gate})
}

// abort goes back to active and ends the cordon.
func (p *Machine) abort(now time.Time, reason string) Command {
	gen := p.gate
	p.back(now, reason)
	return Command{Do: ActUncordon, Gate: gen, Reason: reason}
}

// reopen goes back to active from behind the gate.
func (p *Machine) reopen(now time.Time, reason string) Command {
	token := p.gate
	p.back(now, reason)
	p.fault = true
	return Command{Do: ActReopen, Gate: token, Reason: reason}
}

func (p *Machine) back(now time.Time, reason string) {
	p.enter(phaseActive)
	p.reason = reason
	p.gate, p.fault = 0, false
	p.token++ // whatever is still unanswered is void
	if !p.calm.IsZero() && !now.Before(p.calm) {
		p.aborts = 0
	}
	wait := p.Config.Backoff << p.aborts
	p.aborts = min(p.aborts+1, maxDoublings)
	p.backoff = now.Add(wait)
	p.calm = p.backoff.Add(wait) // after as long again without an abort, the aborts are forgotten
}

func (p *Machine) enter(to phase) {
	p.phase = to
	p.wanted, p.frozen, p.lingers, p.quiet, p.expires = false, false, false, time.Time{}, time.Time{}
	if to == phaseActive || to == phaseStopped {
		p.suspend, p.acked, p.order, p.drain = false, false, notOrdered, 0
	}
	if to == phaseStopped {
		p.backoff, p.gate = time.Time{}, 0
	}
}

func (p *Machine) command(c Command) Command {
	p.token++
	c.Token = p.token
	if c.Reason == "" {
		c.Reason = p.reason
	}
	return c
}

// obey takes an order; a patient one does not replace a firm one.
func (p *Machine) obey(in input) {
	switch {
	case in.Drain > 0 && p.order != firm:
		p.order, p.drain = firm, in.Drain
	case in.Drain > 0:
		p.drain = min(p.drain, in.Drain)
		return
	case p.order == notOrdered:
		p.order = patient
	default:
		return
	}
	p.reason, p.suspend = in.Reason, in.Suspend
}

// asked handles a cordon that the gate has not answered: it may be carried out at any time, so
// whatever would end it has to wait.
func (p *Machine) asked(now time.Time, in input) Command {
	switch in.event {
	case onCordoned:
		switch p.gate = in.Gate; {
		case !p.wanted:
		case p.order == firm:
			return p.closeNow()
		default:
			return p.abort(now, "it was needed")
		}
	case onRefused:
		p.back(now, "its gate refused the cordon")
	case onOrdered:
		p.obey(in)
	case onWithdrawn:
		if p.order != notOrdered {
			p.order, p.wanted = patient, true
		}
	case onNeeded:
		p.wanted = p.wanted || p.order == notOrdered
	case onTouched, onUncordoned, onDown:
		p.wanted = true
	}
	return Command{}
}

func (p *Machine) cordoned(now time.Time, in input) Command {
	switch in.event {
	case onAcknowledged:
		p.acked = p.acked || in.Gate == p.gate
	case onIdle:
		if p.acked && (p.lingers || p.quiet.IsZero()) {
			p.quiet, p.lingers = now.Add(p.Config.Quiet), false
		}
		return p.mayClose(now)
	case onLingering:
		if p.acked && p.quiet.IsZero() {
			p.quiet, p.lingers = now.Add(p.Config.Quiet), true
		}
		return p.mayClose(now)
	case onBusy:
		p.quiet, p.lingers = time.Time{}, false
	case onTick:
		if c := p.mayClose(now); c.Do != ActNone || p.expires.IsZero() || now.Before(p.expires) {
			return c
		}
		return p.expire(now)
	case onOrdered:
		was := p.order
		if p.obey(in); p.order != was {
			// a firm order tells the connections behind the gate
			p.phase, p.lingers = phaseSoftCordoned, false
			p.quiet, p.expires = time.Time{}, now.Add(p.Config.CordonMax)
		}
	case onWithdrawn:
		if p.order != notOrdered {
			return p.abort(now, "the order was withdrawn")
		}
	case onTouched:
		return p.abort(now, "a request had no better machine")
	case onNeeded:
		if p.order == notOrdered {
			return p.abort(now, in.Reason)
		}
	case onUncordoned:
		p.back(now, "it was recalled")
	case onDown:
		p.enter(phaseStopped)
	}
	return Command{}
}

// expire handles the end of a cordon's time.
func (p *Machine) expire(now time.Time) Command {
	switch {
	case p.acked && p.phase == phaseNotifying:
		return p.abort(now, "its connections did not end in time")
	case p.acked:
		return p.abort(now, "it did not become idle in time")
	case p.order != notOrdered: // once: acked stays
		p.acked, p.expires = true, now.Add(p.Config.CordonMax)
		return Command{}
	}
	c := p.abort(now, "not every node acknowledged the cordon in time")
	p.fault = true
	return c
}

// mayClose advances when the machine has been quiet for long enough: to Notifying if there are
// connections to tell, else to Closing.
func (p *Machine) mayClose(now time.Time) Command {
	switch {
	case p.quiet.IsZero() || now.Before(p.quiet):
		return Command{}
	case !p.lingers:
		return p.close(Command{Do: ActClose, Gate: p.gate, Suspend: p.suspend})
	case p.phase == phaseNotifying:
		return Command{}
	}
	p.phase = phaseNotifying
	p.expires = now.Add(p.Config.Notice)
	return Command{Do: ActNotify, Within: p.Config.Notice, Reason: p.reason}
}

// ordered handles the cordon of a firm order: it only gives requests time to go elsewhere.
func (p *Machine) ordered(now time.Time, in input) Command {
	switch in.event {
	case onAcknowledged:
		if in.Gate == p.gate && p.quiet.IsZero() {
			p.quiet = now.Add(p.Config.Quiet)
		}
	case onTick:
	case onUncordoned: // whoever recalled it would do so again
		return p.closeNow()
	case onOrdered:
		p.obey(in)
		return Command{}
	case onWithdrawn:
		return p.abort(now, "the order was withdrawn")
	case onDown:
		p.enter(phaseStopped)
		return Command{}
	default:
		return Command{}
	}
	if !p.quiet.IsZero() && !now.Before(p.quiet) || !p.expires.IsZero() && !now.Before(p.expires) {
		return p.closeNow()
	}
	return Command{}
}

func (p *Machine) closeNow() Command { return p.close(Command{Do: ActCloseNow, Gate: p.gate}) }

func (p *Machine) close(c Command) Command {
	expires := p.expires // if the gate refuses, the cordon goes on
	p.enter(phaseClosing)
	p.expires = expires
	return p.command(c)
}

func (p *Machine) closing(now time.Time, in input) Command {
	switch in.event {
	case onOrdered:
		p.obey(in)
	case onWithdrawn:
		// a firm order stands until the gate refuses: the gate may be closing over requests
		p.wanted = p.wanted || p.order != notOrdered
	case onNeeded:
		p.wanted = p.wanted || p.order == notOrdered
	case onRefused:
		if p.wanted {
			return p.abort(now, "it was needed")
		}
		expires := p.expires
		p.enter(phaseSoftCordoned)
		p.expires = expires
	case onClosed:
		p.gate = in.Gate
		// Somebody may need the machine by now. It is not reopened anyway: if it exited a moment
		// ago nobody would notice, since the gate takes no exits while it closes. Whoever needs it
		// asks for a start, which the gate remembers.
		if p.order == firm {
			p.phase = phaseDraining
			p.expires = now.Add(p.drain)
			return Command{Do: ActNotify, All: true, Within: p.drain, Reason: p.reason}
		}
		return p.stop(now)
	}
	return Command{}
}
