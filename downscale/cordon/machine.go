package cordon

import (
	"cmp"
	"time"
)

// Config holds the durations of a [Machine]. Zero means zero.
type Config struct {
	// Quiet is how long a cordoned machine must be idle, after every node has acknowledged the
	// cordon, before its gate closes.
	Quiet time.Duration
	// CordonMax is how long a cordon lasts at most.
	CordonMax time.Duration
	// Notice is how long connections that were told may take to end.
	Notice time.Duration
	// Backoff is how long surplus is ignored after an aborted stop. It doubles with each abort in a
	// row, up to 16 times this.
	Backoff time.Duration
	// StuckAfter is how long the driver may take to answer. It is also the pause before a retry
	// when the driver did not know.
	StuckAfter time.Duration
}

// maxDoublings bounds the back-off to 16 times the first: 1 min becomes 16 min, so that a trickle
// of requests costs only a few cordons an hour, and a machine whose traffic has ended is not kept
// for long.
const maxDoublings = 4

// Machine is the soft-cordon state machine of one machine, as its owner runs it. The package
// comment has its diagram. The zero value is that of a machine that does not run. Machine is a
// plain value, not safe for concurrent use; a copy is valid. None of its methods allocates.
//
// Time may stand still or go back; timers then fire later. They fire in [Machine.Look], so the
// owner must call it regularly.
type Machine struct {
	Config Config

	phase phase
	order order
	token uint64 // of the last command that wants an answer; they grow
	// up to closing: the generation, 0 while Cordon is unanswered; after Closed: the gate's token
	gate    uint64
	suspend bool // suspend rather than stop; later: Suspend rather than Stop is under way
	acked   bool // every live node knows the cordon, or an order does not wait for it any longer
	lingers bool // connections that are to be told started quiet
	wanted  bool // somebody needs the machine, and the gate has not answered Cordon or Close
	frozen  bool // a Suspend ended in doubt: the machine may be frozen, and is not opened again
	fault   bool // the last stop failed for another reason than that the machine was needed
	aborts  int8 // in a row
	drain   time.Duration
	reason  string // why it is surplus or ordered to stop; when active again: why

	armed
}

// armed are a machine's timers; zero is not armed.
type armed struct {
	// soft-cordoned, notifying: when the gate may close, or connections may be told
	quiet time.Time
	// soft-cordoned, notifying: when the cordon ends; draining: when it stops anyway; suspending,
	// stopping: when the driver has taken too long; stuck: when to try again
	expires time.Time
	backoff time.Time // active: surplus is ignored until then
	calm    time.Time // when the aborts so far are forgotten
	since   time.Time // when the cordon was asked for
}

// Adopt takes over a stop that an earlier owner left in doubt, behind the gate with that token. The
// next [Machine.Look] makes the driver stop the machine again.
func (p *Machine) Adopt(now time.Time, token uint64) {
	*p = Machine{
		Config: p.Config, phase: phaseStuck, gate: token, frozen: true,
		reason: "an earlier stop was left in doubt", armed: armed{expires: now},
	}
}

// Look is what a machine's owner sees when it looks at its gate. The fields from Acked on are only
// read while the machine is leaving or draining.
type Look struct {
	Up       bool   // the machine is started
	Cordoned bool   // its gate is soft-cordoned
	Gen      uint64 // the generation of that cordon
	InFlight int    // requests and long connections that the gate has admitted
	Used     bool   // something was admitted since the last look

	Acked    bool // every live node knows the cordon of generation Gen
	Touched  bool // a request that knew the cordon was admitted
	Busy     bool // the machine works on something that did not come as a request
	Tellable int  // of InFlight, long connections that may be told to end
	// NoRoom says that the driver is overloaded: no gate closes on its own until the driver has
	// room.
	NoRoom bool
}

// Look takes in what the machine's gate shows, and that time has passed.
func (p *Machine) Look(now time.Time, l Look) Command {
	switch p.phase {
	case phaseStopped, phaseActive:
		if !l.Up {
			return p.step(now, input{event: onDown})
		}
		p.step(now, input{event: onUp})
		if l.Cordoned {
			return Command{
				Do: ActUncordon, Gate: l.Gen, Reason: "the cordon was left over from an earlier run",
			}
		}
		return Command{}
	case phaseSoftCordoned, phaseNotifying:
		switch {
		case !l.Up:
			return p.step(now, input{event: onDown})
		case p.gate == 0: // the gate has not answered yet
			return Command{}
		case !l.Cordoned || l.Gen != p.gate:
			return p.step(now, input{event: onUncordoned})
		case l.Touched:
			if c := p.step(now, input{event: onTouched}); c.Do != ActNone {
				return c // a firm order goes on
			}
		}
		return p.lookAtCordoned(now, l)
	case phaseDraining:
		if l.NoRoom {
			return Command{}
		}
		if l.InFlight == 0 {
			return p.step(now, input{event: onIdle})
		}
	}
	return cmp.Or(p.step(now, input{event: onTick}), p.remind(now, l))
}

// lookAtCordoned advances a cordon that no request has touched.
func (p *Machine) lookAtCordoned(now time.Time, l Look) Command {
	if l.Acked {
		if c := p.step(now, input{event: onAcknowledged, Gate: l.Gen}); c.Do != ActNone {
			return c
		}
	}
	var c Command
	switch {
	case l.Busy:
		p.step(now, input{event: onBusy})
		c = p.step(now, input{event: onNeeded, Reason: "it says that it is busy"})
	case l.Used || l.InFlight > l.Tellable:
		p.step(now, input{event: onBusy})
	case l.InFlight > 0:
		c = p.step(now, input{event: onLingering})
	case !l.NoRoom:
		c = p.step(now, input{event: onIdle})
	case now.Sub(p.since) < p.Config.CordonMax || p.order != notOrdered:
		return Command{}
	default:
		c = p.step(now, input{event: onNeeded, Reason: "the driver is busy with other machines"})
	}
	if c.Do != ActNone {
		return c
	}
	return cmp.Or(p.step(now, input{event: onTick}), p.remind(now, l))
}

// remind tells connections that have become long since the others were told: their handshake was
// under way then.
func (p *Machine) remind(now time.Time, l Look) Command {
	left := p.expires.Sub(now)
	if p.phase != phaseNotifying && p.phase != phaseDraining || left <= 0 || l.InFlight == 0 {
		return Command{}
	}
	return Command{Do: ActNotify, All: p.phase == phaseDraining, Within: left, Again: true}
}

// Surplus says that the machine is not needed. If allIdle says that nothing of the whole app is in
// use, a stop that a request aborted is no reason to wait. o.Drain is not read.
func (p *Machine) Surplus(now time.Time, o Order, allIdle bool) Command {
	return p.step(now, input{event: onSurplus, Idle: allIdle, Suspend: o.Suspend, Reason: o.Reason})
}

// Needed says that the machine is needed after all. It withdraws no order.
func (p *Machine) Needed(now time.Time, reason string) Command {
	return p.step(now, input{event: onNeeded, Reason: reason})
}

// Order is how somebody wants a machine stopped.
type Order struct {
	Reason  string // a sentence for people
	Suspend bool   // suspend rather than stop, where the driver can
	// Drain is how long what is in flight may take behind the closed gate. With 0 anything in
	// flight keeps the machine from being stopped.
	Drain time.Duration
}

// Order says that somebody wants the machine stopped, whether it is surplus or not. A repeated
// order changes nothing, except that an order with Drain replaces one without, and a shorter Drain
// replaces a longer one.
func (p *Machine) Order(now time.Time, o Order) Command {
	return p.step(now, input{event: onOrdered, Drain: o.Drain, Suspend: o.Suspend, Reason: o.Reason})
}

// Withdraw says that nobody orders the stop any longer.
func (p *Machine) Withdraw(now time.Time) Command {
	return p.step(now, input{event: onWithdrawn})
}

// Done says that c has been carried out. For Cordon, gate is the generation of the cordon; for
// Close and CloseNow, the gate's token; otherwise it is not read.
func (p *Machine) Done(now time.Time, c Command, gate uint64) Command {
	switch c.Do {
	case ActCordon:
		return p.step(now, input{event: onCordoned, Token: c.Token, Gate: gate})
	case ActClose, ActCloseNow:
		return p.step(now, input{event: onClosed, Token: c.Token, Gate: gate})
	}
	return p.step(now, input{event: onDone, Token: c.Token})
}

// Failed says that c has not been carried out: the gate refused, or the driver failed and the
// machine still runs.
func (p *Machine) Failed(now time.Time, c Command) Command {
	switch c.Do {
	case ActCordon, ActClose, ActCloseNow:
		return p.step(now, input{event: onRefused, Token: c.Token})
	}
	return p.step(now, input{event: onFailed, Token: c.Token})
}

// Unknown says that the driver does not know whether it has carried out c: it ran into its timeout.
func (p *Machine) Unknown(now time.Time, c Command) Command {
	return p.step(now, input{event: onUnknown, Token: c.Token})
}

// End says what to do with the gate of a machine that nobody will look at any longer. Call it after
// Withdraw and Needed, and after the driver has answered. If the machine is not at rest then, its
// gate stays closed: nobody knows whether the machine runs.
func (p *Machine) End(now time.Time) Command {
	switch {
	case p.phase == phaseDraining:
		return p.reopen(now, "its owner ends")
	case p.phase == phaseStuck && !p.expires.IsZero(): // the last driver call ended in doubt
		return Command{Do: ActAbandon, Gate: p.gate}
	}
	return Command{}
}

// Phase returns the machine's phase, by its name in the diagram, for people. Programs use
// [Machine.Resting] and its siblings.
func (p *Machine) Phase() string { return p.phase.String() }

// Running reports whether the machine runs and nobody is about to stop it.
func (p *Machine) Running() bool { return p.phase == phaseActive }

// Resting reports that nothing is under way: the machine either runs or does not.
func (p *Machine) Resting() bool { return p.phase == phaseActive || p.phase == phaseStopped }

// Leaving reports whether the machine is being stopped and can still be recalled: it is
// soft-cordoned, or its gate has been asked to close.
func (p *Machine) Leaving() bool {
	return p.phase == phaseSoftCordoned || p.phase == phaseNotifying || p.phase == phaseClosing
}

// Closed reports whether the gate is closed, or has been asked to close.
func (p *Machine) Closed() bool { return p.phase >= phaseClosing }

// Gen returns the generation of the cordon that is in force; 0 when there is none.
func (p *Machine) Gen() uint64 {
	if p.Leaving() {
		return p.gate
	}
	return 0
}

// Reason says why the machine is being stopped, or why it runs on after a stop was aborted.
func (p *Machine) Reason() string { return p.reason }

// BackingOff reports whether the last stop was aborted so recently that surplus alone starts no new
// one.
func (p *Machine) BackingOff(now time.Time) bool {
	return p.phase == phaseActive && now.Before(p.backoff)
}
