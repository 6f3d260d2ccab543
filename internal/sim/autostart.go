package sim

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/balance"
)

// Wakes is a world for autostart: an app that sleeps is woken again and again by edges which share
// a demand. The policies and the gates are the real ones. Rows reach each edge late, and
// simultaneous commands meet at the owner.
type Wakes struct {
	Boot   time.Duration // median of the boots, which are lognormal
	Sigma  float64
	Edges  int
	Soft   int     // limit of a machine
	Demand int     // requests in all, spread over the edges
	Before int     // of them, while the app runs already: the rest is a crowd. 0: it sleeps
	Told   bool    // edges learn each other's demand, 200 ms late; else all reports are lost
	Dead   float64 // share of the starts that never become ready, and report nothing
	Wakes  int
	// Policy returns the policy of an edge.
	Policy func(edge int) policy.Policy
}

// WakesResult is the outcome of the wakes.
type WakesResult struct {
	Needed, Started int // machines, over all wakes; without hedged starts
	Hedged, Died    int
	Served          []time.Duration // until the capacity that was needed is available, sorted
	Excess          []float64       // the same over the longest boot that was needed, sorted
}

// Ratio returns the machines started per machine needed.
func (r *WakesResult) Ratio() float64 { return float64(r.Started) / float64(r.Needed) }

// bootCap is when an owner gives up a start.
const bootCap = 10 * time.Minute

// wakesMachine is one machine as its owner knows it, with its past rows.
type wakesMachine struct {
	gate  *balance.Gate
	token uint64
	ready time.Time // when its start ends; zero when it does not run
	dead  bool
	boot  time.Duration
	past  []wakesRow // its earlier rows, oldest first
}

type wakesRow struct {
	at  time.Time
	row *balance.Machine
}

// wakesEdge is one node.
type wakesEdge struct {
	policy  policy.Policy
	lag     time.Duration // of rows
	from    time.Duration // its share of the demand begins this long after the wake
	answers []policy.Answer
	rows    []*balance.Machine
}

// wakesRun is one run.
type wakesRun struct {
	w        Wakes
	app      balance.App
	machines []*wakesMachine
	edges    []*wakesEdge
	now      time.Time
	boots    *rng
	order    *rng
	result   WakesResult
	used     []time.Duration // boots of the present wake
}

// RunWakes runs the world.
func RunWakes(w Wakes, seed uint64) WakesResult {
	r := &wakesRun{
		w: w, boots: newRng(seed, forBoots, 0), order: newRng(seed, forWorld, 0), now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		app: balance.App{ID: "web", Autostart: true, Limits: balance.Limits{Soft: w.Soft}},
	}
	for i := range 40 {
		g, err := balance.NewGate(r.app.Limits)
		if err != nil {
			panic(err)
		}
		m := &wakesMachine{gate: g}
		m.past = []wakesRow{
			{
				r.now,
				&balance.Machine{ID: balance.MachineID(fmt.Sprintf("m%d", i)), App: "web", Region: "nrt"},
			},
		}
		r.machines = append(r.machines, m)
	}
	for i := range w.Edges {
		r.edges = append(
			r.edges, &wakesEdge{policy: w.Policy(i), rows: make([]*balance.Machine, len(r.machines))},
		)
	}
	for range w.Wakes {
		r.wake()
	}
	slices.Sort(r.result.Served)
	slices.Sort(r.result.Excess)
	return r.result
}

// note records the new state of a machine.
func (r *wakesRun) note(m *wakesMachine) {
	l := m.gate.Load()
	row := *m.past[len(m.past)-1].row
	row.State, row.Epoch, row.Cordon, row.CordonGen = l.State, l.Epoch, l.Cordon, l.CordonGen
	m.past = append(m.past, wakesRow{r.now, &row})
}

// seen returns a machine's row as it is seen from that far behind.
func (m *wakesMachine) seen(at time.Time) *balance.Machine {
	for i := len(m.past) - 1; i > 0; i-- {
		if !m.past[i].at.After(at) {
			return m.past[i].row
		}
	}
	return m.past[0].row
}

func (r *wakesRun) running() (n int) {
	for _, m := range r.machines {
		if m.gate.State() == balance.StateStarted {
			n++
		}
	}
	return n
}

// wake runs one wake: demand comes, is served for a while, and goes; then everything sleeps again.
func (r *wakesRun) wake() {
	w := &r.w
	need := (w.Demand + w.Soft - 1) / w.Soft
	r.used = r.used[:0]
	step := max(w.Boot/60, 50*time.Millisecond)
	for i, e := range r.edges {
		e.lag = time.Duration(20+r.order.intn(300)) * time.Millisecond
		e.from = 0
		if i > 0 { // the first one's requests cause the wake
			e.from = time.Duration(r.order.float64() * float64(w.Boot) / 2)
		}
	}
	running := 0
	if w.Before > 0 {
		for r.demand(w.Before, time.Hour); r.running() < (w.Before+w.Soft-1)/w.Soft; {
			r.demand(w.Before, time.Hour)
			r.pass(step)
		}
		for range 10 { // reports arrive
			r.demand(w.Before, time.Hour)
			r.pass(step)
		}
		running = r.running()
		for _, e := range r.edges {
			e.from = 0
		}
	}
	r.used = r.used[:0]
	began := r.now
	served := false
	for i := 0; !served; i++ {
		r.demand(w.Demand, r.now.Sub(began))
		if r.pass(step); r.running() >= need || i > 1e6 {
			served = true
		}
	}
	r.result.Needed += need
	took := r.now.Sub(began)
	r.result.Served = append(r.result.Served, took)
	slices.Sort(r.used)
	if k := need - running - 1; k >= 0 && k < len(r.used) {
		r.result.Excess = append(r.result.Excess, float64(took)/float64(r.used[k]))
	}
	// Boots that nobody waits for any more may still end: decisions made meanwhile count.
	for end := r.now.Add(2*w.Boot + time.Second); r.now.Before(end); {
		r.demand(w.Demand, r.now.Sub(began))
		r.pass(step)
	}
	r.sleep()
}

// demand lets all edges decide; at is the time since the demand began.
func (r *wakesRun) demand(total int, at time.Duration) {
	type command struct {
		e     *wakesEdge
		m     balance.Machine
		hedge bool
	}
	var out []command
	up := r.running() > 0
	for i, e := range r.edges {
		own := total / len(r.edges)
		if i < total%len(r.edges) {
			own++
		}
		others := 0
		if at < e.from {
			own = 0
		}
		if r.w.Told && at >= 200*time.Millisecond {
			others = total - own
		}
		for k, m := range r.machines {
			e.rows[k] = m.seen(r.now.Add(-e.lag))
		}
		in := policy.Input{
			App: r.app, Machines: e.rows, Regions: []string{"nrt"}, Others: []int{others},
			Answers: e.answers, Rand: r.order.uint64(),
		}
		if in.Parked = own; up {
			in.InFlight, in.Parked = own, 0
		}
		e.answers = nil
		d := e.policy.Plan(r.now, in)
		for k, m := range d.Start {
			out = append(out, command{e, m, d.Hedge && k == len(d.Start)-1})
		}
	}
	for len(out) > 0 { // they arrive in any order
		k := r.order.intn(len(out))
		c := out[k]
		out[k] = out[len(out)-1]
		out = out[:len(out)-1]
		c.e.answers = append(
			c.e.answers, policy.Answer{At: r.now, Machine: c.m, Start: r.start(c.m, c.hedge)},
		)
	}
}

// start is the owner's handling of a start command.
func (r *wakesRun) start(want balance.Machine, hedge bool) balance.StartAnswer {
	for _, m := range r.machines {
		if m.past[0].row.ID != want.ID {
			continue
		}
		token, answer := m.gate.Start(want.Epoch)
		if answer != balance.StartAccepted {
			return answer
		}
		normal := math.Sqrt(2*r.boots.exp()) * math.Cos(2*math.Pi*r.boots.float64())
		m.boot = time.Duration(float64(r.w.Boot) * math.Exp(r.w.Sigma*normal))
		m.token, m.ready, m.dead = token, r.now.Add(m.boot), r.boots.float64() < r.w.Dead
		if m.dead {
			r.result.Died++
		} else {
			r.used = append(r.used, m.boot)
		}
		if hedge {
			r.result.Hedged++
		} else {
			r.result.Started++
		}
		r.note(m)
		return answer
	}
	return balance.StartRefused
}

// pass lets time pass and ends boots in order, each at its own time.
func (r *wakesRun) pass(d time.Duration) {
	end := r.now.Add(d)
	for {
		var next *wakesMachine
		at := end
		for _, m := range r.machines {
			if m.gate.State() != balance.StateStarting {
				continue
			}
			when := m.ready
			if m.dead {
				when = m.ready.Add(bootCap - m.boot)
			}
			if !when.After(at) {
				next, at = m, when
			}
		}
		if next == nil {
			r.now = end
			return
		}
		if at.After(r.now) {
			r.now = at
		}
		if next.dead {
			next.gate.Fail(next.token)
		} else {
			next.gate.Ready(next.token)
		}
		r.note(next)
		if next.dead {
			continue
		}
		if need := (r.w.Demand + r.w.Soft - 1) / r.w.Soft; r.running() == need {
			return // the moment that is measured
		}
	}
}

// sleep stops all machines and lets the edges see it.
func (r *wakesRun) sleep() {
	for _, m := range r.machines {
		switch m.gate.State() {
		case balance.StateStarting: // it ends in the meantime
			if m.dead {
				m.gate.Fail(m.token)
				r.note(m)
				continue
			}
			m.gate.Ready(m.token)
			r.note(m)
		case balance.StateStarted:
		default:
			continue
		}
		r.now = r.now.Add(time.Second)
		gen, _ := m.gate.Cordon()
		r.note(m)
		if token, ok := m.gate.Close(gen, false); ok {
			m.gate.Closed(token, false)
		}
		r.note(m)
	}
	for range 4 { // every row is seen before the next wake
		r.now = r.now.Add(time.Minute)
		r.demand(0, 0)
	}
	for _, m := range r.machines {
		m.past = append(m.past[:0], m.past[len(m.past)-1]) // nobody looks back further
	}
}
