package cordon

import (
	"fmt"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
	"pgregory.net/rapid"
)

const sec = time.Second

var testConfig = Config{Quiet: sec, CordonMax: 30 * sec, Backoff: 60 * sec, StuckAfter: 120 * sec}

func TestMachineStories(t *testing.T) {
	type step struct {
		at     time.Duration
		in     event
		edit   func(*input)
		do     string // the command, with its generation or the gate's token where it has one
		reason string
		phase  phase
	}
	suspend := func(in *input) { in.Suspend = true }
	idle := func(in *input) { in.Idle = true }
	stale := func(in *input) { in.Token += 7 }
	gate := func(n uint64) func(*input) { return func(in *input) { in.Gate = n } }
	up := step{in: onUp, phase: phaseActive}
	cordon := []step{
		up, {in: onSurplus, do: "Cordon", phase: phaseSoftCordoned},
		{in: onCordoned, edit: gate(5), phase: phaseSoftCordoned},
	}
	acked := append(
		cordon[:3:3], step{at: sec, in: onAcknowledged, edit: gate(5), phase: phaseSoftCordoned},
	)
	closed := append(acked[:4:4],
		step{at: sec, in: onIdle, phase: phaseSoftCordoned},
		step{at: 2 * sec, in: onTick, do: "Close 5", phase: phaseClosing},
		step{at: 2 * sec, in: onClosed, edit: gate(9), do: "Stop 9", phase: phaseStopping})
	suspending := []step{up, {in: onSurplus, edit: suspend, do: "Cordon", phase: phaseSoftCordoned}, {in: onCordoned, edit: gate(5), phase: phaseSoftCordoned},
		{in: onAcknowledged, edit: gate(5), phase: phaseSoftCordoned}, {in: onIdle, phase: phaseSoftCordoned}, {at: sec, in: onIdle, do: "Close 5", phase: phaseClosing},
		{at: sec, in: onClosed, edit: gate(9), do: "Suspend 9", phase: phaseSuspending}}
	for _, story := range []struct {
		name   string
		before []step
		steps  []step
	}{
		{"the way down", closed, []step{
			{at: 3 * sec, in: onDone, do: "Finish 9", phase: phaseStopped},
			{at: 9 * sec, in: onUp, phase: phaseActive},
		}},
		{"a request that knew the cordon aborts, and surplus waits for the back-off", acked, []step{
			{at: 2 * sec, in: onTouched, do: "Uncordon 5", reason: "a request had no better machine", phase: phaseActive},
			{at: 61 * sec, in: onSurplus, phase: phaseActive},
			{at: 62 * sec, in: onSurplus, do: "Cordon", phase: phaseSoftCordoned},
		}},
		{"the back-off doubles, and is forgotten in calm", acked, []step{
			{at: 0, in: onTouched, do: "Uncordon 5", phase: phaseActive},
			{at: 60 * sec, in: onSurplus, do: "Cordon", phase: phaseSoftCordoned},
			{at: 60 * sec, in: onCordoned, edit: gate(6), phase: phaseSoftCordoned},
			{at: 60 * sec, in: onTouched, do: "Uncordon 6", phase: phaseActive},
			{at: 179 * sec, in: onSurplus, phase: phaseActive},
			{at: 180 * sec, in: onSurplus, do: "Cordon", phase: phaseSoftCordoned},
			{at: 180 * sec, in: onCordoned, edit: gate(7), phase: phaseSoftCordoned},
			{at: 301 * sec, in: onTouched, do: "Uncordon 7", phase: phaseActive},
			{at: 361 * sec, in: onSurplus, do: "Cordon", phase: phaseSoftCordoned},
		}},
		{"an app that is idle altogether does not wait for the back-off", acked, []step{
			{at: 2 * sec, in: onTouched, do: "Uncordon 5", phase: phaseActive},
			{at: 3 * sec, in: onSurplus, edit: idle, do: "Cordon", phase: phaseSoftCordoned},
		}},
		{"no acknowledgement in time aborts", cordon, []step{
			{at: 29 * sec, in: onIdle, phase: phaseSoftCordoned},
			{at: 29 * sec, in: onTick, phase: phaseSoftCordoned},
			{at: 30 * sec, in: onTick, do: "Uncordon 5", reason: "not every node acknowledged the cordon in time", phase: phaseActive},
		}},
		{"an acknowledgement of another cordon is none", cordon, []step{
			{at: sec, in: onAcknowledged, edit: gate(4), phase: phaseSoftCordoned},
			{at: sec, in: onIdle, phase: phaseSoftCordoned},
			{at: 9 * sec, in: onTick, phase: phaseSoftCordoned},
		}},
		{"an acknowledgement does not outlive its cordon", acked, []step{
			{at: 2 * sec, in: onNeeded, do: "Uncordon 5", phase: phaseActive},
			{at: 3 * sec, in: onSurplus, edit: idle, do: "Cordon", phase: phaseSoftCordoned},
			{at: 3 * sec, in: onCordoned, edit: gate(6), phase: phaseSoftCordoned},
			{at: 3 * sec, in: onIdle, phase: phaseSoftCordoned},
			{at: 9 * sec, in: onTick, phase: phaseSoftCordoned},
		}},
		{"a long request outlasts the cordon", acked, []step{
			{at: 2 * sec, in: onBusy, phase: phaseSoftCordoned},
			{at: 30 * sec, in: onTick, do: "Uncordon 5", reason: "it did not become idle in time", phase: phaseActive},
		}},
		{"quiet begins anew after each request", acked, []step{
			{at: 2 * sec, in: onIdle, phase: phaseSoftCordoned},
			{at: 2900 * time.Millisecond, in: onBusy, phase: phaseSoftCordoned},
			{at: 3 * sec, in: onIdle, phase: phaseSoftCordoned},
			{at: 3900 * time.Millisecond, in: onTick, phase: phaseSoftCordoned},
			{at: 4 * sec, in: onTick, do: "Close 5", phase: phaseClosing},
		}},
		{"the gate refuses to close: the cordon goes on, and still ends", acked, []step{
			{at: sec, in: onIdle, phase: phaseSoftCordoned},
			{at: 2 * sec, in: onTick, do: "Close 5", phase: phaseClosing},
			{at: 2 * sec, in: onRefused, phase: phaseSoftCordoned},
			{at: 3 * sec, in: onTick, phase: phaseSoftCordoned},
			{at: 30 * sec, in: onTick, do: "Uncordon 5", phase: phaseActive},
		}},
		{"needed again", cordon, []step{
			{in: onNeeded, do: "Uncordon 5", reason: "because", phase: phaseActive},
		}},
		{"somebody else ended the cordon", cordon, []step{
			{in: onUncordoned, phase: phaseActive},
			{in: onSurplus, phase: phaseActive},
		}},
		{"it crashes while cordoned", cordon, []step{
			{in: onDown, phase: phaseStopped},
			{in: onUp, phase: phaseActive},
			{in: onSurplus, do: "Cordon", phase: phaseSoftCordoned},
		}},
		{"the gate does not take the cordon", []step{up, {in: onSurplus, do: "Cordon", phase: phaseSoftCordoned}}, []step{
			{in: onRefused, phase: phaseActive},
		}},
		{"needed before the gate has taken the cordon", []step{up, {in: onSurplus, do: "Cordon", phase: phaseSoftCordoned}}, []step{
			{in: onNeeded, phase: phaseSoftCordoned},
			{in: onCordoned, edit: gate(5), do: "Uncordon 5", phase: phaseActive},
		}},
		{"stale answers change nothing", closed, []step{
			{at: 3 * sec, in: onDone, edit: stale, phase: phaseStopping},
			{at: 3 * sec, in: onFailed, edit: stale, phase: phaseStopping},
			{at: 3 * sec, in: onClosed, edit: stale, phase: phaseStopping},
			{at: 3 * sec, in: onTouched, phase: phaseStopping},
			{at: 3 * sec, in: onDown, phase: phaseStopping},
		}},
		{"the driver cannot stop it: it runs on, and is left alone for a while", closed, []step{
			{at: 3 * sec, in: onFailed, do: "Reopen 9", reason: "the driver could not stop it", phase: phaseActive},
			{at: 4 * sec, in: onSurplus, phase: phaseActive},
		}},
		{"suspending", suspending, []step{
			{at: 2 * sec, in: onDone, do: "Finish 9 suspended", phase: phaseStopped},
		}},
		{"who cannot suspend stops", suspending, []step{
			{at: 2 * sec, in: onFailed, do: "Stop 9", phase: phaseStopping},
			{at: 3 * sec, in: onDone, do: "Finish 9", phase: phaseStopped},
		}},
		{"a suspension in doubt is stopped, and not opened again", suspending, []step{
			{at: 2 * sec, in: onUnknown, do: "Stop 9", phase: phaseStopping},
			{at: 3 * sec, in: onFailed, do: "Alarm", phase: phaseStuck},
			{at: 123 * sec, in: onTick, do: "Stop 9", phase: phaseStopping},
			{at: 124 * sec, in: onDone, do: "Finish 9", phase: phaseStopped},
		}},
		{"a stop in doubt is tried again", closed, []step{
			{at: 3 * sec, in: onUnknown, do: "Alarm", phase: phaseStuck},
			{at: 122 * sec, in: onTick, phase: phaseStuck},
			{at: 123 * sec, in: onTick, do: "Stop 9", phase: phaseStopping},
			{at: 124 * sec, in: onUnknown, do: "Alarm", phase: phaseStuck},
		}},
		{"an answer after the one that left it in doubt is none: the next try's counts", closed, []step{
			{at: 3 * sec, in: onUnknown, do: "Alarm", phase: phaseStuck},
			{at: 4 * sec, in: onDone, phase: phaseStuck},
			{at: 5 * sec, in: onFailed, phase: phaseStuck},
			{at: 123 * sec, in: onTick, do: "Stop 9", phase: phaseStopping},
			{at: 124 * sec, in: onDone, do: "Finish 9", phase: phaseStopped},
		}},
		{"a driver that is silent is an alarm, and its late answer counts", closed, []step{
			{at: 121 * sec, in: onTick, phase: phaseStopping},
			{at: 122 * sec, in: onTick, do: "Alarm", reason: "the driver does not answer", phase: phaseStuck},
			{at: 999 * sec, in: onTick, phase: phaseStuck},
			{at: 1000 * sec, in: onDone, do: "Finish 9", phase: phaseStopped},
		}},
		{"time goes back and stands still", acked, []step{
			{at: 0, in: onIdle, phase: phaseSoftCordoned},
			{at: -9 * sec, in: onTick, phase: phaseSoftCordoned},
			{at: 0, in: onTick, phase: phaseSoftCordoned},
			{at: sec, in: onTick, do: "Close 5", phase: phaseClosing},
		}},
	} {
		t.Run(story.name, func(t *testing.T) {
			p := Machine{Config: testConfig}
			start := time.Unix(0, 0)
			var token uint64
			for i, s := range append(story.before[:len(story.before):len(story.before)], story.steps...) {
				in := input{event: s.in, Token: token, Reason: "because"}
				if s.edit != nil {
					s.edit(&in)
				}
				c := p.step(start.Add(s.at), in)
				if c.Token != 0 {
					token = c.Token
				}
				got := ""
				if c.Do != ActNone {
					got = c.Do.String()
				}
				if c.Gate > 0 {
					got += fmt.Sprint(" ", c.Gate)
				}
				if c.Do == ActFinish && c.Suspend {
					got += " suspended"
				}
				if got != s.do || p.phase != s.phase {
					t.Fatalf(
						"step %d, %v at %v: %q and %v, want %q and %v", i, s.in, s.at, got, p.phase, s.do, s.phase,
					)
				}
				if s.reason != "" && c.Reason != s.reason {
					t.Errorf("step %d, %v at %v: reason %q, want %q", i, s.in, s.at, c.Reason, s.reason)
				}
			}
		})
	}
}

// gateWorld runs a state machine with the real gate, a driver that keeps the machine's true
// state, and traffic.
type gateWorld struct {
	t       *rapid.T
	p       Machine
	gate    *balance.Gate
	now     time.Time
	running bool
	frozen  bool
	op      Command // at the driver
	starts  uint64  // token of a start under way
	owed    bool    // a start was remembered by the gate
	acked   bool    // every node knows the present cordon
	long    bool    // what is in flight are long connections
	told    bool    // all of them have been told
	knew    bool    // a request that knew the present cordon has been admitted
}

// follow carries out a command and those that follow from it.
func (w *gateWorld) follow(c Command) {
	for last := uint64(0); c.Do != ActNone; {
		if c.Token != 0 && c.Token <= last {
			w.t.Fatalf("token %d after %d", c.Token, last)
		}
		last = max(last, c.Token)
		c = w.do(c)
	}
}

func (w *gateWorld) do(c Command) Command {
	switch c.Do {
	case ActCordon:
		gen, ok := w.gate.Cordon()
		if !ok {
			return w.p.Failed(w.now, c)
		}
		w.acked, w.knew = false, false
		return w.p.Done(w.now, c, gen)
	case ActUncordon:
		w.gate.Uncordon(c.Gate)
	case ActClose:
		token, ok := w.gate.Close(c.Gate, c.Suspend)
		if !ok {
			return w.p.Failed(w.now, c)
		}
		if !w.acked && w.p.order == notOrdered {
			w.t.Fatal("the gate closed and not every node knew the cordon")
		}
		if w.knew {
			w.t.Fatal("the gate closed although a request came that knew the cordon")
		}
		return w.p.Done(w.now, c, token)
	case ActCloseNow:
		token, ok := w.gate.CloseNow()
		if !ok {
			return w.p.Failed(w.now, c)
		}
		return w.p.Done(w.now, c, token)
	case ActNotify:
		w.told = c.All
	case ActReopen:
		if w.frozen {
			w.t.Fatal("a frozen machine was opened")
		}
		w.gate.Reopen(c.Gate)
		w.owed = false
	case ActStop, ActSuspend:
		if w.op.Do != ActNone {
			w.t.Fatalf("%v while the driver is at %v", c.Do, w.op.Do)
		}
		w.op = c
	case ActFinish:
		if w.running && !w.frozen || w.frozen && !c.Suspend {
			w.t.Fatal("called stopped and still running")
		}
		again, ok := w.gate.Closed(c.Gate, c.Suspend)
		if !ok {
			w.t.Fatal("the gate was not ours to finish")
		}
		if again {
			w.owed = false
			w.starts, _ = w.gate.Start(w.gate.Load().Epoch)
		}
	}
	return Command{}
}

func (w *gateWorld) look() {
	l, _, used := w.gate.TakeSample()
	look := Look{
		Up: l.State == balance.StateStarted, Cordoned: l.Cordon == balance.CordonSoft, Gen: l.CordonGen,
		InFlight: l.InFlight, Used: used, Acked: w.acked, Touched: w.gate.Touched(),
	}
	if w.long {
		look.Tellable = l.InFlight
	}
	w.follow(w.p.Look(w.now, look))
}

func TestMachineWithGate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		gate, err := balance.NewGate(balance.Limits{Soft: 2, Hard: 3})
		if err != nil {
			t.Fatal(err)
		}
		w := &gateWorld{t: t, p: Machine{Config: testConfig}, gate: gate, now: time.Unix(0, 0)}
		inside := 0
		driverIs := func(answer event, change func()) func(*rapid.T) {
			return func(t *rapid.T) {
				if w.op.Do == ActNone {
					t.Skip("nothing under way")
				}
				if gate.InFlight() > 0 && (w.op.Do == ActSuspend || !w.told) ||
					gate.State() != balance.StateStopping && gate.State() != balance.StateSuspending {
					t.Fatalf(
						"%v behind a gate that is %v with %d in flight", w.op.Do, gate.State(), gate.InFlight(),
					)
				}
				op := w.op
				if answer == onFailed && (!w.running || w.frozen) {
					t.Skip("it does not run")
				}
				if change != nil {
					change()
				} else if op.Do == ActSuspend && answer == onDone {
					w.frozen = w.running
				} else if answer == onDone {
					w.running, w.frozen = false, false
				}
				w.op = Command{}
				w.follow(w.p.step(w.now, input{event: answer, Token: op.Token}))
				if rapid.Bool().Draw(t, "again") {
					w.follow(w.p.step(w.now, input{event: answer, Token: op.Token}))
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"surplus": func(t *rapid.T) {
				w.follow(
					w.p.Surplus(
						w.now, Order{Suspend: rapid.Bool().Draw(t, "suspend")}, rapid.Bool().Draw(t, "idle"),
					),
				)
			},
			"needed": func(*rapid.T) { w.follow(w.p.Needed(w.now, "")) },
			"order": func(t *rapid.T) {
				drain := time.Duration(rapid.IntRange(0, 2).Draw(t, "drain")) * 30 * sec
				w.follow(w.p.Order(w.now, Order{Suspend: rapid.Bool().Draw(t, "suspend"), Drain: drain}))
			},
			"withdraw": func(*rapid.T) { w.follow(w.p.Withdraw(w.now)) },
			"long":     func(*rapid.T) { w.long = !w.long },
			"look":     func(*rapid.T) { w.look() },
			"ack":      func(*rapid.T) { w.acked = true },
			"time":     func(t *rapid.T) { w.now = w.now.Add(time.Duration(rapid.IntRange(-1, 20).Draw(t, "s")) * sec) },
			"request": func(t *rapid.T) {
				gen := gate.Load().CordonGen
				old := uint64(rapid.IntRange(0, 1).Draw(t, "old"))
				if _, b := gate.Enter(0, 0, gen-min(gen, old)); b == balance.BounceNone {
					inside++
					w.knew = w.knew || gate.Load().Cordon == balance.CordonSoft && old == 0
				}
			},
			"leave": func(t *rapid.T) {
				if inside == 0 {
					t.Skip("nobody inside")
				}
				inside--
				gate.Leave()
			},
			"stopped":    driverIs(onDone, nil),
			"cannot":     driverIs(onFailed, nil),
			"doubt":      driverIs(onUnknown, func() {}),
			"doubt done": driverIs(onUnknown, func() { w.frozen = w.op.Do == ActSuspend && w.running; w.running = w.frozen }),
			"start": func(t *rapid.T) {
				token, a := gate.Start(gate.Load().Epoch)
				switch a {
				case balance.StartAccepted:
					w.starts = token
				case balance.StartRemembered:
					w.owed = true
				}
			},
			"ready": func(t *rapid.T) {
				if gate.Ready(w.starts) {
					w.running, w.frozen = true, false
				}
			},
			"recall": func(t *rapid.T) { gate.Uncordon(gate.Load().CordonGen) },
			"crash": func(t *rapid.T) {
				if s := gate.State(); s == balance.StateStopping || s == balance.StateSuspending {
					t.Skip("the gate takes no exits then")
				}
				if gate.Exited(gate.Load().Epoch, true) {
					w.running, w.frozen = false, false
				}
			},
			"run anew": func(t *rapid.T) { // what end and the next Run's first look do
				if p := w.p.phase; p == phaseActive || p == phaseStopped || p == phaseSoftCordoned ||
					p == phaseNotifying {
					w.p = Machine{Config: testConfig}
					if l := gate.Load(); l.Cordon == balance.CordonSoft {
						gate.Uncordon(l.CordonGen)
					}
				}
			},
			"": func(t *rapid.T) {
				p := w.p.phase
				l := gate.Load()
				if l.InFlight != inside {
					t.Fatalf("%d inside, the gate says %d", inside, l.InFlight)
				}
				if (p == phaseActive || p == phaseStopped) &&
					(l.State == balance.StateStarted && l.Cordon != balance.CordonNone || l.State == balance.StateStopping || l.State == balance.StateSuspending) {
					t.Fatalf("%v, and the gate is %v with cordon %v", p, l.State, l.Cordon)
				}
				if w.owed && p == phaseStopped && l.State.Startable() {
					t.Fatal("a remembered start was forgotten")
				}
				if l.State == balance.StateStarted && (!w.running || w.frozen) {
					t.Fatal("the gate is open and the machine does not run")
				}
			},
		})
		// Faults end: whatever the machine was in the middle of, it comes to rest.
		w.acked = true
		for range inside {
			gate.Leave()
		}
		inside = 0
		for range 20 {
			w.now = w.now.Add(200 * sec)
			w.look()
			if w.op.Do != ActNone {
				op := w.op
				w.op = Command{}
				w.frozen = op.Do == ActSuspend && w.running
				w.running = w.frozen
				w.follow(w.p.Done(w.now, op, 0))
			}
		}
		if l, p := gate.Load(), w.p.phase; p != phaseActive && p != phaseStopped ||
			l.Cordon != balance.CordonNone ||
			l.State == balance.StateStopping ||
			l.State == balance.StateSuspending {
			t.Fatalf("at the end %v, gate %+v", p, l)
		}
	})
}

func TestStepDoesNotAllocate(t *testing.T) {
	p := Machine{Config: testConfig}
	now := time.Unix(0, 0)
	if n := testing.AllocsPerRun(5000, func() { wayDown(&p, now) }); n != 0 {
		t.Errorf("%g allocations from started to stopped, want 0", n)
	}
}

// wayDown takes a machine from stopped through active to stopped, in 8 steps.
func wayDown(p *Machine, now time.Time) {
	p.step(now, input{event: onUp})
	p.step(
		now,
		input{event: onCordoned, Token: p.step(now, input{event: onSurplus, Reason: "x"}).Token, Gate: 1},
	)
	p.step(now, input{event: onAcknowledged, Gate: 1})
	p.step(now, input{event: onIdle})
	c := p.step(now.Add(sec), input{event: onTick})
	c = p.step(now.Add(sec), input{event: onClosed, Token: c.Token, Gate: 2})
	p.step(now.Add(sec), input{event: onDone, Token: c.Token})
}

func BenchmarkStep(b *testing.B) {
	p := Machine{Config: testConfig}
	now := time.Unix(0, 0)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%8 == 0 { // one run of wayDown is 8 steps: this counts them one by one
			wayDown(&p, now)
		}
	}
}

// A process that was itself suspended does not stop a machine because of what it saw before.
func TestACordonOfAnHourAgoEnds(t *testing.T) {
	m := Machine{Config: testConfig}
	m.Look(time.Unix(0, 0), Look{Up: true})
	m.Done(time.Unix(0, 0), m.Surplus(time.Unix(0, 0), Order{}, false), 1)
	c := m.Look(time.Unix(3600, 0), Look{Up: true, Cordoned: true, Gen: 1, Used: true})
	if c.Do != ActUncordon {
		t.Errorf("a cordon of an hour ago ends in %v, want Uncordon", c.Do)
	}
}
