package autostart

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ebbkit/ebb/autostart/internal/boots"
	"github.com/ebbkit/ebb/autostart/internal/waitroom"
	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/balance"
)

// planning decides for one app when its demand or its rows have changed. Only the planning
// goroutine uses it.
type planning struct {
	r        *appRoom
	last     input // what the last decision was made from
	quiet    bool  // the last decision found nothing to do and nothing under way
	rows     []*balance.Machine
	outliers []balance.MachineID
	leaving  waitroom.Leaving
}

// input is what a decision depends on. A tick need not decide again on an equal input if the last
// decision left nothing under way.
type input struct {
	rows     *balance.Snapshot
	inFlight int
	parked   int
	alone    bool // one request waits, and is not counted: see planning.counted
	outliers int
	others   int
}

// rttUnknown stands for a round trip that nobody has measured: few places are farther apart.
const rttUnknown = 350 * time.Millisecond

// wanted reports whether a tick has to look at the app: there is demand or a minimum, and either
// the input has changed or the last decision left something under way.
func (p *planning) wanted() bool {
	in, app := p.demand()
	if in.rows == nil ||
		in.inFlight+in.parked+in.others == 0 && app.Min == 0 && app.MinPerRegion == 0 {
		return false
	}
	return !p.quiet || in != p.last
}

// look returns what a tick has to do about the app.
func (p *planning) look() waitroom.Look {
	switch {
	case p.wanted():
		return waitroom.LookAsk
	case p.resting():
		return waitroom.LookRest
	}
	return waitroom.LookStay
}

// resting reports whether ticks may skip the app: only a new request or a changed row can make a
// difference to it, and both lead to a decision. None of its machines runs, and the last decision
// left nothing under way.
func (p *planning) resting() bool {
	if !p.quiet && p.last.rows != nil ||
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
	rows, ok := p.r.a.balancer.Fleet().App(p.r.app)
	if !ok {
		return in, app
	}
	in.rows, app = rows, rows.App()
	// In flight is read before parked. A request that is handed over in between is then missed, which
	// the next look repairs; counted twice, it would start a machine that nobody needs.
	p.outliers = p.outliers[:0]
	p.leaving.Begin()
	for m, c := range p.r.a.balancer.Loads(p.r.app) {
		if c.Tier == balance.TierFailing && m.Health != balance.HealthFailing {
			p.outliers = append(p.outliers, m.ID)
		}
		n := p.leaving.Look(m, c.Own, c.Told)
		if n == c.Own && c.SaidFull && p.r.a.config.Others == nil {
			n = max(n, c.Limits.Hard)
		}
		in.inFlight += n
	}
	p.leaving.End()
	in.outliers = len(p.outliers)
	in.parked, in.alone = p.counted()
	if p.r.a.config.Others != nil {
		if order := p.regions(rows); len(order) > 0 {
			in.others = p.leaving.Elsewhere(p.r.a.config.Others(p.r.app, order[0]))
		}
	}
	return in, app
}

// counted returns how many requests wait, for the planning goroutine. It leaves out the one that
// the dispatcher is picking a machine for. The dispatcher then asks for another decision after the
// pick: a request that arrives alone would otherwise wait for the next tick. alone says that the
// only waiting request was left out.
func (p *planning) counted() (n int, alone bool) {
	// Set missed before reading given: the dispatcher changes given before it looks at missed.
	p.r.dispatcher.picking.missed.Store(true)
	given := p.r.dispatcher.picking.given.Load()
	if given == 0 {
		p.r.dispatcher.picking.missed.Store(false)
	}
	n = max(0, int(p.r.queue.parked.Load()-given))
	return n, n == 0 && given > 0
}

// regions returns the order of the regions for this node.
func (p *planning) regions(rows *balance.Snapshot) []string { return p.r.a.regions(rows) }

// rtts returns the round trips to regions.
func (p *planning) rtts(regions []string) []time.Duration {
	rs := make([]time.Duration, len(regions))
	v, ok := p.r.a.balancer.View(p.r.app)
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

// plan decides for the present state.
func (p *planning) plan(now time.Time) policy.Decision {
	in, app := p.demand()
	if in.rows == nil {
		return policy.Decision{}
	}
	p.rows = p.rows[:0]
	for m := range in.rows.All() {
		p.rows = append(p.rows, m)
	}
	input := policy.Input{
		App: app, Machines: p.rows, InFlight: in.inFlight, Parked: in.parked, Forced: p.r.queue.forced(),
		Outliers: slices.Clone(p.outliers), Rand: rand.Uint64(),
	}
	input.Unserved = p.r.unserved.Swap(false)
	if !p.r.a.decides() {
		input.App.Autostart = false // the policy still learns from the rows how long boots take
	} else {
		input.Regions = p.regions(in.rows)
		input.RTT = p.rtts(input.Regions)
	}
	if others := p.r.a.config.Others; others != nil {
		for i, r := range input.Regions {
			n := others(p.r.app, r)
			if i == 0 {
				n = p.leaving.Elsewhere(n)
			}
			input.Others = append(input.Others, n)
		}
	}
	d := p.r.policy.ask(now, input)
	d.App = p.r.app
	p.last, p.quiet = in, d.Settled
	p.forecast(now, d, !input.App.Autostart)
	return d
}

// forecast stores what a decision means for waiting requests. off says that autostart is off.
func (p *planning) forecast(now time.Time, d policy.Decision, off bool) {
	f := &waitroom.Forecast{
		Wait: d.Wait, Refuse: d.Refuse, Until: now.Add(d.RetryAfter), Doubt: d.Doubt,
	}
	if off {
		f.Off, f.Wait = true, boots.WaitMin
	}
	if d.Await > 0 {
		f.Await = now.Add(d.Await)
	}
	if d.Remaining > 0 {
		f.Coming = now.Add(d.Remaining)
	}
	p.r.outlook.forecast.Store(f)
}
