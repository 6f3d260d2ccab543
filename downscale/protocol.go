package downscale

import "time"

// Timing are the durations of a [Protocol]. They are [Config]'s, resolved: zero means zero.
type Timing struct {
	Quiet      time.Duration // how long a cordoned machine is idle, the cordon known everywhere, before its gate closes
	CordonMax  time.Duration // how long a cordon lasts at most
	Notice     time.Duration // how long connections that were told may take to end
	Backoff    time.Duration // how long an aborted stop is not tried again; doubles with each abort in a row, up to 16 times this
	StuckAfter time.Duration // how long the driver may be silent; also the pause before another try when it did not know
}

// maxDoublings bounds the back-off to 16 times the first: 1 min becomes 16 min, so that a trickle of requests costs a few
// cordons an hour and a machine that has calmed down is not kept for long.
const maxDoublings = 4

// Protocol is the stop protocol of one machine, as its owner runs it. It decides and does nothing: each step takes what
// happened and says what to do, at most one command. It is a plain value, not safe for concurrent use; the zero value with
// no Timing is valid, and so is a copy.
//
// Each line is a change of phase, or a command. Other inputs are noted where they matter later (an
// acknowledgement, idleness) or change nothing, and so do answers to any command but the last. A
// start that somebody wants while the gate is closed is no input: the gate remembers it.
//
//	stopped       --Up-->           active
//	active        --Down-->         stopped
//	active        --Surplus-->      soft-cordoned  Cordon
//	active        --Ordered-->      soft-cordoned  Cordon
//	soft-cordoned --Cordoned-->     active         Uncordon
//	soft-cordoned --Cordoned-->     closing        CloseNow
//	soft-cordoned --Idle-->         closing        Close
//	soft-cordoned --Lingering-->    notifying      Notify
//	soft-cordoned --Tick-->         notifying      Notify
//	soft-cordoned --Tick-->         closing        Close
//	soft-cordoned --Tick-->         active         Uncordon
//	soft-cordoned --Touched-->      active         Uncordon
//	soft-cordoned --Needed-->       active         Uncordon
//	soft-cordoned --Withdrawn-->    active         Uncordon
//	soft-cordoned --Acknowledged--> closing        CloseNow
//	soft-cordoned --Tick-->         closing        CloseNow
//	soft-cordoned --Uncordoned-->   closing        CloseNow
//	soft-cordoned --Refused-->      active
//	soft-cordoned --Uncordoned-->   active
//	soft-cordoned --Down-->         stopped
//	notifying     --Idle-->         closing        Close
//	notifying     --Tick-->         closing        Close
//	notifying     --Tick-->         active         Uncordon
//	notifying     --Touched-->      active         Uncordon
//	notifying     --Needed-->       active         Uncordon
//	notifying     --Withdrawn-->    active         Uncordon
//	notifying     --Ordered-->      soft-cordoned
//	notifying     --Uncordoned-->   active
//	notifying     --Down-->         stopped
//	closing       --Closed-->       draining       Notify
//	closing       --Closed-->       stopping       Stop
//	closing       --Closed-->       suspending     Suspend
//	closing       --Refused-->      soft-cordoned
//	closing       --Refused-->      active         Uncordon
//	draining      --Idle-->         stopping       Stop
//	draining      --Idle-->         suspending     Suspend
//	draining      --Tick-->         stopping       Stop
//	suspending    --Done-->         stopped        Finish
//	suspending    --Failed-->       stopping       Stop
//	suspending    --Unknown-->      stopping       Stop
//	suspending    --Tick-->         stuck          Alarm
//	stopping      --Done-->         stopped        Finish
//	stopping      --Failed-->       active         Reopen
//	stopping      --Failed-->       stuck          Alarm
//	stopping      --Unknown-->      stuck          Alarm
//	stopping      --Tick-->         stuck          Alarm
//	stuck         --Done-->         stopped        Finish
//	stuck         --Failed-->       active         Reopen
//	stuck         --Failed-->       stopping       Stop
//	stuck         --Unknown-->      stopping       Stop
//	stuck         --Tick-->         stopping       Stop
//
// A machine stops because it is surplus, or because somebody orders it, for a deploy or maintenance. Surplus gives way to
// everything: a request, a connection, a missing acknowledgement. An order does not depend on acknowledgements: what is
// missing after Timing.CordonMax is taken as given, since the gate protects who does not know. An order without Drain still
// gives way to whatever is in flight; one with Drain closes the gate over it, tells the connections, and gives both that long.
//
// Invariants: Suspend is only commanded behind a gate with nothing in flight, and so is Stop, but for the end of an order's
// Drain: then all connections have been told. For a surplus machine Close is only commanded after every live node
// acknowledged the cordon and the machine was idle for Timing.Quiet since. At most one Stop or Suspend is under way. A
// cordon ends, by a close or by Uncordon, within Timing.CordonMax, and Timing.Notice where there are connections to be told
// (an order may take once more CordonMax). A driver's failure to suspend leads to a stop: where the driver stands is then
// unknown or unsupported, and stopped is a state that can be known.
type Protocol struct {
	timing Timing

	phase   Phase
	order   order
	token   uint64 // of the last command that wants an answer; they grow
	gate    uint64 // up to Closing: the generation, 0 while Cordon is unanswered; after Closed: the gate's token
	suspend bool   // suspend rather than stop; later: Suspend rather than Stop is under way
	acked   bool   // every live node knows the cordon, or an order does not wait for it any longer
	lingers bool   // quiet was armed by connections that are to be told
	wanted  bool   // somebody needs the machine, and the gate has not answered Cordon or Close
	frozen  bool   // a Suspend ended in doubt: the machine may be frozen, and is not opened again
	fault   bool   // the last stop failed for another reason than that the machine was needed
	aborts  int8   // in a row
	drain   time.Duration
	reason  string // why it is surplus, or ordered to stop

	// Armed timers; zero is not armed.
	quiet   time.Time // SoftCordoned, Notifying: when the gate may close, or connections be told
	expires time.Time // SoftCordoned, Notifying: when the cordon ends; Draining: when it stops all the same; Suspending, Stopping: when the driver has been silent for too long; Stuck: when to try again
	backoff time.Time // Active: until when surplus does not count
	calm    time.Time // when the aborts so far are forgotten
}

// order is who wants the machine stopped.
type order uint8

const (
	notOrdered order = iota // it is surplus
	patient                 // somebody, when nothing is in flight
	firm                    // somebody, whatever is in flight
)

// NewProtocol returns the protocol of a machine that does not run.
func NewProtocol(t Timing) Protocol { return Protocol{timing: t} }

// adopted returns the protocol of a machine whose stop an earlier protocol left in doubt, behind the gate with that token.
func adopted(t Timing, token uint64, now time.Time) Protocol {
	return Protocol{timing: t, phase: Stuck, gate: token, frozen: true, reason: "an earlier stop was left in doubt", expires: now}
}

// Phase returns where the protocol stands.
func (p *Protocol) Phase() Phase { return p.phase }

// Gen returns the generation of the cordon that is in force; 0 when there is none.
func (p *Protocol) Gen() uint64 {
	if p.phase == SoftCordoned || p.phase == Notifying || p.phase == Closing {
		return p.gate
	}
	return 0
}

// BackingOff reports whether the last stop was aborted so recently that surplus alone starts no other.
func (p *Protocol) BackingOff(now time.Time) bool { return p.phase == Active && now.Before(p.backoff) }

// Step takes in what happened at time now. Time may stand still or go back; timers then fire later. Timers fire by Tick, so
// whoever steps does so every now and then. It does not allocate.
func (p *Protocol) Step(now time.Time, in Input) Command {
	switch in.Kind {
	case Cordoned, Closed, Refused, Done, Failed, Unknown:
		if in.Token != p.token {
			return Command{}
		}
	}
	switch p.phase {
	case Stopped:
		return p.stopped(in)
	case Active:
		return p.active(now, in)
	case SoftCordoned, Notifying:
		switch {
		case p.gate == 0:
			return p.asked(now, in)
		case p.order == firm:
			return p.ordered(now, in)
		}
		return p.cordoned(now, in)
	case Closing:
		return p.closing(now, in)
	case Draining:
		return p.draining(now, in)
	default:
		return p.behindGate(now, in)
	}
}

func (p *Protocol) stopped(in Input) Command {
	if in.Kind == Up {
		p.enter(Active)
	}
	return Command{}
}

func (p *Protocol) active(now time.Time, in Input) Command {
	switch in.Kind {
	case Down:
		p.enter(Stopped)
		return Command{}
	case Surplus:
		if now.Before(p.backoff) && (p.fault || !in.Idle) {
			return Command{}
		}
		p.reason, p.suspend = in.Reason, in.Suspend
	case Ordered:
		p.obey(in)
	default:
		return Command{}
	}
	p.enter(SoftCordoned)
	p.gate = 0
	p.expires = now.Add(p.timing.CordonMax)
	return p.command(Command{Do: Cordon})
}

// draining is behind a gate that has closed over what was in flight.
func (p *Protocol) draining(now time.Time, in Input) Command {
	switch in.Kind {
	case Idle:
		return p.stop(now)
	case Tick:
		if !p.expires.IsZero() && !now.Before(p.expires) {
			return p.drive(now, Stopping, Stop) // not suspended: what is still there is cut off
		}
	}
	return Command{}
}

func (p *Protocol) stop(now time.Time) Command {
	if p.suspend {
		return p.drive(now, Suspending, Suspend)
	}
	return p.drive(now, Stopping, Stop)
}

// behindGate is suspending, stopping and stuck: the gate is closed, so there is no hurry and nothing to lose.
func (p *Protocol) behindGate(now time.Time, in Input) Command {
	switch in.Kind {
	case Done:
		c := Command{Do: Finish, Gate: p.gate, Suspend: p.suspend, Reason: p.reason}
		p.enter(Stopped)
		p.aborts, p.calm = 0, time.Time{}
		return c
	case Failed, Unknown:
		switch {
		case p.suspend:
			p.frozen = in.Kind == Unknown
			return p.drive(now, Stopping, Stop)
		case in.Kind == Failed && !p.frozen:
			return p.reopen(now, "the driver could not stop it")
		}
		alarmed := p.phase == Stuck
		p.phase = Stuck
		p.expires = now.Add(p.timing.StuckAfter)
		p.token++ // nothing is under way: no answer counts until the next try
		if !alarmed {
			return Command{Do: Alarm, Reason: "the driver has left the machine in doubt; it will be told again to stop it"}
		}
	case Tick:
		switch {
		case p.expires.IsZero() || now.Before(p.expires):
		case p.phase == Stuck: // armed by Unknown only: the driver is free
			return p.drive(now, Stopping, Stop)
		default:
			p.phase, p.expires = Stuck, time.Time{} // the driver still holds the machine: only its answer leads on
			return Command{Do: Alarm, Reason: "the driver does not answer"}
		}
	}
	return Command{}
}

func (p *Protocol) drive(now time.Time, to Phase, do Act) Command {
	p.phase, p.suspend, p.quiet = to, do == Suspend, time.Time{}
	p.expires = now.Add(p.timing.StuckAfter)
	return p.command(Command{Do: do, Gate: p.gate})
}

// abort goes back to active and ends the cordon.
func (p *Protocol) abort(now time.Time, reason string) Command {
	gen := p.gate
	p.back(now)
	return Command{Do: Uncordon, Gate: gen, Reason: reason}
}

// reopen goes back to active from behind the gate.
func (p *Protocol) reopen(now time.Time, reason string) Command {
	token := p.gate
	p.back(now)
	p.fault = true
	return Command{Do: Reopen, Gate: token, Reason: reason}
}

func (p *Protocol) back(now time.Time) {
	p.enter(Active)
	p.gate, p.fault = 0, false
	p.token++ // whatever is still unanswered is void
	if !p.calm.IsZero() && !now.Before(p.calm) {
		p.aborts = 0
	}
	wait := p.timing.Backoff << p.aborts
	p.aborts = min(p.aborts+1, maxDoublings)
	p.backoff = now.Add(wait)
	p.calm = p.backoff.Add(wait) // as long again without an abort, and it is forgotten
}

func (p *Protocol) enter(to Phase) {
	p.phase = to
	p.wanted, p.frozen, p.lingers, p.quiet, p.expires = false, false, false, time.Time{}, time.Time{}
	if to == Active || to == Stopped {
		p.suspend, p.acked, p.order, p.drain = false, false, notOrdered, 0
	}
	if to == Stopped {
		p.backoff, p.gate = time.Time{}, 0
	}
}

func (p *Protocol) command(c Command) Command {
	p.token++
	c.Token = p.token
	if c.Reason == "" {
		c.Reason = p.reason
	}
	return c
}
