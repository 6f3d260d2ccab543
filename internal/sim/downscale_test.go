package sim

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale/cordon"
	"github.com/ebbkit/ebb/downscale/policy"
	"github.com/ebbkit/ebb/downscale/policytest"
	"github.com/ebbkit/ebb/internal/scaledown"
)

// stopRule is a policy in the simulated day.
type stopRule struct {
	name string
	make func() (policy.Policy, error)
}

// Deciders that sleep early and run full, and that keep room for a load that comes back.
var (
	costs = policy.Config{
		Window: 2 * time.Minute, Headroom: 0.9, KeepAlive: time.Minute, Settle: 15 * time.Second,
	}
	latency = policy.Config{
		Window: 15 * time.Minute, Headroom: 0.7, KeepAlive: 30 * time.Minute, Settle: time.Minute,
	}
)

// documented is the rule that all others are compared with.
const documented = "documented"

func stopRules() []stopRule {
	decider := func(name string, c policy.Config) stopRule {
		return stopRule{name, func() (policy.Policy, error) { return policy.NewDecider(c) }}
	}
	sum := func(name string, headroom float64) stopRule {
		return stopRule{name, func() (policy.Policy, error) { return &sumRule{headroom: headroom}, nil }}
	}
	return []stopRule{
		{documented, func() (policy.Policy, error) { return &policytest.Excess{}, nil }},
		sum("sum <= rest", 1),
		sum("sum <= 0.8 rest", 0.8),
		decider("cost", costs),
		decider("balanced", policy.Config{}),
		decider("latency", latency),
	}
}

// sumRule looks every 3 min at the present load, without a window: for comparison only.
type sumRule struct {
	headroom float64
	last     time.Time
}

func (r *sumRule) Decide(now time.Time, s policy.Situation) []policy.Decision {
	if r.last.IsZero() {
		r.last = now
	}
	if now.Sub(r.last) < 3*time.Minute {
		return nil
	}
	r.last = now
	load, n, last := 0, 0, -1
	for i, m := range s.Machines {
		if load += m.Load; m.State == balance.StateStarted && !m.Leaving {
			n++
			last = i
		}
	}
	if n < 2 || float64(load) > r.headroom*float64((n-1)*daySoft) {
		return nil
	}
	return []policy.Decision{
		{App: s.App.ID, Region: dayRegion, Machine: s.Machines[last].ID, Verdict: policy.VerdictSpare},
	}
}

// TestDownscaleQuality bounds how often the default policy stops machines that must start again,
// and at what price, on a simulated day, and prints the results of all presets and rules.
func TestDownscaleQuality(t *testing.T) {
	if raceEnabled {
		t.Skip(
			"a day has one goroutine and nothing to find for the race detector, and half a day says little",
		)
	}
	days := 2
	if *full {
		days = 20
	}
	var (
		table strings.Builder
		of    = map[string]dayResult{}
	)
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "rule\tflaps\tstops\taborts\tmachine-hours\tof documented\tover soft\t")
	rules := stopRules()
	sums := make([]dayResult, len(rules))
	var wg sync.WaitGroup
	for k, rule := range rules {
		wg.Go(func() {
			for i := range days {
				stops, err := rule.make()
				if err != nil {
					t.Error(err)
					return
				}
				sums[k].add(runDay(stops, *seed+uint64(i)))
			}
		})
	}
	wg.Wait()
	for k, rule := range rules {
		r := sums[k].per(float64(days))
		of[rule.name] = r
		fmt.Fprintf(
			w, "%s\t%.1f\t%.1f\t%.1f\t%.1f\t%.2f\t%.0f s\t\n", rule.name, r.flaps, r.stops, r.aborts,
			r.hours, r.hours/of[documented].hours, r.over,
		)
	}
	w.Flush()
	t.Logf(
		"per day, %d days of %d machines with a soft limit of %d:\n%s", days, dayMachines, daySoft,
		&table,
	)
	ours, base := of["balanced"], of[documented]
	if ours.flaps > 1 {
		t.Errorf("%.1f stops a day are followed by a start within 5 min, want at most 1", ours.flaps)
	}
	if ours.hours > 1.15*base.hours {
		t.Errorf(
			"%.1f machine-hours a day, %.2f x those of the documented rule, want at most 1.15", ours.hours,
			ours.hours/base.hours,
		)
	}
	if base.flaps < 100 {
		t.Errorf("the documented rule flaps %.1f times a day: that is no test", base.flaps)
	}
	if cost, latency := of["cost"], of["latency"]; cost.hours > ours.hours ||
		ours.hours > latency.hours ||
		latency.over > ours.over ||
		cost.flaps > base.flaps/10 {
		t.Errorf(
			"the presets are not what they say: cost %+v, balanced %+v, latency %+v", cost, ours, latency,
		)
	}
}

// The simulated day: ten machines, and a load that swings between one and nine of them.
const (
	dayMachines = 10
	daySoft     = 20
	dayHard     = 60
	dayRegion   = "nrt"
	dayBoot     = 3 // seconds
	dayLate     = 5 // seconds by which the policy knows loads late
	daySeconds  = 24 * 60 * 60
	dayRequest  = 2.0 // seconds that a request takes on average
)

// dayResult is the result of a day; with per, on average.
type dayResult struct {
	flaps  float64 // stops that were followed by a start within 5 min
	stops  float64
	aborts float64 // cordons that ended in the machine running on
	hours  float64 // of machines that ran or booted
	over   float64 // seconds in which the load was above the soft limits of what was ready
}

func (r *dayResult) add(o dayResult) {
	r.flaps += o.flaps
	r.stops += o.stops
	r.aborts += o.aborts
	r.hours += o.hours
	r.over += o.over
}

func (r dayResult) per(n float64) dayResult {
	return dayResult{r.flaps / n, r.stops / n, r.aborts / n, r.hours / n, r.over / n}
}

type dayMachine struct {
	seen  policy.Seen
	core  scaledown.Machine
	epoch uint64
	gen   uint64
	load  int
	ready int            // second at which its boot ends
	op    cordon.Command // at the driver
	past  [dayLate + 1]int
}

// day is a day under way. The loop is the real one; gates are not needed, since requests are only a
// number here.
type day struct {
	dayResult
	app      *scaledown.App
	machines []dayMachine // in canonical order
	noise    *rng
	wander   float64
	t        int
	pending  []int // seconds of stops that no start has followed yet
}

func runDay(rule policy.Policy, seed uint64) dayResult {
	d := &day{
		app: scaledown.NewApp(rule), noise: newRng(seed, forWork, 0),
		machines: make([]dayMachine, dayMachines),
	}
	for i := range d.machines {
		id := balance.MachineID(fmt.Sprint("m", i))
		d.machines[i] = dayMachine{
			seen: policy.Seen{
				ID: id, Region: dayRegion, Rank: balance.MachineKey{App: "app", ID: id}.Rank(), State: balance.StateStopped, Own: true,
				Limits: balance.Limits{Soft: daySoft, Hard: dayHard},
			},
		}
		d.machines[i].core.Cordon.Config = cordon.Config{
			Quiet: time.Second, CordonMax: 30 * time.Second, Backoff: time.Minute,
			StuckAfter: time.Minute,
		}
	}
	slices.SortFunc(d.machines, func(a, b dayMachine) int {
		if a.seen.Rank < b.seen.Rank {
			return -1
		}
		return 1
	})
	for d.t = range daySeconds {
		d.second()
	}
	return d.dayResult
}

// demand returns the requests in flight: a sine over the day, the noise of requests that come and
// go, and bursts that last minutes.
func (d *day) demand() int {
	mean := 100 - 80*math.Cos(2*math.Pi*float64(d.t)/daySeconds)
	keep := math.Exp(-1 / (10 * dayRequest))
	gauss := math.Sqrt(2*d.noise.exp()) * math.Cos(2*math.Pi*d.noise.float64())
	d.wander = keep*d.wander + math.Sqrt(1-keep*keep)*gauss
	return max(0, int(math.Round(mean+math.Sqrt(mean)*d.wander)))
}

func (d *day) second() {
	now := epoch.Add(time.Duration(d.t) * time.Second)
	for i := range d.machines {
		d.operate(&d.machines[i], now)
	}
	d.serve(d.demand(), now)
	s := policy.Situation{App: balance.App{ID: app, Autostop: balance.AutostopStop}}
	for i := range d.machines {
		m := &d.machines[i]
		seen := m.seen
		m.core.See(now, &seen, m.seen.State)
		seen.Load, seen.Peak = m.past[d.t%len(m.past)], 0 // of dayLate seconds ago
		m.past[d.t%len(m.past)] = m.load
		s.Machines = append(s.Machines, seen)
		if m.seen.State != balance.StateStopped {
			d.hours += 1.0 / 3600
		}
	}
	decided, _ := d.app.Decide(now, s)
	for _, x := range decided {
		for i := range d.machines {
			if m := &d.machines[i]; m.seen.ID == x.Machine {
				d.follow(m, now, m.core.Act(now, x, &s))
			}
		}
	}
}

// serve spreads the load over the machines, starts what is missing, and counts.
func (d *day) serve(demand int, now time.Time) {
	var open, leaving []*dayMachine
	coming := 0
	for i := range d.machines {
		m := &d.machines[i]
		switch {
		case m.seen.State == balance.StateStarting:
			coming++
		case m.core.Cordon.Running():
			open = append(open, m)
		case m.core.Cordon.Leaving():
			leaving = append(leaving, m)
		}
		m.load /= 2 // requests left on a cordoned one end within seconds
	}
	// For load that does not fit below the soft limits a cordoned machine is recalled, or another
	// is started.
	for missing := (demand+daySoft-1)/daySoft - len(open) - coming; missing > 0 && len(leaving) > 0; missing-- {
		d.look(leaving[0], now, balance.CordonNone) // recalled
		d.aborts++
		open, leaving = append(open, leaving[0]), leaving[1:]
	}
	for i := range d.machines {
		if len(open)+coming >= (demand+daySoft-1)/daySoft {
			break
		}
		if m := &d.machines[i]; m.seen.State == balance.StateStopped {
			m.seen.State, m.ready = balance.StateStarting, d.t+dayBoot
			coming++
			for _, stop := range d.pending {
				if d.t-stop <= 300 {
					d.flaps++
				}
			}
			d.pending = d.pending[:0]
		}
	}
	if demand > len(open)*daySoft {
		d.over++
	}
	rest := demand
	for _, m := range leaving {
		rest -= m.load
	}
	for i, m := range open {
		m.load = max(0, rest) / len(open)
		if i < max(0, rest)%len(open) {
			m.load++
		}
	}
}

// operate does what the shell does on each look, and acts as the driver, which takes a second.
func (d *day) operate(m *dayMachine, now time.Time) {
	switch {
	case m.op.Do == cordon.ActStop:
		c := m.op
		m.op = cordon.Command{}
		d.follow(m, now, m.core.Cordon.Done(now, c, 0))
	case m.seen.State == balance.StateStarting && d.t >= m.ready:
		m.seen.State = balance.StateStarted
		m.epoch++
		d.look(m, now, balance.CordonNone)
	case m.core.Cordon.Running():
		d.look(m, now, balance.CordonNone)
	case m.core.Cordon.Leaving():
		d.look(m, now, balance.CordonSoft)
	}
}

// look is one look at a gate, with immediate acknowledgements.
func (d *day) look(m *dayMachine, now time.Time, is balance.Cordon) {
	c, _ := m.core.Look(now, scaledown.Look{
		Gate: balance.Load{
			State: m.seen.State, Epoch: m.epoch, InFlight: m.load, Cordon: is, CordonGen: m.gen,
		},
		Acked: true,
	})
	d.follow(m, now, c)
}

// follow carries out a command and those that follow from it.
func (d *day) follow(m *dayMachine, now time.Time, c cordon.Command) {
	switch c.Do {
	case cordon.ActCordon:
		m.gen++
		d.follow(m, now, m.core.Cordon.Done(now, c, m.gen))
	case cordon.ActClose:
		d.follow(m, now, m.core.Cordon.Done(now, c, 1))
	case cordon.ActUncordon:
		d.aborts++
	case cordon.ActStop:
		m.op = c
		m.seen.State = balance.StateStopping
		d.stops++
		d.pending = append(d.pending, d.t)
	case cordon.ActFinish:
		m.seen.State = balance.StateStopped
	}
}
