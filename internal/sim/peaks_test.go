package sim

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/balance"
	downpolicy "github.com/ebbkit/ebb/downscale/policy"
)

// noisy is an app under a steady load of short requests, with its planner, its decider and the
// gates of its machines.
type noisy struct {
	now      time.Time
	rand     *rand.Rand
	app      balance.App
	planner  *policy.Planner
	answers  []policy.Answer
	decider  *downpolicy.Decider
	machines []balance.Machine
	gates    []*balance.Gate
	ready    []time.Time // when those that are starting become ready
	token    []uint64
	flight   []flying
	next     time.Time
	starts   int
	blind    bool // the decider gets the requests in flight when it looks, and no peaks
}

type flying struct {
	ends time.Time
	at   int
}

const (
	noiseRate = 240                   // requests a second
	noiseStay = 50 * time.Millisecond // of a request: 12 in flight on average
	noiseBoot = 4 * time.Second
)

func newNoisy(c downpolicy.Config, blind bool, seed uint64) (*noisy, error) {
	d, err := downpolicy.NewDecider(c)
	if err != nil {
		return nil, err
	}
	n := &noisy{
		now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), rand: rand.New(rand.NewPCG(seed, 2)),
		app:     balance.App{ID: "web", Autostart: true, Autostop: balance.AutostopStop, MinPerRegion: 1},
		planner: new(policy.Planner), decider: d, blind: blind,
	}
	n.next = n.now
	const machines, running = 6, 3
	for i := range machines {
		limits := balance.Limits{Soft: 8, Hard: 16}
		g, err := balance.NewGate(limits)
		if err != nil {
			return nil, err
		}
		m := balance.Machine{
			ID: balance.MachineID(fmt.Sprint("m", i)), App: "web", Region: "r", Limits: limits,
		}
		if i < running {
			token, _ := g.Start(0)
			g.Ready(token)
			m.State, m.Epoch = balance.StateStarted, 1
		}
		n.machines, n.gates = append(n.machines, m), append(n.gates, g)
	}
	n.ready, n.token = make([]time.Time, machines), make([]uint64, machines)
	return n, nil
}

func (n *noisy) exponential(mean time.Duration) time.Duration {
	return time.Duration(n.rand.ExpFloat64() * float64(mean))
}

// requests advances time to now: requests that have ended leave, and new ones go to the machine
// with the fewest.
func (n *noisy) requests() {
	kept := n.flight[:0]
	for _, f := range n.flight {
		if f.ends.After(n.now) {
			kept = append(kept, f)
		} else {
			n.gates[f.at].Leave()
		}
	}
	n.flight = kept
	for ; !n.next.After(n.now); n.next = n.next.Add(n.exponential(time.Second / noiseRate)) {
		best := -1
		for i, g := range n.gates {
			if g.State() == balance.StateStarted && (best < 0 || g.InFlight() < n.gates[best].InFlight()) {
				best = i
			}
		}
		if best >= 0 {
			if _, b := n.gates[best].Enter(0, 0, 0); b == balance.BounceNone {
				n.flight = append(n.flight, flying{n.now.Add(n.exponential(noiseStay)), best})
			}
		}
	}
}

// plan is the edge's part: it starts what the present demand needs.
func (n *noisy) plan() {
	in := policy.Input{App: n.app, Regions: []string{"r"}, InFlight: len(n.flight), Answers: n.answers}
	n.answers = nil
	for i := range n.machines {
		if n.machines[i].State == balance.StateStarting && !n.now.Before(n.ready[i]) {
			n.gates[i].Ready(n.token[i])
			n.machines[i].State = balance.StateStarted
		}
		row := n.machines[i]
		in.Machines = append(in.Machines, &row)
	}
	for _, m := range n.planner.Plan(n.now, in).Start {
		i := int(m.ID[1] - '0')
		n.token[i], _ = n.gates[i].Start(n.machines[i].Epoch)
		n.answers = append(n.answers, policy.Answer{At: n.now, Machine: m, Start: balance.StartAccepted})
		n.machines[i].State, n.machines[i].Epoch, n.ready[i] = balance.StateStarting, n.machines[i].Epoch+1, n.now.Add(
			noiseBoot,
		)
		n.starts++
	}
}

// decide is the owner's part each second: it stops what the peaks of the window leave over.
func (n *noisy) decide() {
	s := downpolicy.Situation{App: n.app}
	for i, m := range n.machines {
		load, peak, used := n.gates[i].TakeSample()
		seen := downpolicy.Seen{
			ID: m.ID, Region: "r", Rank: m.Key().Rank(), State: m.State, Limits: m.Limits, Own: true,
			Load: load.InFlight, Owned: downpolicy.Owned{Used: used}, Peak: peak,
		}
		if n.blind {
			seen.Peak = 0
		}
		s.Machines = append(s.Machines, seen)
	}
	for _, d := range n.decider.Decide(n.now, s) {
		if d.Verdict != downpolicy.VerdictSpare {
			continue
		}
		i := int(d.Machine[1] - '0')
		if gen, ok := n.gates[i].Cordon(); ok {
			if token, ok := n.gates[i].Close(gen, false); ok {
				n.gates[i].Closed(token, false)
				n.machines[i].State = balance.StateStopped
			} else {
				n.gates[i].Uncordon(gen)
			}
		}
	}
}

// An hour of steady noise needs no more machines at its end than at its beginning: the planner and
// the decider use the same peaks. A decider that looks only once a second stops what the planner
// starts again.
func TestSteadyNoiseStartsNothingTwice(t *testing.T) {
	if raceEnabled {
		t.Skip("one goroutine: there is nothing to find for the race detector")
	}
	length := 20 * time.Minute
	if *full {
		length = time.Hour
	}
	for name, c := range map[string]downpolicy.Config{"cost": costs, "balanced": {}} {
		starts := map[bool]int{}
		for _, blind := range []bool{true, false} {
			n, err := newNoisy(c, blind, 1)
			if err != nil {
				t.Fatal(err)
			}
			const step = 2 * time.Millisecond
			for i := time.Duration(0); i < length; i += step {
				n.now = n.now.Add(step)
				n.requests()
				n.plan()
				if i%time.Second == time.Second-step {
					n.decide()
				}
			}
			starts[blind] = n.starts
		}
		t.Logf(
			"%v of steady noise, %s: %d starts by the peaks, %d by a look a second", length, name,
			starts[false], starts[true],
		)
		if starts[false] > 1 {
			t.Errorf("%s: %d starts in %v of steady noise, want at most 1", name, starts[false], length)
		}
		if name == "cost" && starts[true] <= 1 {
			t.Errorf("a look a second starts %d machines: this test finds nothing", starts[true])
		}
	}
}
