package cordon

import (
	"fmt"
	"slices"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// world is the state machine with its environment: the gate; a driver that is slow, fails and does
// not know; nodes that learn of a cordon late and whose requests and acknowledgements are late; a
// starter; machines that crash; an edge that recalls; and somebody who drains. Each action is one
// atomic step of one of them, in any order. Counters are renamed by rank and timers are armed or
// not, so that the space is finite.
type world struct {
	p     Machine
	queue [3]Command // given by the state machine and not yet carried out, in order
	gate  modelGate
	proc  proc
	op    call1 // the driver's, under way
	ans   call1 // its answer, on the way
	dup   call1 // the same once more, later
	drain drainState
	owed  bool // a start was promised during the stop
	left  bool // a cordon of a downscaler that was cut off
	late  bool // in that case: the driver's answer goes to the gate, not to the state machine
	// in that case: the driver did not know, and the gate is closed until the next downscaler takes
	// over
	doubt bool
	told  bool // all connections have been told
	// the machine ended by itself while its gate was closed, and the gate takes no exits then
	blind bool
	nodes [3]modelNode
}

type proc uint8

const (
	gone proc = iota
	running
	frozen
)

type drainState uint8

const (
	notDraining drainState = iota
	drainClosed
	drainStopping
)

type call1 struct {
	do    Act   // of an operation
	kind  event // of an answer
	token uint64
}

// modelGate is balance.Gate without its atomics; TestMachineWithGate runs the real one.
type modelGate struct {
	state                   balance.State
	cordon, touched, wanted bool
	gen, token              uint64
	n                       uint8
}

type modelNode struct {
	known uint64 // the generation it picks by
	ack   uint64 // its acknowledgement on the way
	acked uint64 // what the owner knows that it knows
	sent  uint64 // a request on the way: 1 + the generation it carries
}

func (g *modelGate) closing() bool {
	return g.state == balance.StateStopping || g.state == balance.StateSuspending
}

func (g *modelGate) clear(to balance.State) {
	g.state, g.cordon, g.touched, g.wanted = to, false, false, false
}

var (
	modelNow = time.Unix(1000, 0)
	far      = modelNow.Add(time.Hour)
)

// model explores.
type model struct {
	nodes    int
	quiet    time.Duration // Timing.Quiet
	orders   bool          // somebody orders stops
	cuts     bool          // the downscaler is cut off, and another starts
	suspends bool          // what firm orders want
	// answers that arrive twice, and both ways of stopping for every order: about four times the
	// states
	more  bool
	edges map[change]bool // of the diagram
	err   error
	next  func(label string, progress bool, w *world)
	after world // what do works on: there are millions
}

func (m *model) failf(format string, args ...any) {
	if m.err == nil {
		m.err = fmt.Errorf(format, args...)
	}
}

// feed steps the state machine and queues its command.
func (m *model) feed(w *world, in input) {
	from := w.p.phase
	c := w.p.step(modelNow, in)
	if from != w.p.phase || c.Do != ActNone {
		m.edges[change{from, in.event, w.p.phase, c.Do}] = true
	}
	if c.Do == ActNone || c.Do == ActAlarm {
		return
	}
	for i := range w.queue {
		if w.queue[i].Do == ActNone {
			c.Reason = ""
			w.queue[i] = c
			return
		}
	}
	m.failf("more than %d commands wait", len(w.queue))
}

// change is a line of the diagram.
type change struct {
	from phase
	by   event
	to   phase
	do   Act
}

func (c change) String() string {
	line := fmt.Sprintf("%v --%v--> %v", c.from, c.by, c.to)
	if c.do != ActNone {
		line += " " + c.do.String()
	}
	return line
}

// carryOut does what the first queued command says.
func (m *model) carryOut(w *world) {
	c := w.queue[0]
	copy(w.queue[:], w.queue[1:])
	w.queue[len(w.queue)-1] = Command{}
	g := &w.gate
	switch c.Do {
	case ActCordon:
		if g.state != balance.StateStarted || g.cordon {
			m.feed(w, input{event: onRefused, Token: c.Token})
			return
		}
		g.cordon, g.touched = true, false
		g.gen++
		m.feed(w, input{event: onCordoned, Token: c.Token, Gate: g.gen})
	case ActUncordon:
		if g.state == balance.StateStarted && g.cordon && g.gen == c.Gate {
			g.cordon, g.touched = false, false
		}
	case ActClose:
		if g.state != balance.StateStarted || !g.cordon || g.touched || g.n > 0 || g.gen != c.Gate {
			m.feed(w, input{event: onRefused, Token: c.Token})
			return
		}
		for i := range w.nodes[:m.nodes] {
			if w.nodes[i].known < g.gen && w.p.order == notOrdered {
				m.failf("the gate closed although node %d has not seen the cordon", i)
			}
		}
		g.token++
		g.state = balance.StateStopping
		if c.Suspend {
			g.state = balance.StateSuspending
		}
		m.feed(w, input{event: onClosed, Token: c.Token, Gate: g.token})
	case ActCloseNow:
		if w.p.order != firm && !w.p.wanted {
			m.failf("the gate closed over requests, and nobody ordered it")
		}
		if g.state != balance.StateStarted {
			m.feed(w, input{event: onRefused, Token: c.Token})
			return
		}
		g.token++
		g.state = balance.StateStopping
		m.feed(w, input{event: onClosed, Token: c.Token, Gate: g.token})
	case ActNotify:
		w.told = w.told || c.All
	case ActReopen:
		if !g.closing() || g.token != c.Gate {
			m.failf("Reopen with token %d of a gate that is %v with %d", c.Gate, g.state, g.token)
		}
		if w.proc == frozen {
			m.failf("a frozen machine was opened")
		}
		g.clear(balance.StateStarted)
		w.owed = false // it runs
	case ActStop, ActSuspend:
		if !g.closing() || g.n > 0 && (c.Do == ActSuspend || !w.told) || g.token != c.Gate {
			m.failf("%v of a gate that is %v with %d in flight", c.Do, g.state, g.n)
		}
		if w.op.do != ActNone || w.drain == drainStopping {
			m.failf("%v while the driver works on the machine", c.Do)
		}
		w.op = call1{do: c.Do, token: c.Token}
	case ActFinish:
		if !g.closing() || g.token != c.Gate {
			m.failf("Finish with token %d of a gate that is %v with %d", c.Gate, g.state, g.token)
		}
		if w.proc == running || w.proc == frozen && !c.Suspend {
			m.failf("a machine that is not gone was called stopped")
		}
		again := g.wanted
		g.clear(balance.StateStopped)
		if c.Suspend {
			g.state = balance.StateSuspended
		}
		if again {
			w.owed = false
			g.state = balance.StateStarting
		}
	}
}

// look does what the shell does on each look at a machine.
func (m *model) look(w *world, kind func(input)) {
	g := &w.gate
	switch w.p.phase {
	case phaseStopped, phaseActive:
		if g.state == balance.StateStarted {
			kind(input{event: onUp})
		} else {
			kind(input{event: onDown})
		}
	case phaseDraining:
		if g.n == 0 {
			kind(input{event: onIdle})
		}
	case phaseSoftCordoned, phaseNotifying:
		acked := true
		for _, n := range w.nodes[:m.nodes] {
			acked = acked && n.acked >= g.gen
		}
		switch {
		case g.state != balance.StateStarted:
			kind(input{event: onDown})
		case !g.cordon || g.gen != w.p.gate:
			kind(input{event: onUncordoned})
		case g.touched:
			kind(input{event: onTouched})
		default:
			if acked {
				kind(input{event: onAcknowledged, Gate: g.gen})
			}
			kind(input{event: onBusy})
			if g.n == 0 {
				kind(input{event: onIdle})
			} else {
				kind(input{event: onLingering}) // what is in flight may be connections, or not
			}
		}
	}
}

// act calls back with every world that one action makes of w. Progress actions are those that
// happen sooner or later without outside help.
func (m *model) act(w *world) {
	do := func(label string, progress bool, change func(w *world)) {
		n := &m.after
		*n = *w
		change(n)
		m.check(n)
		m.canon(n)
		m.next(label, progress, n)
	}
	feed := func(label string, progress bool, in input) {
		do(label, progress, func(w *world) { m.feed(w, in) })
	}
	if w.queue[0].Do != ActNone {
		do("carry out "+w.queue[0].Do.String(), true, m.carryOut)
	}
	if w.queue[1].Do == ActNone { // the shell never gets further ahead
		m.look(w, func(in input) { feed("look: "+in.event.String(), true, in) })
		feed("surplus: suspend", false, input{event: onSurplus, Suspend: true})
		feed("all idle", false, input{event: onSurplus, Suspend: true, Idle: true})
		feed("needed", false, input{event: onNeeded})
		if m.orders {
			feed("order", false, input{event: onOrdered})
			feed("firm order", false, input{event: onOrdered, Drain: time.Hour, Suspend: m.suspends})
			feed("withdrawn", false, input{event: onWithdrawn})
		}
		if m.more {
			feed(
				"firm order, the other way", false,
				input{event: onOrdered, Drain: time.Hour, Suspend: !m.suspends},
			)
			feed("surplus: stop", false, input{event: onSurplus})
		}
		for i, t := range w.p.timers() {
			if !t.IsZero() {
				do(timerNames[i], true, func(w *world) {
					*w.p.timers()[i] = modelNow
					m.feed(w, input{event: onTick})
				})
			}
		}
	}
	m.driver(w, do)
	if m.cuts {
		m.cutOff(w, do)
	}
	m.others(w, do)
	for i := range w.nodes[:m.nodes] {
		m.node(w, i, do)
	}
}

var timerNames = [...]string{"quiet ends", "the cordon or the driver's time ends", "back-off ends"}

// timers are those of which the model decides when they fire.
func (p *Machine) timers() []*time.Time { return []*time.Time{&p.quiet, &p.expires, &p.backoff} }

// cutOff ends the downscaler at any time and starts another, with its first actions.
func (m *model) cutOff(w *world, do func(string, bool, func(*world))) {
	g := w.gate
	anew := Machine{Config: w.p.Config}
	if w.queue[0].Do == ActNone {
		switch w.p.phase {
		case phaseSoftCordoned, phaseNotifying:
			do("cut off", false, func(w *world) { w.p, w.left = anew, true })
		case phaseDraining: // opened again
			do("cut off", false, func(w *world) {
				w.p, w.owed = anew, false
				w.gate.clear(balance.StateStarted)
			})
		case phaseSuspending, phaseStopping, phaseStuck:
			if w.op.do == ActNone && w.ans == (call1{}) {
				do("cut off", false, func(w *world) { w.p, w.doubt, w.dup = anew, true, call1{} })
			} else {
				do("cut off", false, func(w *world) { w.p, w.late, w.dup = anew, true, call1{} })
			}
		}
	}
	switch {
	case w.left && (g.state != balance.StateStarted || !g.cordon):
		do("nothing is left over", true, func(w *world) { w.left = false })
	case w.left && w.p.phase == phaseActive:
		do(
			"what is left over is released", true,
			func(w *world) { w.left, w.gate.cordon, w.gate.touched = false, false, false },
		)
	case w.doubt && w.p.phase == phaseStopped && g.closing():
		do("what is in doubt is taken up", true, func(w *world) {
			w.p.Adopt(modelNow, w.gate.token)
			w.doubt = false
		})
	case w.late && w.ans != (call1{}):
		do("answer arrives late", true, func(w *world) {
			a := w.ans
			w.ans, w.late = call1{}, false
			if w.doubt = a.kind != onDone; w.doubt {
				return
			}
			again := w.gate.wanted
			w.gate.clear(balance.StateStopped)
			if w.proc == frozen {
				w.gate.state = balance.StateSuspended
			}
			if again {
				w.owed = false
				w.gate.state = balance.StateStarting
			}
		})
	}
}

func (m *model) driver(w *world, do func(string, bool, func(*world))) {
	answer := func(label string, kind event, to proc) {
		do("driver: "+label, true, func(w *world) {
			w.ans, w.op, w.proc = call1{kind: kind, token: w.op.token}, call1{}, to
		})
	}
	if w.ans == (call1{}) {
		switch w.op.do {
		case ActStop:
			answer("stopped", onDone, gone)
			answer("in doubt", onUnknown, w.proc)
			answer("in doubt, but stopped", onUnknown, gone)
			if w.proc != gone {
				answer("cannot stop", onFailed, w.proc)
			}
		case ActSuspend:
			if w.proc == running {
				answer("suspended", onDone, frozen)
				answer("in doubt, but suspended", onUnknown, frozen)
			}
			answer("cannot suspend", onFailed, w.proc)
			answer("in doubt", onUnknown, w.proc)
		}
	}
	if w.ans != (call1{}) && !w.late {
		do("answer arrives", true, func(w *world) {
			a := w.ans
			if w.ans = (call1{}); m.more {
				w.dup = a
			}
			m.feed(w, input{event: a.kind, Token: a.token})
		})
	}
	if w.dup != (call1{}) {
		do("answer arrives again", true, func(w *world) {
			a := w.dup
			w.dup = call1{}
			m.feed(w, input{event: a.kind, Token: a.token})
		})
	}
}

// others are the actions of the starter, chance, an edge that recalls, and a drain.
func (m *model) others(w *world, do func(string, bool, func(*world))) {
	g := w.gate
	switch {
	case g.state.Startable() && w.drain == notDraining:
		do("start", false, func(w *world) { w.gate.state = balance.StateStarting })
	case g.closing() && w.drain == notDraining:
		do("start remembered", false, func(w *world) { w.gate.wanted, w.owed = true, true })
	case g.state == balance.StateStarting:
		do("ready", true, func(w *world) { w.gate.state, w.proc = balance.StateStarted, running })
		do("start fails", true, func(w *world) { w.gate.state, w.proc = balance.StateFailed, gone })
	case g.state == balance.StateStarted:
		do(
			"drain closes", false,
			func(w *world) { w.gate.token++; w.gate.state, w.drain = balance.StateStopping, drainClosed },
		)
	}
	if w.proc != gone {
		do("crash", false, func(w *world) {
			w.proc = gone
			if w.gate.closing() {
				w.blind = true
			} else {
				w.gate.clear(balance.StateFailed)
			}
		})
	}
	if g.state == balance.StateStarted && g.cordon {
		do("recall", false, func(w *world) { w.gate.cordon, w.gate.touched = false, false })
	}
	if g.n > 0 {
		do("leave", true, func(w *world) { w.gate.n-- })
	}
	switch {
	case w.drain == drainClosed && g.n == 0:
		do("drain stops", true, func(w *world) { w.drain = drainStopping })
	case w.drain == drainStopping:
		do("drained", true, func(w *world) {
			w.gate.clear(balance.StateStopped)
			w.proc, w.drain, w.owed = gone, notDraining, false
		})
	}
}

func (m *model) node(w *world, i int, do func(string, bool, func(*world))) {
	n, g := w.nodes[i], w.gate
	label := func(s string) string { return s }
	if i > 0 {
		label = func(s string) string { return fmt.Sprint("node ", i, " ", s) }
	}
	if n.known < g.gen {
		do(label("node learns"), true, func(w *world) { w.nodes[i].known, w.nodes[i].ack = g.gen, g.gen })
	}
	if n.ack > 0 {
		do(label("node is heard"), true, func(w *world) { w.nodes[i].ack, w.nodes[i].acked = 0, n.ack })
	}
	if n.sent == 0 {
		do(label("node sends"), false, func(w *world) { w.nodes[i].sent = n.known + 1 })
		return
	}
	do(label("node is answered"), true, func(w *world) {
		w.nodes[i].sent = 0
		g := &w.gate
		if g.state != balance.StateStarted || int(g.n) >= m.nodes {
			return // bounced
		}
		g.n++
		g.touched = g.touched || g.cordon && n.sent-1 >= g.gen
	})
}

// check tests the invariants, which hold in every world.
func (m *model) check(w *world) {
	quiet := w.queue[0].Do == ActNone
	g := &w.gate
	switch p := w.p.phase; {
	case w.op.do != ActNone && (!g.closing() || g.n > 0 && !w.told):
		m.failf("the driver works behind a gate that is %v with %d in flight", g.state, g.n)
	case w.op.do != ActNone && p != phaseStopping && p != phaseSuspending && p != phaseStuck && !w.late:
		m.failf("the driver works on a machine that is %v", p)
	case quiet && (p == phaseActive || p == phaseStopped) && g.state == balance.StateStarted && g.cordon && !w.left:
		m.failf("a cordon is left on a machine that is %v", p)
	case quiet && (p == phaseActive || p == phaseStopped) && g.closing() && w.drain == notDraining && !w.late && !w.doubt:
		m.failf("a gate is left %v of a machine that is %v", g.state, p)
	case quiet && p == phaseStopped && w.owed && g.state.Startable():
		m.failf("a start was promised and not done")
	case g.state == balance.StateStarted && w.proc != running && !w.blind:
		m.failf("the gate is open and the machine does not run")
	}
}

// canon gives equal worlds equal values.
func (m *model) canon(w *world) {
	p := &w.p
	for _, t := range p.timers() {
		if !t.IsZero() {
			*t = far
		}
	}
	if p.phase != phaseActive || p.backoff.IsZero() || !modelNow.Before(p.backoff) {
		p.backoff, p.fault = time.Time{}, false
	}
	w.told = w.told && w.gate.closing()
	if !w.gate.closing() && (w.gate.state != balance.StateStarted || w.proc == running) {
		w.blind = false
	}
	p.calm, p.since, p.aborts, p.reason = time.Time{}, time.Time{}, 0, ""
	var genBuf, tokenBuf, gateBuf [24]*uint64
	gens, tokens, gates := genBuf[:0], tokenBuf[:0], gateBuf[:0]
	tokens = append(tokens, &p.token, &w.op.token, &w.ans.token, &w.dup.token)
	gens = append(gens, &w.gate.gen)
	gates = append(gates, &w.gate.token)
	if p.phase == phaseSoftCordoned || p.phase == phaseNotifying || p.phase == phaseClosing {
		gens = append(gens, &p.gate)
	} else {
		gates = append(gates, &p.gate)
	}
	for i := range w.queue {
		c := &w.queue[i]
		tokens = append(tokens, &c.Token)
		if c.Do == ActUncordon || c.Do == ActClose || c.Do == ActCloseNow {
			gens = append(gens, &c.Gate)
		} else {
			gates = append(gates, &c.Gate)
		}
	}
	for i := range w.nodes[:m.nodes] {
		n := &w.nodes[i]
		gens = append(gens, &n.known, &n.ack, &n.acked)
		if n.sent > 0 {
			n.sent-- // a generation like the others, and back below
			gens = append(gens, &n.sent)
		}
	}
	wasSent := [3]bool{}
	for i := range w.nodes[:m.nodes] {
		wasSent[i] = slices.Contains(gens, &w.nodes[i].sent)
	}
	rename(gens)
	rename(tokens)
	rename(gates)
	for i := range w.nodes[:m.nodes] {
		if wasSent[i] {
			w.nodes[i].sent++
		}
	}
	slices.SortFunc(w.nodes[:m.nodes], func(a, b modelNode) int { // nodes are interchangeable
		return slices.Compare(
			[]uint64{a.known, a.ack, a.acked, a.sent}, []uint64{b.known, b.ack, b.acked, b.sent},
		)
	})
}

// rename replaces numbers by their rank; 0, which means none, stays.
func rename(of []*uint64) {
	var buf [24]uint64
	sorted := buf[:0]
	for _, v := range of {
		sorted = append(sorted, *v)
	}
	sorted = append(sorted, 0)
	slices.Sort(sorted)
	sorted = slices.Compact(sorted)
	for _, v := range of {
		i, _ := slices.BinarySearch(sorted, *v)
		*v = uint64(i)
	}
}
