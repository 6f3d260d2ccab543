package downscale

import (
	"fmt"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
	"pgregory.net/rapid"
)

var testTiming = Timing{Quiet: sec, CordonMax: 30 * sec, Backoff: 60 * sec, StuckAfter: 120 * sec}

func TestProtocolStories(t *testing.T) {
	type step struct {
		at     time.Duration
		in     Kind
		edit   func(*Input)
		do     string // the command, with its generation or the gate's token where it has one
		reason string
		phase  Phase
	}
	suspend := func(in *Input) { in.Suspend = true }
	idle := func(in *Input) { in.Idle = true }
	stale := func(in *Input) { in.Token += 7 }
	gate := func(n uint64) func(*Input) { return func(in *Input) { in.Gate = n } }
	up := step{in: Up, phase: Active}
	cordon := []step{up, {in: Surplus, do: "Cordon", phase: SoftCordoned}, {in: Cordoned, edit: gate(5), phase: SoftCordoned}}
	acked := append(cordon[:3:3], step{at: sec, in: Acknowledged, edit: gate(5), phase: SoftCordoned})
	closed := append(acked[:4:4],
		step{at: sec, in: Idle, phase: SoftCordoned},
		step{at: 2 * sec, in: Tick, do: "Close 5", phase: Closing},
		step{at: 2 * sec, in: Closed, edit: gate(9), do: "Stop 9", phase: Stopping})
	suspending := []step{up, {in: Surplus, edit: suspend, do: "Cordon", phase: SoftCordoned}, {in: Cordoned, edit: gate(5), phase: SoftCordoned},
		{in: Acknowledged, edit: gate(5), phase: SoftCordoned}, {in: Idle, phase: SoftCordoned}, {at: sec, in: Idle, do: "Close 5", phase: Closing},
		{at: sec, in: Closed, edit: gate(9), do: "Suspend 9", phase: Suspending}}
	for _, story := range []struct {
		name   string
		before []step
		steps  []step
	}{
		{"the way down", closed, []step{
			{at: 3 * sec, in: Done, do: "Finish 9", phase: Stopped},
			{at: 9 * sec, in: Up, phase: Active},
		}},
		{"a request that knew the cordon aborts, and surplus waits for the back-off", acked, []step{
			{at: 2 * sec, in: Touched, do: "Uncordon 5", reason: "a request had no better machine", phase: Active},
			{at: 61 * sec, in: Surplus, phase: Active},
			{at: 62 * sec, in: Surplus, do: "Cordon", phase: SoftCordoned},
		}},
		{"the back-off doubles, and is forgotten in calm", acked, []step{
			{at: 0, in: Touched, do: "Uncordon 5", phase: Active},
			{at: 60 * sec, in: Surplus, do: "Cordon", phase: SoftCordoned},
			{at: 60 * sec, in: Cordoned, edit: gate(6), phase: SoftCordoned},
			{at: 60 * sec, in: Touched, do: "Uncordon 6", phase: Active},
			{at: 179 * sec, in: Surplus, phase: Active},
			{at: 180 * sec, in: Surplus, do: "Cordon", phase: SoftCordoned},
			{at: 180 * sec, in: Cordoned, edit: gate(7), phase: SoftCordoned},
			{at: 301 * sec, in: Touched, do: "Uncordon 7", phase: Active},
			{at: 361 * sec, in: Surplus, do: "Cordon", phase: SoftCordoned},
		}},
		{"an app that is idle altogether does not wait for the back-off", acked, []step{
			{at: 2 * sec, in: Touched, do: "Uncordon 5", phase: Active},
			{at: 3 * sec, in: Surplus, edit: idle, do: "Cordon", phase: SoftCordoned},
		}},
		{"no acknowledgement in time aborts", cordon, []step{
			{at: 29 * sec, in: Idle, phase: SoftCordoned},
			{at: 29 * sec, in: Tick, phase: SoftCordoned},
			{at: 30 * sec, in: Tick, do: "Uncordon 5", reason: "not every node acknowledged the cordon in time", phase: Active},
		}},
		{"an acknowledgement of another cordon is none", cordon, []step{
			{at: sec, in: Acknowledged, edit: gate(4), phase: SoftCordoned},
			{at: sec, in: Idle, phase: SoftCordoned},
			{at: 9 * sec, in: Tick, phase: SoftCordoned},
		}},
		{"an acknowledgement does not outlive its cordon", acked, []step{
			{at: 2 * sec, in: Needed, do: "Uncordon 5", phase: Active},
			{at: 3 * sec, in: Surplus, edit: idle, do: "Cordon", phase: SoftCordoned},
			{at: 3 * sec, in: Cordoned, edit: gate(6), phase: SoftCordoned},
			{at: 3 * sec, in: Idle, phase: SoftCordoned},
			{at: 9 * sec, in: Tick, phase: SoftCordoned},
		}},
		{"a long request outlasts the cordon", acked, []step{
			{at: 2 * sec, in: Busy, phase: SoftCordoned},
			{at: 30 * sec, in: Tick, do: "Uncordon 5", reason: "it did not become idle in time", phase: Active},
		}},
		{"quiet begins anew after each request", acked, []step{
			{at: 2 * sec, in: Idle, phase: SoftCordoned},
			{at: 2900 * time.Millisecond, in: Busy, phase: SoftCordoned},
			{at: 3 * sec, in: Idle, phase: SoftCordoned},
			{at: 3900 * time.Millisecond, in: Tick, phase: SoftCordoned},
			{at: 4 * sec, in: Tick, do: "Close 5", phase: Closing},
		}},
		{"the gate refuses to close: the cordon goes on, and still ends", acked, []step{
			{at: sec, in: Idle, phase: SoftCordoned},
			{at: 2 * sec, in: Tick, do: "Close 5", phase: Closing},
			{at: 2 * sec, in: Refused, phase: SoftCordoned},
			{at: 3 * sec, in: Tick, phase: SoftCordoned},
			{at: 30 * sec, in: Tick, do: "Uncordon 5", phase: Active},
		}},
		{"needed again", cordon, []step{
			{in: Needed, do: "Uncordon 5", reason: "because", phase: Active},
		}},
		{"somebody else ended the cordon", cordon, []step{
			{in: Uncordoned, phase: Active},
			{in: Surplus, phase: Active},
		}},
		{"it crashes while cordoned", cordon, []step{
			{in: Down, phase: Stopped},
			{in: Up, phase: Active},
			{in: Surplus, do: "Cordon", phase: SoftCordoned},
		}},
		{"the gate does not take the cordon", []step{up, {in: Surplus, do: "Cordon", phase: SoftCordoned}}, []step{
			{in: Refused, phase: Active},
		}},
		{"needed before the gate has taken the cordon", []step{up, {in: Surplus, do: "Cordon", phase: SoftCordoned}}, []step{
			{in: Needed, phase: SoftCordoned},
			{in: Cordoned, edit: gate(5), do: "Uncordon 5", phase: Active},
		}},
		{"stale answers change nothing", closed, []step{
			{at: 3 * sec, in: Done, edit: stale, phase: Stopping},
			{at: 3 * sec, in: Failed, edit: stale, phase: Stopping},
			{at: 3 * sec, in: Closed, edit: stale, phase: Stopping},
			{at: 3 * sec, in: Touched, phase: Stopping},
			{at: 3 * sec, in: Down, phase: Stopping},
		}},
		{"the driver cannot stop it: it runs on, and is left alone for a while", closed, []step{
			{at: 3 * sec, in: Failed, do: "Reopen 9", reason: "the driver could not stop it", phase: Active},
			{at: 4 * sec, in: Surplus, phase: Active},
		}},
		{"suspending", suspending, []step{
			{at: 2 * sec, in: Done, do: "Finish 9 suspended", phase: Stopped},
		}},
		{"who cannot suspend stops", suspending, []step{
			{at: 2 * sec, in: Failed, do: "Stop 9", phase: Stopping},
			{at: 3 * sec, in: Done, do: "Finish 9", phase: Stopped},
		}},
		{"a suspension in doubt is stopped, and not opened again", suspending, []step{
			{at: 2 * sec, in: Unknown, do: "Stop 9", phase: Stopping},
			{at: 3 * sec, in: Failed, do: "Alarm", phase: Stuck},
			{at: 123 * sec, in: Tick, do: "Stop 9", phase: Stopping},
			{at: 124 * sec, in: Done, do: "Finish 9", phase: Stopped},
		}},
		{"a stop in doubt is tried again", closed, []step{
			{at: 3 * sec, in: Unknown, do: "Alarm", phase: Stuck},
			{at: 122 * sec, in: Tick, phase: Stuck},
			{at: 123 * sec, in: Tick, do: "Stop 9", phase: Stopping},
			{at: 124 * sec, in: Unknown, do: "Alarm", phase: Stuck},
		}},
		{"an answer after the one that left it in doubt is none: the next try's counts", closed, []step{
			{at: 3 * sec, in: Unknown, do: "Alarm", phase: Stuck},
			{at: 4 * sec, in: Done, phase: Stuck},
			{at: 5 * sec, in: Failed, phase: Stuck},
			{at: 123 * sec, in: Tick, do: "Stop 9", phase: Stopping},
			{at: 124 * sec, in: Done, do: "Finish 9", phase: Stopped},
		}},
		{"a driver that is silent is an alarm, and its late answer counts", closed, []step{
			{at: 121 * sec, in: Tick, phase: Stopping},
			{at: 122 * sec, in: Tick, do: "Alarm", reason: "the driver does not answer", phase: Stuck},
			{at: 999 * sec, in: Tick, phase: Stuck},
			{at: 1000 * sec, in: Done, do: "Finish 9", phase: Stopped},
		}},
		{"time goes back and stands still", acked, []step{
			{at: 0, in: Idle, phase: SoftCordoned},
			{at: -9 * sec, in: Tick, phase: SoftCordoned},
			{at: 0, in: Tick, phase: SoftCordoned},
			{at: sec, in: Tick, do: "Close 5", phase: Closing},
		}},
	} {
		t.Run(story.name, func(t *testing.T) {
			p := NewProtocol(testTiming)
			start := time.Unix(0, 0)
			var token uint64
			for i, s := range append(story.before[:len(story.before):len(story.before)], story.steps...) {
				in := Input{Kind: s.in, Token: token, Reason: "because"}
				if s.edit != nil {
					s.edit(&in)
				}
				c := p.Step(start.Add(s.at), in)
				if c.Token != 0 {
					token = c.Token
				}
				got := ""
				if c.Do != None {
					got = c.Do.String()
				}
				if c.Gate > 0 {
					got += fmt.Sprint(" ", c.Gate)
				}
				if c.Do == Finish && c.Suspend {
					got += " suspended"
				}
				if got != s.do || p.Phase() != s.phase {
					t.Fatalf("step %d, %v at %v: %q and %v, want %q and %v", i, s.in, s.at, got, p.Phase(), s.do, s.phase)
				}
				if s.reason != "" && c.Reason != s.reason {
					t.Errorf("step %d, %v at %v: reason %q, want %q", i, s.in, s.at, c.Reason, s.reason)
				}
			}
		})
	}
}

// gateWorld runs a protocol with the real gate, a driver that keeps the machine's true state, and traffic.
type gateWorld struct {
	t       *rapid.T
	p       Protocol
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

func (w *gateWorld) feed(in Input) {
	for again := true; again; {
		before := w.p.token
		c := w.p.Step(w.now, in)
		if c.Token != 0 && c.Token <= before {
			w.t.Fatalf("token %d after %d", c.Token, before)
		}
		in, again = w.do(c)
	}
}

func (w *gateWorld) do(c Command) (Input, bool) {
	switch c.Do {
	case Cordon:
		gen, ok := w.gate.Cordon()
		if !ok {
			return Input{Kind: Refused, Token: c.Token}, true
		}
		w.acked, w.knew = false, false
		return Input{Kind: Cordoned, Token: c.Token, Gate: gen}, true
	case Uncordon:
		w.gate.Uncordon(c.Gate)
	case Close:
		token, ok := w.gate.Close(c.Gate, c.Suspend)
		if !ok {
			return Input{Kind: Refused, Token: c.Token}, true
		}
		if !w.acked && w.p.order == notOrdered {
			w.t.Fatal("the gate closed and not every node knew the cordon")
		}
		if w.knew {
			w.t.Fatal("the gate closed although a request came that knew the cordon")
		}
		return Input{Kind: Closed, Token: c.Token, Gate: token}, true
	case CloseNow:
		token, ok := w.gate.CloseNow()
		if !ok {
			return Input{Kind: Refused, Token: c.Token}, true
		}
		return Input{Kind: Closed, Token: c.Token, Gate: token}, true
	case Notify:
		w.told = c.All
	case Reopen:
		if w.frozen {
			w.t.Fatal("a frozen machine was opened")
		}
		w.gate.Reopen(c.Gate)
		w.owed = false
	case Stop, Suspend:
		if w.op.Do != None {
			w.t.Fatalf("%v while the driver is at %v", c.Do, w.op.Do)
		}
		w.op = c
	case Finish:
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
	return Input{}, false
}

func (w *gateWorld) look() {
	l, used := w.gate.Sample()
	switch {
	case w.p.Phase() == Draining && l.InFlight == 0:
		w.feed(Input{Kind: Idle})
	case (w.p.Phase() == SoftCordoned || w.p.Phase() == Notifying) && l.State == balance.StateStarted:
		if l.Cordon != balance.CordonSoft || l.CordonGen != w.p.Gen() {
			w.feed(Input{Kind: Uncordoned})
			return
		}
		if w.gate.Touched() {
			w.feed(Input{Kind: Touched})
			if w.p.Phase() != SoftCordoned && w.p.Phase() != Notifying {
				return
			} // a firm order goes on
		}
		if w.acked {
			w.feed(Input{Kind: Acknowledged, Gate: l.CordonGen})
		}
		if l.InFlight > 0 && !used && w.long {
			w.feed(Input{Kind: Lingering})
		} else if l.InFlight > 0 || used {
			w.feed(Input{Kind: Busy})
		} else {
			w.feed(Input{Kind: Idle})
		}
		w.feed(Input{Kind: Tick})
	case l.State == balance.StateStarted:
		w.feed(Input{Kind: Up})
	case w.p.Phase() <= Notifying:
		w.feed(Input{Kind: Down})
	default:
		w.feed(Input{Kind: Tick})
	}
}

func TestProtocolWithGate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		gate, err := balance.NewGate(balance.Limits{Soft: 2, Hard: 3})
		if err != nil {
			t.Fatal(err)
		}
		w := &gateWorld{t: t, p: NewProtocol(testTiming), gate: gate, now: time.Unix(0, 0)}
		inside := 0
		driverIs := func(kind Kind, change func()) func(*rapid.T) {
			return func(t *rapid.T) {
				if w.op.Do == None {
					t.Skip("nothing under way")
				}
				if gate.InFlight() > 0 && (w.op.Do == Suspend || !w.told) || gate.State() != balance.StateStopping && gate.State() != balance.StateSuspending {
					t.Fatalf("%v behind a gate that is %v with %d in flight", w.op.Do, gate.State(), gate.InFlight())
				}
				op := w.op
				if kind == Failed && (!w.running || w.frozen) {
					t.Skip("it does not run")
				}
				if change != nil {
					change()
				} else if op.Do == Suspend && kind == Done {
					w.frozen = w.running
				} else if kind == Done {
					w.running, w.frozen = false, false
				}
				w.op = Command{}
				w.feed(Input{Kind: kind, Token: op.Token})
				if rapid.Bool().Draw(t, "again") {
					w.feed(Input{Kind: kind, Token: op.Token})
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"surplus": func(t *rapid.T) {
				w.feed(Input{Kind: Surplus, Suspend: rapid.Bool().Draw(t, "suspend"), Idle: rapid.Bool().Draw(t, "idle")})
			},
			"needed": func(*rapid.T) { w.feed(Input{Kind: Needed}) },
			"order": func(t *rapid.T) {
				w.feed(Input{Kind: Ordered, Suspend: rapid.Bool().Draw(t, "suspend"), Drain: time.Duration(rapid.IntRange(0, 2).Draw(t, "drain")) * 30 * sec})
			},
			"withdraw": func(*rapid.T) { w.feed(Input{Kind: Withdrawn}) },
			"long":     func(*rapid.T) { w.long = !w.long },
			"look":     func(*rapid.T) { w.look() },
			"ack":      func(*rapid.T) { w.acked = true },
			"time":     func(t *rapid.T) { w.now = w.now.Add(time.Duration(rapid.IntRange(-1, 20).Draw(t, "s")) * sec) },
			"request": func(t *rapid.T) {
				gen := gate.Load().CordonGen
				old := uint64(rapid.IntRange(0, 1).Draw(t, "old"))
				if _, b := gate.Admit(0, gen-min(gen, old)); b == balance.BounceNone {
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
			"stopped":    driverIs(Done, nil),
			"cannot":     driverIs(Failed, nil),
			"doubt":      driverIs(Unknown, func() {}),
			"doubt done": driverIs(Unknown, func() { w.frozen = w.op.Do == Suspend && w.running; w.running = w.frozen }),
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
				if p := w.p.Phase(); p == Active || p == Stopped || p == SoftCordoned || p == Notifying {
					w.p = NewProtocol(testTiming)
					if l := gate.Load(); l.Cordon == balance.CordonSoft {
						gate.Uncordon(l.CordonGen)
					}
				}
			},
			"": func(t *rapid.T) {
				p := w.p.Phase()
				l := gate.Load()
				if l.InFlight != inside {
					t.Fatalf("%d inside, the gate says %d", inside, l.InFlight)
				}
				if (p == Active || p == Stopped) && (l.State == balance.StateStarted && l.Cordon != balance.CordonNone || l.State == balance.StateStopping || l.State == balance.StateSuspending) {
					t.Fatalf("%v, and the gate is %v with cordon %v", p, l.State, l.Cordon)
				}
				if w.owed && p == Stopped && l.State.Startable() {
					t.Fatal("a remembered start was forgotten")
				}
				if l.State == balance.StateStarted && (!w.running || w.frozen) {
					t.Fatal("the gate is open and the machine does not run")
				}
			},
		})
		// Faults end: whatever it was in the middle of, it comes to rest.
		w.acked = true
		for range inside {
			gate.Leave()
		}
		inside = 0
		for range 20 {
			w.now = w.now.Add(200 * sec)
			w.look()
			if w.op.Do != None {
				op := w.op
				w.op = Command{}
				w.frozen = op.Do == Suspend && w.running
				w.running = w.frozen
				w.feed(Input{Kind: Done, Token: op.Token})
			}
		}
		if l, p := gate.Load(), w.p.Phase(); p != Active && p != Stopped || l.Cordon != balance.CordonNone || l.State == balance.StateStopping || l.State == balance.StateSuspending {
			t.Fatalf("at the end %v, gate %+v", p, l)
		}
	})
}

func TestStepDoesNotAllocate(t *testing.T) {
	p := NewProtocol(testTiming)
	now := time.Unix(0, 0)
	if n := testing.AllocsPerRun(5000, func() { wayDown(&p, now) }); n != 0 {
		t.Errorf("%g allocations from started to stopped, want 0", n)
	}
}

// wayDown takes a protocol from stopped over active to stopped, in 8 steps.
func wayDown(p *Protocol, now time.Time) {
	p.Step(now, Input{Kind: Up})
	p.Step(now, Input{Kind: Cordoned, Token: p.Step(now, Input{Kind: Surplus, Reason: "x"}).Token, Gate: 1})
	p.Step(now, Input{Kind: Acknowledged, Gate: 1})
	p.Step(now, Input{Kind: Idle})
	c := p.Step(now.Add(sec), Input{Kind: Tick})
	c = p.Step(now.Add(sec), Input{Kind: Closed, Token: c.Token, Gate: 2})
	p.Step(now.Add(sec), Input{Kind: Done, Token: c.Token})
}

func BenchmarkStep(b *testing.B) {
	p := NewProtocol(testTiming)
	now := time.Unix(0, 0)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%8 == 0 { // one way down is 8 steps: this counts them one by one
			wayDown(&p, now)
		}
	}
}
