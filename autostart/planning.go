package autostart

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/boots"
	"github.com/ebbkit/ebb/autostart/internal/waitroom"
	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/balance"
)

const (
	// policyWait is how long all other apps wait for a policy that is not ours: most answer in less,
	// and then a decision does not wait for its turn.
	policyWait = 5 * time.Millisecond
	// policyPatience is how long a policy may panic, or say nothing, until requests that only it could
	// help are sent away.
	policyPatience = time.Second
)

var errPolicySilent = fmt.Errorf("it has not come back for %v", policyPatience)

// planning decides for one app when its demand or its rows have changed. It is the planning
// goroutine's own.
type planning struct {
	q        *queue
	pace     waitroom.Pace
	last     input // what the last decision was made from
	quiet    bool  // the last decision found nothing to do and nothing under way
	rows     []*balance.Machine
	outliers []balance.MachineID
	leaving  waitroom.Leaving
	question *question // that the policy has not answered yet
	failing  time.Time // since when the policy has panicked each time; zero while it does not
}

// input is what tells one tick's question from the last one's.
type input struct {
	rows     *balance.Snapshot
	inFlight int
	parked   int
	alone    bool // one waits, and is not counted: see queue.counted
	outliers int
	others   int
}

// question is a question to a policy that is under way.
type question struct {
	since time.Time
	in    input
	off   bool         // autostart is off
	back  chan verdict // receives once; nil when the policy is ours
	told  bool         // that it takes too long
	late  atomic.Bool  // nobody waits for the answer, so that it has to announce itself
}

type verdict struct {
	d   policy.Decision
	err error
}

// rttUnknown is what a round trip is taken for that nobody has measured: few places are farther
// from each other.
const rttUnknown = 350 * time.Millisecond

// wanted reports whether a tick has to look at the app: there is demand or a minimum, and something
// is not as it was.
func (p *planning) wanted() bool {
	in, app := p.demand()
	if in.rows == nil ||
		in.inFlight+in.parked+in.others == 0 && app.Min == 0 && app.MinPerRegion == 0 {
		return false
	}
	return !p.quiet || in != p.last
}

// resting reports whether only news can make a difference to the app: a request or a change of its
// rows, both of which lead to a decision. Nothing of it runs, and the last decision left nothing
// under way.
func (p *planning) resting() bool {
	if p.question != nil || !p.quiet && p.last.rows != nil ||
		p.last.inFlight+p.last.parked+p.last.others > 0 ||
		p.last.alone {
		return false
	}
	for _, m := range p.rows {
		switch m.State {
		case balance.StateStopped, balance.StateSuspended, balance.StateFailed:
		default:
			return false
		}
	}
	return true
}

// demand reads what a decision depends on.
func (p *planning) demand() (in input, app balance.App) {
	rows, ok := p.q.a.balancer.Fleet().App(p.q.app)
	if !ok {
		return in, app
	}
	in.rows, app = rows, rows.App()
	// In flight before parked: what is handed over meanwhile is then missed, which the next look
	// repairs, and never counted twice, which would start a machine that nobody needs.
	p.outliers = p.outliers[:0]
	p.leaving.Begin()
	for m, c := range p.q.a.balancer.Loads(p.q.app) {
		if c.Tier == balance.TierFailing && m.Health != balance.HealthFailing {
			p.outliers = append(p.outliers, m.ID)
		}
		n := p.leaving.Look(m, c.Own, c.Told)
		if n == c.Own && c.SaidFull && p.q.a.config.Others == nil {
			n = max(n, c.Limits.Hard)
		}
		in.inFlight += n
	}
	p.leaving.End()
	in.outliers = len(p.outliers)
	in.parked, in.alone = p.counted()
	if p.q.a.config.Others != nil {
		if order := p.regions(rows); len(order) > 0 {
			in.others = p.leaving.Elsewhere(p.q.a.config.Others(p.q.app, order[0]))
		}
	}
	return in, app
}

// counted returns how many wait, for the planning goroutine. If it leaves one out that is being
// picked for, the dispatcher asks for another look afterwards: whoever comes alone would wait for
// the next tick otherwise. alone says that this is so.
func (p *planning) counted() (n int, alone bool) {
	p.q.picking.missed.Store(true) // before given, which the dispatcher changes before it looks here
	given := p.q.picking.given.Load()
	if given == 0 {
		p.q.picking.missed.Store(false)
	}
	n = max(0, int(p.q.parked.Load()-given))
	return n, n == 0 && given > 0
}

// regions returns the order of the regions for this node.
func (p *planning) regions(rows *balance.Snapshot) []string {
	nearest := p.q.a.balancer.Fleet().Region()
	if v, ok := p.q.a.balancer.View(p.q.app); ok && v.Regions() > 0 {
		if first := v.Region(0); first.Known {
			nearest = first.Name
		}
	}
	return policy.RegionOrder(rows.App(), nearest, rows.Regions())
}

// rtts returns the round trips to regions.
func (p *planning) rtts(regions []string) []time.Duration {
	rs := make([]time.Duration, len(regions))
	v, ok := p.q.a.balancer.View(p.q.app)
	for i, name := range regions {
		rs[i] = rttUnknown
		for k := 0; ok && k < v.Regions(); k++ {
			if of := v.Region(k); of.Name == name && of.Known {
				rs[i] = of.RTT
			}
		}
	}
	return rs
}

// plan decides for the present state; ok is false while the policy has not answered.
func (p *planning) plan(now time.Time) (d policy.Decision, ok bool) {
	if p.question != nil {
		return p.poll(now)
	}
	in, app := p.demand()
	if in.rows == nil {
		return policy.Decision{}, true
	}
	p.rows = p.rows[:0]
	for m := range in.rows.All() {
		p.rows = append(p.rows, m)
	}
	input := policy.Input{
		App: app, Machines: p.rows, InFlight: in.inFlight, Parked: in.parked, Forced: p.q.forced(),
		Outliers: slices.Clone(p.outliers), Rand: rand.Uint64(),
	}
	input.Unserved = p.q.unserved.Swap(false)
	if !p.q.a.decides() {
		input.App.Autostart = false // rows teach how long boots take all the same
	} else {
		input.Regions = p.regions(in.rows)
		input.RTT = p.rtts(input.Regions)
	}
	if others := p.q.a.config.Others; others != nil {
		for i, r := range input.Regions {
			n := others(p.q.app, r)
			if i == 0 {
				n = p.leaving.Elsewhere(n)
			}
			input.Others = append(input.Others, n)
		}
	}
	p.last, p.quiet = in, false
	return p.decide(now, &question{since: now, in: in, off: !input.App.Autostart}, input)
}

// decide asks the policy; ok is false when the answer is still to come. Ours are asked here and
// now. Another may do anything: it has a goroutine of its own, and whatever it does stops the
// planning of its own app only.
func (p *planning) decide(
	now time.Time, t *question, in policy.Input,
) (d policy.Decision, ok bool) {
	if p.q.policy.make(); p.q.policy.ours {
		d, err := p.q.policy.ask(now, in)
		return p.conclude(now, t, verdict{d, err}), true
	}
	t.back = make(chan verdict, 1)
	p.question = t
	go func() {
		d, err := p.q.policy.ask(now, in)
		t.back <- verdict{d, err}
		if t.late.Load() {
			p.q.a.poke(p.q)
		}
	}()
	patience := time.NewTimer(policyWait)
	defer patience.Stop()
	select {
	case v := <-t.back:
		return p.conclude(now, t, v), true
	case <-patience.C:
		t.late.Store(true)
		return p.poll(now) // it may have come before that
	}
}

// poll looks whether a question that is under way has been answered.
func (p *planning) poll(now time.Time) (d policy.Decision, ok bool) {
	t := p.question
	select {
	case v := <-t.back:
		return p.conclude(now, t, v), true
	default:
	}
	if now.Sub(t.since) < policyPatience {
		return policy.Decision{}, false
	}
	if !t.told {
		t.told = true
		p.q.a.config.Trace.policyFailed(p.q.app, errPolicySilent)
	}
	d = p.fallback("its policy does not answer")
	p.forecast(now, t, d)
	return d, true
}

// conclude takes in what the policy said. One that panics decides nothing, and is asked again.
func (p *planning) conclude(now time.Time, t *question, v verdict) policy.Decision {
	p.question = nil
	d := v.d
	switch {
	case v.err == nil:
		p.failing = time.Time{}
	default:
		p.q.a.config.Trace.policyFailed(p.q.app, v.err)
		if p.failing.IsZero() {
			p.failing = now
		}
		if d = (policy.Decision{Wait: boots.WaitMin}); now.Sub(p.failing) >= policyPatience {
			d = p.fallback("its policy fails")
		}
	}
	d.App = p.q.app
	p.forecast(now, t, d)
	return d
}

// fallback is the decision for an app whose policy is of no help: what nothing serves is sent away,
// and told why. What runs and starts goes on.
func (p *planning) fallback(why string) policy.Decision {
	d := policy.Decision{App: p.q.app, Wait: boots.WaitMin}
	rows, ok := p.q.a.balancer.Fleet().App(p.q.app)
	if !ok || p.q.waits() == 0 {
		return d
	}
	for m := range rows.All() {
		if (m.State == balance.StateStarted || m.State == balance.StateStarting) &&
			m.Cordon != balance.CordonHard {
			return d
		}
	}
	d.Refuse, d.RetryAfter = why, policyPatience
	return d
}

// forecast notes what a decision says to those who wait.
func (p *planning) forecast(now time.Time, t *question, d policy.Decision) {
	p.last, p.quiet = t.in, d.Settled
	o := &forecast{wait: d.Wait, refuse: d.Refuse, until: now.Add(d.RetryAfter), doubt: d.Doubt}
	if t.off {
		o.off, o.wait = true, boots.WaitMin
	}
	if d.Await > 0 {
		o.await = now.Add(d.Await)
	}
	if d.Remaining > 0 {
		o.coming = now.Add(d.Remaining)
	}
	p.q.view.Store(o)
}
