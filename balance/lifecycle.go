package balance

import "fmt"

// SetLimits changes the limits. What is in flight above a lowered hard limit stays; nothing is
// admitted until it has left.
func (g *Gate) SetLimits(l Limits) error {
	if err := l.validate(); err != nil {
		return fmt.Errorf("balance: gate: %w", err)
	}
	g.mu.Lock()
	g.soft.Store(int64(l.Soft))
	g.set(hardMask, uint64(l.Hard)<<hardShift)
	g.unlock(true)
	return nil
}

// Start moves stopped, suspended or failed to starting under a new epoch, for the caller to carry
// out with the token. fromEpoch is the epoch the caller saw; a machine that has moved on since
// answers what it is now.
func (g *Gate) Start(fromEpoch uint64) (token uint64, a StartAnswer) {
	g.mu.Lock()
	switch s := g.State(); {
	case s == StateStarting:
		a = StartUnderway
	case s == StateStarted:
		a = StartRunning
		if g.word.Load()&cordonBit != 0 {
			g.set(0, touchedBit) // who wants it started is as good a reason to keep it as a request
		}
	case s == StateStopping || s == StateSuspending:
		if !g.op.final && !g.retired && g.kept.remembers() {
			a = StartRemembered
			g.set(0, wantedBit)
		}
	case fromEpoch == g.epoch.Load() && !g.retired:
		a = StartAccepted
		token = g.op.begin()
		g.epoch.Add(1) // before the word, see there
		g.set(stateMask|cordonBit|touchedBit|wantedBit, stateField(StateStarting))
	}
	g.unlock(a == StartAccepted)
	return token, a
}

// Ready moves starting to started.
func (g *Gate) Ready(token uint64) bool { return g.endStart(token, StateStarted) }

// Fail moves starting to failed: the start has come to nothing.
func (g *Gate) Fail(token uint64) bool { return g.endStart(token, StateFailed) }

func (g *Gate) endStart(token uint64, to State) bool {
	g.mu.Lock()
	ok := token == g.op.token && g.State() == StateStarting
	if ok {
		g.set(stateMask, stateField(to))
	}
	g.unlock(ok)
	return ok
}

// Cordon soft-cordons a started machine and returns the generation of the cordon.
func (g *Gate) Cordon() (gen uint64, ok bool) {
	g.mu.Lock()
	w := g.word.Load()
	if ok = stateOf(w) == StateStarted && w&cordonBit == 0; ok {
		gen = g.gen.Add(1) // before the word, see there
		g.set(touchedBit, cordonBit)
	}
	g.unlock(ok)
	return gen, ok
}

// Uncordon ends the soft cordon of that generation, unless the gate has closed since.
func (g *Gate) Uncordon(gen uint64) bool {
	g.mu.Lock()
	w := g.word.Load()
	ok := stateOf(w) == StateStarted && w&cordonBit != 0 && gen == g.gen.Load()
	if ok {
		g.set(cordonBit|touchedBit, 0)
	}
	g.unlock(ok)
	return ok
}

// Close moves a machine under the soft cordon of that generation to stopping, or to suspending, if
// nothing is in flight and nobody touched it. From here on nothing is admitted.
func (g *Gate) Close(gen uint64, suspend bool) (token uint64, ok bool) {
	to := StateStopping
	if suspend {
		to = StateSuspending
	}
	g.mu.Lock()
	for gen == g.gen.Load() {
		w := g.word.Load()
		if stateOf(w) != StateStarted || w&(cordonBit|touchedBit|inFlightMask) != cordonBit {
			break
		}
		if ok = g.word.CompareAndSwap(w, (w&^stateMask|stateField(to))+turnUnit); ok {
			token = g.op.begin()
			break
		}
	}
	g.unlock(ok)
	return token, ok
}

// CloseNow moves a started machine to stopping whatever is in flight. It is for shutting down and
// for machines that must go: the caller waits until InFlight is 0, or does not.
func (g *Gate) CloseNow() (token uint64, ok bool) {
	g.mu.Lock()
	if ok = g.State() == StateStarted; ok {
		token = g.op.begin()
		g.set(stateMask, stateField(StateStopping))
	}
	g.unlock(ok)
	return token, ok
}

// Closed ends the stop with that token: in suspended where suspended says so, else in stopped.
// again is true when a start was wanted meanwhile: the fleet's keepers have been told, see
// [Keeper]. Of a gate of no fleet the caller starts the machine.
func (g *Gate) Closed(token uint64, suspended bool) (again, ok bool) {
	to := StateStopped
	if suspended {
		to = StateSuspended
	}
	g.mu.Lock()
	if ok = token == g.op.token && g.closing(); ok {
		again = g.word.Load()&wantedBit != 0
		g.set(stateMask|cordonBit|touchedBit|wantedBit, stateField(to))
	}
	g.unlock(ok)
	if again {
		g.kept.wanted()
	}
	return again, ok
}

// Wanted reports whether a start is remembered: somebody wants the machine that is being stopped.
func (g *Gate) Wanted() bool { return g.word.Load()&wantedBit != 0 }

// Forget drops the start that is wanted when the present stop is over, and has any other refused
// until then. It is for stops after which nothing is to start: of a node that ends, or of a machine
// that is removed. It is false when nothing is being stopped.
func (g *Gate) Forget() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closing() {
		return false
	}
	g.op.final = true
	g.set(wantedBit, 0)
	return true
}

// Abandon gives the stop with that token up by whoever carries it out, and does not know whether
// the machine still runs: the gate stays closed until [Gate.TakeOver] has found somebody who sees
// to it.
func (g *Gate) Abandon(token uint64) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	ok := token == g.op.token && g.closing()
	g.op.doubt = g.op.doubt || ok
	return ok
}

// TakeOver takes over a stop that was abandoned, in doubt whether the machine still runs. The token
// of who had it is void.
func (g *Gate) TakeOver() (token uint64, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if ok = g.op.doubt && g.closing(); ok {
		g.op.doubt = false
		g.op.token++
		token = g.op.token
	}
	return token, ok
}

// Retire says whether the machine is to be removed: while it is, every start is refused, and one
// that was remembered is dropped.
func (g *Gate) Retire(on bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.retired = on; on {
		g.set(wantedBit, 0)
	}
}

// remove retires a machine that does not run; of any other it returns the state and false.
func (g *Gate) remove() (State, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.State()
	ok := s == StateStopped || s == StateFailed
	g.retired = g.retired || ok
	return s, ok
}

// Suspect tells the fleet's keepers that nothing listens at the machine's address, in the run of
// that epoch. It is for whoever forwards requests.
func (g *Gate) Suspect(epoch uint64) {
	if g.epoch.Load() == epoch && g.State() == StateStarted {
		g.kept.suspect(epoch)
	}
}

// Reopen moves stopping or suspending back to started: the driver could not, and the machine still
// runs. Where it has ended meanwhile, see Exited, it moves to failed.
func (g *Gate) Reopen(token uint64) bool {
	g.mu.Lock()
	ok := token == g.op.token && g.closing()
	if ok {
		to := StateStarted
		if g.op.ended {
			to = StateFailed
		}
		g.set(stateMask|cordonBit|touchedBit|wantedBit, stateField(to))
	}
	g.unlock(ok)
	return ok
}

// Exited notes that the run of that epoch has ended by itself: to failed where it failed, else to
// stopped. A late report of an older epoch changes nothing. During stopping or suspending, whose
// end Closed tells, it changes nothing yet: but there is no way back to started any more, see
// Reopen.
func (g *Gate) Exited(epoch uint64, failed bool) bool {
	to := StateStopped
	if failed {
		to = StateFailed
	}
	g.mu.Lock()
	s := g.State()
	current := epoch == g.epoch.Load()
	g.op.ended = g.op.ended || current && g.closing()
	ok := current && (s == StateStarting || s == StateStarted || s == StateSuspended)
	if ok {
		// Whatever was under way for this run is void: no token counts in the states that this
		// leads to, and those in which one does are entered with a new one.
		g.set(stateMask|cordonBit|touchedBit|wantedBit, stateField(to))
	}
	g.unlock(ok)
	return ok
}

func (g *Gate) closing() bool { s := g.State(); return s == StateStopping || s == StateSuspending }

// set replaces fields of the word and turns it; the counts beside them may move meanwhile. g.mu is
// held, so the state and the cordon cannot.
func (g *Gate) set(clear, set uint64) {
	for {
		w := g.word.Load()
		if g.word.CompareAndSwap(w, (w&^clear|set)+turnUnit) {
			return
		}
	}
}

// AfterRun has f called once when the run of that epoch has ended: when the machine is stopped,
// suspended or failed, or its process is known to have ended while it was being stopped. f is
// called at once where that is so already, else on the goroutine that tells the gate; it must not
// block. stop has it not called any more.
func (g *Gate) AfterRun(epoch uint64, f func()) (stop func()) {
	g.mu.Lock()
	over := epoch != g.epoch.Load() || g.over()
	if !over {
		if g.after == nil {
			g.after = map[*func()]struct{}{}
		}
		g.after[&f] = struct{}{}
	}
	g.mu.Unlock()
	if over {
		f()
	}
	return func() {
		g.mu.Lock()
		delete(g.after, &f)
		g.mu.Unlock()
	}
}

// over reports whether the present run has ended; g.mu is held.
func (g *Gate) over() bool { return g.State() != StateStarted && (!g.closing() || g.op.ended) }

func (g *Gate) unlock(changed bool) {
	var after map[*func()]struct{}
	if len(g.after) > 0 && g.over() {
		after, g.after = g.after, nil
	}
	g.mu.Unlock()
	for f := range after {
		(*f)()
	}
	if changed && g.changed != nil {
		g.changed()
	}
}
