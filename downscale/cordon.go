package downscale

import "time"

// obey takes an order; a firm one is not softened by a patient one.
func (p *Protocol) obey(in Input) {
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

// asked is a cordon that the gate has not answered: it may be carried out any time, so what would end it has to wait.
func (p *Protocol) asked(now time.Time, in Input) Command {
	switch in.Kind {
	case Cordoned:
		switch p.gate = in.Gate; {
		case !p.wanted:
		case p.order == firm:
			return p.closeNow()
		default:
			return p.abort(now, "it was needed")
		}
	case Refused:
		p.back(now)
	case Ordered:
		p.obey(in)
	case Withdrawn:
		if p.order != notOrdered {
			p.order, p.wanted = patient, true
		}
	case Needed:
		p.wanted = p.wanted || p.order == notOrdered
	case Touched, Uncordoned, Down:
		p.wanted = true
	}
	return Command{}
}

func (p *Protocol) cordoned(now time.Time, in Input) Command {
	switch in.Kind {
	case Acknowledged:
		p.acked = p.acked || in.Gate == p.gate
	case Idle:
		if p.acked && (p.lingers || p.quiet.IsZero()) {
			p.quiet, p.lingers = now.Add(p.timing.Quiet), false
		}
		return p.mayClose(now)
	case Lingering:
		if p.acked && p.quiet.IsZero() {
			p.quiet, p.lingers = now.Add(p.timing.Quiet), true
		}
		return p.mayClose(now)
	case Busy:
		p.quiet, p.lingers = time.Time{}, false
	case Tick:
		if c := p.mayClose(now); c.Do != None || p.expires.IsZero() || now.Before(p.expires) {
			return c
		}
		return p.expire(now)
	case Ordered:
		was := p.order
		if p.obey(in); p.order != was {
			p.phase, p.lingers = SoftCordoned, false // a firm order tells the connections behind the gate
			p.quiet, p.expires = time.Time{}, now.Add(p.timing.CordonMax)
		}
	case Withdrawn:
		if p.order != notOrdered {
			return p.abort(now, "the order was withdrawn")
		}
	case Touched:
		return p.abort(now, "a request had no better machine")
	case Needed:
		if p.order == notOrdered {
			return p.abort(now, in.Reason)
		}
	case Uncordoned:
		p.back(now)
	case Down:
		p.enter(Stopped)
	}
	return Command{}
}

// expire is the end of a cordon's time.
func (p *Protocol) expire(now time.Time) Command {
	switch {
	case p.acked && p.phase == Notifying:
		return p.abort(now, "its connections did not end in time")
	case p.acked:
		return p.abort(now, "it did not become idle in time")
	case p.order != notOrdered: // once: acked stays
		p.acked, p.expires = true, now.Add(p.timing.CordonMax)
		return Command{}
	}
	c := p.abort(now, "not every node acknowledged the cordon in time")
	p.fault = true
	return c
}

// mayClose goes on when the machine has been quiet for long enough: to Notifying where there are connections to be told.
func (p *Protocol) mayClose(now time.Time) Command {
	switch {
	case p.quiet.IsZero() || now.Before(p.quiet):
		return Command{}
	case !p.lingers:
		return p.close(Command{Do: Close, Gate: p.gate, Suspend: p.suspend})
	case p.phase == Notifying:
		return Command{}
	}
	p.phase = Notifying
	p.expires = now.Add(p.timing.Notice)
	return Command{Do: Notify, Reason: p.reason}
}

// ordered is the cordon of a firm order: it only gives requests time to go elsewhere.
func (p *Protocol) ordered(now time.Time, in Input) Command {
	switch in.Kind {
	case Acknowledged:
		if in.Gate == p.gate && p.quiet.IsZero() {
			p.quiet = now.Add(p.timing.Quiet)
		}
	case Tick:
	case Uncordoned: // who recalled it would do so again
		return p.closeNow()
	case Ordered:
		p.obey(in)
		return Command{}
	case Withdrawn:
		return p.abort(now, "the order was withdrawn")
	case Down:
		p.enter(Stopped)
		return Command{}
	default:
		return Command{}
	}
	if !p.quiet.IsZero() && !now.Before(p.quiet) || !p.expires.IsZero() && !now.Before(p.expires) {
		return p.closeNow()
	}
	return Command{}
}

func (p *Protocol) closeNow() Command { return p.close(Command{Do: CloseNow, Gate: p.gate}) }

func (p *Protocol) close(c Command) Command {
	expires := p.expires // the gate may refuse, and then the cordon goes on
	p.enter(Closing)
	p.expires = expires
	return p.command(c)
}

func (p *Protocol) closing(now time.Time, in Input) Command {
	switch in.Kind {
	case Ordered:
		p.obey(in)
	case Withdrawn:
		p.wanted = p.wanted || p.order != notOrdered // a firm one is in force until the gate refuses: it may be closing over requests
	case Needed:
		p.wanted = p.wanted || p.order == notOrdered
	case Refused:
		if p.wanted {
			return p.abort(now, "it was needed")
		}
		expires := p.expires
		p.enter(SoftCordoned)
		p.expires = expires
	case Closed:
		p.gate = in.Gate
		// Somebody may need it by now. It is not opened again all the same: a machine that ended by
		// itself a moment ago would not be noticed, since the gate takes no exits while it closes. Who
		// needs it has it started, which the gate remembers.
		if p.order == firm {
			p.phase = Draining
			p.expires = now.Add(p.drain)
			return Command{Do: Notify, All: true, Reason: p.reason}
		}
		return p.stop(now)
	}
	return Command{}
}
