package policytest

import (
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"time"

	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/balance"
)

// clauses are the contract.
var clauses = []struct {
	name, text string
	check      func(*bench)
}{
	{"Demand/none", "Without demand and without a minimum nothing is started or recalled.", noDemand},
	{"Demand/off", "An app whose autostart is off is left alone.", off},
	{"Demand/wakes", "When nothing runs and something waits, one is started, whatever state that can be started its machines are in.", wakes},
	{"Demand/fills", "As many machines are started as the demand fills, at once.", fills},
	{"Demand/serves", "Demand that what runs can take starts nothing.", serves},
	{"Demand/unlimited", "A machine without limits is worth any demand.", unlimited},
	{"Demand/failing", "A request that went to a failing machine starts another, though it has ended by now.", failing},
	{"Credit/boots", "A start in flight counts as the machine that it will be, however long it takes.", credit},
	{"Credit/asked", "What has been asked for counts from then on, before it is answered and before its row shows it.", asked},
	{"Credit/others", "A start that somebody else asked for counts.", foreign},
	{"Credit/lost", "A start whose effect never shows is not waited for for ever.", lost},
	{"Recall/first", "A soft-cordoned machine is recalled before another is started.", recallFirst},
	{"Bounds/maximum", "No more machines run and start than the app's maximum.", maximum},
	{"Bounds/minimum", "The minimums are kept without demand, also in each region.", minimum},
	{"Bounds/cordon", "A hard-cordoned machine is left alone.", hardCordon},
	{"Regions/home", "Home is filled first, and what it cannot start overflows to the next region.", home},
	{"Regions/starves", "Home never starves because machines run elsewhere.", starves},
	{"Nodes/agree", "Nodes that do not talk start the same machines: together no more than the one with the largest demand.", agree},
	{"Nodes/lag", "A node that hears of a stop late starts no other machine than one that knows of it.", lag},
	{"Stops/slow", "A machine that takes long to stop is not waited for while another can be started.", slowStop},
	{"Stops/last", "When all others are stopping, one of them is asked to start afterwards, and after the stop it is not forgotten.", stopsLast},
	{"Nodes/gone", "A machine whose node is gone is left alone, and a start of it counts no longer.", gone},
	{"Nodes/silent", "While requests wait, an owner that has not answered a start after a second and three round trips is not waited for: another owner's machine is started.", silent},
	{"Failure/next", "When a boot fails, another machine is started.", failNext},
	{"Failure/loop", "An app that always fails is not started in a tight loop.", failLoop},
	{"Failure/killed", "A machine that is killed after it has run well for minutes is started again at once, however often that happens.", killed},
	{"Failure/recovers", "An app whose fault is over is served again within two minutes.", recovers},
	{"Failure/unreachable", "When a machine's owner cannot be asked, another machine is started.", unreachable},
	{"Values/equal", "Equal inputs give equal decisions: there is no clock and no chance but those given.", equal},
	{"Values/absurd", "Limits, hints, counts and clocks that make no sense cost no more than a wrong number.", absurd},
	{"Faults/bound", "With a static demand, lost commands and late news, no more machines run and start than are wanted.", faults},
	{"Faults/progress", "When nothing is lost any more, what is wanted runs.", progress},
}

func soft(n int) balance.App { return balance.App{Limits: balance.Limits{Soft: n}} }

func noDemand(b *bench) {
	n := b.world(soft(10), 3, "home", "away").node()
	n.move("home-0", balance.StateStarted)
	n.edit("home-0", func(m *balance.Machine) { m.Cordon, m.CordonGen = balance.CordonSoft, 1 })
	for range 100 {
		if d := n.plan(0, 0); d.Acts() {
			b.broken("start %q, recall %q", names(d.Start), names(d.Recall))
		}
		n.now = n.now.Add(time.Second)
	}
}

func off(b *bench) {
	n := b.world(balance.App{Min: 2}, 3).node()
	n.app.Autostart = false
	for range 10 {
		if d := n.plan(0, 9); d.Acts() {
			b.broken("start %q, recall %q", names(d.Start), names(d.Recall))
		}
		n.now = n.now.Add(time.Second)
	}
}

func wakes(b *bench) {
	for _, s := range []balance.State{balance.StateStopped, balance.StateSuspended, balance.StateFailed, balance.StateStopping, balance.StateSuspending} {
		n := b.world(soft(10), 3).node()
		for i := range n.rows {
			n.edit(n.rows[i].ID, func(m *balance.Machine) { m.State, m.Epoch = s, 7 })
		}
		if d := n.plan(0, 1); len(d.Start) != 1 {
			b.broken(
				"%d machines that are %v are started for one request: %q", len(d.Start), s, names(d.Start),
			)
		}
	}
}

func fills(b *bench) {
	for demand, want := range map[int]int{1: 1, 10: 1, 11: 2, 40: 4, 41: 5, 1000: 8} {
		n := b.world(soft(10), 8).node()
		if d := n.plan(0, demand); len(d.Start) != want {
			b.broken(
				"%d are started for a demand of %d and a soft limit of 10, with 8 machines", len(d.Start),
				demand,
			)
		}
	}
}

func serves(b *bench) {
	n := b.world(soft(10), 4).node()
	n.move("home-1", balance.StateStarted)
	n.move("home-3", balance.StateStarted)
	if d := n.plan(15, 5); d.Acts() {
		b.broken("two machines take 20, and for 15 and 5 %q is started", names(d.Start))
	}
	if d := n.plan(16, 5); len(d.Start) != 1 {
		b.broken("two machines take 20, and for 16 and 5 %q is started", names(d.Start))
	}
}

func unlimited(b *bench) {
	n := b.world(balance.App{}, 4).node()
	if d := n.plan(100, 10_000); len(d.Start) != 1 {
		b.broken("%d are started", len(d.Start))
	}
}

func failing(b *bench) {
	n := b.world(soft(10), 3).node()
	n.move("home-1", balance.StateStarted)
	n.edit("home-1", func(m *balance.Machine) { m.Health = balance.HealthFailing })
	n.plan(0, 0)
	n.failed = true
	d := n.plan(0, 0)
	if len(d.Start) != 1 {
		b.broken("%q is started", names(d.Start))
	}
	n.carry(d)
	for range 20 {
		n.now = n.now.Add(time.Second)
		if d := n.plan(0, 0); d.Acts() {
			b.broken("%q is started beside the one that starts already", names(d.Start))
		}
	}
}

func credit(b *bench) {
	n := b.world(soft(10), 6).node()
	n.carry(n.plan(0, 15))
	for n.now.Sub(epoch0) < time.Hour {
		n.now = n.now.Add(time.Second)
		if d := n.plan(0, 15); d.Acts() {
			b.broken("after %v %q is started", n.now.Sub(epoch0), names(d.Start))
		}
	}
}

func asked(b *bench) {
	n := b.world(soft(10), 6).node()
	first := n.plan(0, 15)
	for range 30 {
		n.now = n.now.Add(100 * time.Millisecond)
		if d := n.plan(0, 15); d.Acts() {
			b.broken("before the answer %q is started beside %q", names(d.Start), names(first.Start))
		}
	}
	for _, m := range first.Start {
		n.answers = append(n.answers, policy.Answer{At: n.now, Machine: m, Start: balance.StartAccepted})
	}
	for range 30 {
		n.now = n.now.Add(100 * time.Millisecond)
		if d := n.plan(0, 15); d.Acts() {
			b.broken("before the row shows it %q is started beside %q", names(d.Start), names(first.Start))
		}
	}
}

func foreign(b *bench) {
	n := b.world(soft(10), 6).node()
	n.move("home-2", balance.StateStarting)
	n.move("home-4", balance.StateStarting)
	if d := n.plan(0, 20); d.Acts() {
		b.broken("two that start will take 20, and %q is started", names(d.Start))
	}
	if d := n.plan(0, 21); len(d.Start) != 1 {
		b.broken("two that start will take 20, and for 21 %q is started", names(d.Start))
	}
}

func lost(b *bench) {
	n := b.world(soft(10), 1).node()
	for _, m := range n.plan(0, 1).Start {
		n.answers = append(n.answers, policy.Answer{At: n.now, Machine: m, Start: balance.StartAccepted})
	}
	for range 10 * 60 {
		n.now = n.now.Add(100 * time.Millisecond)
		if d := n.plan(0, 1); len(d.Start) > 0 {
			return
		}
	}
	b.broken("the owner accepted it, a minute went by without a sign, and it is not asked for again")
}

func recallFirst(b *bench) {
	n := b.world(soft(10), 4).node()
	n.move("home-3", balance.StateStarted)
	n.edit("home-3", func(m *balance.Machine) { m.Cordon, m.CordonGen = balance.CordonSoft, 1 })
	d := n.plan(1, 0)
	if names(d.Recall) != "home-3" || len(d.Start) > 0 {
		b.broken("recall %q, start %q", names(d.Recall), names(d.Start))
	}
	n.carry(d)
	if d := n.plan(11, 0); len(d.Recall) > 0 || len(d.Start) != 1 {
		b.broken(
			"with that back and a demand of 11: recall %q, start %q", names(d.Recall), names(d.Start),
		)
	}
}

func maximum(b *bench) {
	app := soft(1)
	app.Max = 3
	n := b.world(app, 4, "home", "away").node()
	n.move("away-0", balance.StateStarted)
	for range 100 {
		d := n.plan(1, 50)
		n.carry(d)
		if k := n.count(balance.StateStarting, balance.StateStarted); k > 3 {
			b.broken("%d run and start, the maximum is 3", k)
		}
		n.now = n.now.Add(10 * time.Second)
	}
	if k := n.count(balance.StateStarting, balance.StateStarted); k < 3 {
		b.broken("only %d run and start, where 50 wait and the maximum is 3", k)
	}
}

func minimum(b *bench) {
	for _, app := range []balance.App{{Min: 3}, {MinPerRegion: 2}, {Min: 1, MinPerRegion: 1}} {
		n := b.world(app, 4, "home", "away").node()
		for range 10 {
			n.carry(n.plan(0, 0))
			n.now = n.now.Add(time.Second)
		}
		want := max(app.Min, 2*app.MinPerRegion)
		if k := n.count(balance.StateStarting); k != want {
			b.broken(
				"%d start where a minimum of %d, and of %d in each of two regions, is set", k, app.Min,
				app.MinPerRegion,
			)
		}
	}
}

func hardCordon(b *bench) {
	n := b.world(soft(10), 2).node()
	n.edit("home-0", func(m *balance.Machine) { m.Cordon = balance.CordonHard })
	n.edit("home-1", func(m *balance.Machine) { m.Cordon = balance.CordonHard })
	n.move("home-1", balance.StateStarted)
	if d := n.plan(0, 11); d.Acts() {
		b.broken("start %q, recall %q", names(d.Start), names(d.Recall))
	}
}

func home(b *bench) {
	n := b.world(soft(10), 2, "home", "next", "last").node()
	d := n.plan(0, 35)
	per := map[string]int{}
	for _, m := range d.Start {
		per[m.Region]++
	}
	if len(d.Start) != 4 || per["home"] != 2 || per["next"] != 2 {
		b.broken("for 35 at 10 each, with two machines in each region: %q", names(d.Start))
	}
}

func starves(b *bench) {
	n := b.world(soft(10), 2, "home", "away").node()
	n.move("away-0", balance.StateStarted)
	if d := n.plan(1, 0); len(d.Start) != 1 || d.Start[0].Region != "home" {
		b.broken("start %q", names(d.Start))
	}
}

func agree(b *bench) {
	w := b.world(soft(10), 20)
	all := map[balance.MachineID]bool{}
	most := 0
	for i, demand := range []int{3, 41, 18, 1, 55, 27} {
		n := w.node()
		n.bits = uint64(i) * 0x9e3779b97f4a7c15
		d := n.plan(0, demand)
		for _, m := range d.Start {
			all[m.ID] = true
		}
		most = max(most, len(d.Start))
	}
	if len(all) != most || most != 6 {
		b.broken(
			"six nodes start %d different machines, where the one with the largest demand starts %d",
			len(all), most,
		)
	}
}

func lag(b *bench) {
	w := b.world(soft(10), 6)
	a, c := w.node(), w.node()
	for _, m := range w.rows {
		w.move(m.ID, balance.StateStarted)
	}
	a.plan(1, 0)
	c.plan(1, 0)
	for i := range w.rows {
		w.move(w.rows[i].ID, balance.StateStopping)
	}
	late := c.plan(0, 5) // this node has seen that they stop
	for i := range w.rows {
		w.move(w.rows[i].ID, balance.StateStopped)
	}
	if d := a.plan(0, 5); names(d.Start) != names(late.Start) || len(d.Start) != 1 {
		b.broken(
			"one node sees them stopped and starts %q, another sees them stopping and starts %q",
			names(d.Start), names(late.Start),
		)
	}
}

func slowStop(b *bench) {
	for _, asked := range []bool{false, true} {
		n := b.world(soft(10), 2).node()
		first := n.plan(0, 1)
		if len(first.Start) != 1 {
			b.broken("%q is started for one request", names(first.Start))
		}
		id := first.Start[0].ID
		n.carry(first)
		n.plan(0, 1)
		n.now = n.now.Add(time.Second)
		n.move(id, balance.StateStarted)
		n.plan(1, 0)
		n.move(id, balance.StateStopping)
		n.plan(0, 0)
		if asked {
			n.carry(n.plan(0, 1))
		}
		up := false
		for range 100 { // ten seconds
			n.now = n.now.Add(100 * time.Millisecond)
			n.carry(n.plan(0, 1))
			up = up || n.count(balance.StateStarting) > 0
		}
		if !up {
			b.broken(
				"%q has been stopping for 10 s (asked for at once: %v), and the other has not been started", id,
				asked,
			)
		}
	}
}

func stopsLast(b *bench) {
	n := b.world(soft(10), 1).node()
	n.move("home-0", balance.StateStarted)
	n.plan(1, 0)
	n.move("home-0", balance.StateStopping)
	n.plan(0, 0)
	n.now = n.now.Add(10 * time.Second)
	d := n.plan(0, 1)
	if len(d.Start) != 1 || d.Refuse != "" {
		b.broken("%q is started, and what waits is refused: %q", names(d.Start), d.Refuse)
	}
	n.carry(d)
	n.now = n.now.Add(10 * time.Second)
	n.plan(0, 1)
	n.move("home-0", balance.StateStopped) // its owner had forgotten the start
	for range 100 {
		n.now = n.now.Add(100 * time.Millisecond)
		if n.carry(n.plan(0, 1)); n.count(balance.StateStarting) > 0 {
			return
		}
	}
	b.broken("it has stopped 10 s ago, and is not started")
}

func gone(b *bench) {
	n := b.world(soft(10), 3).node()
	first := n.plan(0, 1)
	if len(first.Start) != 1 {
		b.broken("%q is started for one request", names(first.Start))
	}
	id := first.Start[0].ID
	n.answers = append(
		n.answers, policy.Answer{At: n.now, Machine: first.Start[0], Start: balance.StartAccepted},
	)
	n.move(id, balance.StateGone)
	n.now = n.now.Add(100 * time.Millisecond)
	d := n.plan(0, 1)
	if len(d.Start) != 1 || d.Start[0].ID == id {
		b.broken("%q is started, its node goes, and then %q is started", id, names(d.Start))
	}
	for i := range n.rows {
		n.move(n.rows[i].ID, balance.StateGone)
	}
	for range 100 {
		n.now = n.now.Add(time.Second)
		if d := n.plan(0, 9); d.Acts() {
			b.broken("all nodes are gone, and %q is started, %q recalled", names(d.Start), names(d.Recall))
		}
	}
}

func silent(b *bench) {
	n := b.world(soft(10), 4).node()
	n.rtt = []time.Duration{time.Millisecond}
	for i := range n.rows {
		n.edit(n.rows[i].ID, func(m *balance.Machine) { m.Owner = []balance.NodeID{"one", "other"}[i%2] })
	}
	first := n.plan(0, 1).Start
	if len(first) != 1 {
		b.broken("%q is started for one request", names(first))
	}
	for range 11 {
		n.now = n.now.Add(100 * time.Millisecond)
		d := n.plan(0, 1)
		if len(d.Start) == 0 {
			continue
		}
		if len(d.Start) > 1 || d.Start[0].Owner == first[0].Owner {
			b.broken("the owner of %q does not answer, and then %q is started", names(first), names(d.Start))
		}
		return
	}
	b.broken("the owner of %q has not answered for 1.1 s, and nothing else is started", names(first))
}

// boot plays one second of an app whose machines boot at once, or fail at once.
func (n *node) boot(parked int, works bool) (starts int) {
	d := n.plan(0, parked)
	n.carry(d)
	n.plan(0, parked)
	to := balance.StateFailed
	if works {
		to = balance.StateStarted
	}
	for _, m := range n.rows {
		if m.State == balance.StateStarting {
			n.move(m.ID, to)
		}
	}
	n.now = n.now.Add(time.Second)
	return len(d.Start)
}

func failNext(b *bench) {
	n := b.world(soft(10), 3).node()
	first := n.plan(0, 1)
	n.carry(first)
	n.plan(0, 1)
	for _, m := range first.Start {
		n.move(m.ID, balance.StateFailed)
	}
	n.now = n.now.Add(100 * time.Millisecond)
	d := n.plan(0, 1)
	if len(first.Start) != 1 || len(d.Start) != 1 || d.Start[0].ID == first.Start[0].ID {
		b.broken("%q is started, fails, and then %q", names(first.Start), names(d.Start))
	}
}

func failLoop(b *bench) {
	n := b.world(soft(1), 10).node()
	starts := 0
	for range 300 {
		starts += n.boot(10, false)
	}
	// Ten at once, a few until the policy notices, and then one per interval of up to a minute.
	if starts > 60 {
		b.broken("%d starts in 300 s, all of which fail", starts)
	}
}

func killed(b *bench) {
	n := b.world(soft(10), 1).node()
	for i := range 8 {
		d := n.plan(0, 1)
		if len(d.Start) != 1 || d.Refuse != "" {
			b.broken(
				"killed %d times, each time after two minutes, and then %q is started, and what waits is refused: %q",
				i, names(d.Start), d.Refuse,
			)
		}
		n.carry(d)
		n.plan(0, 1)
		n.now = n.now.Add(time.Second)
		n.move("home-0", balance.StateStarted)
		n.plan(1, 0)
		n.now = n.now.Add(2 * time.Minute)
		n.plan(1, 0)
		n.move("home-0", balance.StateFailed)
	}
}

func recovers(b *bench) {
	n := b.world(soft(10), 3).node()
	for range 120 {
		n.boot(1, false)
	}
	for range 120 {
		if n.boot(1, true); n.count(balance.StateStarted) > 0 {
			return
		}
	}
	b.broken("boots would work for two minutes, and none is tried")
}

func unreachable(b *bench) {
	n := b.world(soft(10), 2).node()
	first := n.plan(0, 1).Start
	if len(first) != 1 {
		b.broken("%q is started for one request", names(first))
	}
	n.answers = append(n.answers, policy.Answer{At: n.now, Machine: first[0], Err: errNoRoute})
	n.now = n.now.Add(100 * time.Millisecond)
	if d := n.plan(0, 1); len(d.Start) != 1 || d.Start[0].ID == first[0].ID {
		b.broken("%q is out of reach, and then %q is started", names(first), names(d.Start))
	}
}

func equal(b *bench) {
	run := func() (ds []policy.Decision) {
		rng := rand.New(rand.NewPCG(1, 2))
		n := b.world(soft(3), 6, "home", "away").node()
		for range 300 {
			d := n.plan(rng.IntN(10), rng.IntN(10))
			ds = append(ds, d)
			n.carry(d)
			n.chance(rng)
			n.now = n.now.Add(time.Duration(rng.IntN(3000)) * time.Millisecond)
		}
		return ds
	}
	one, two := run(), run()
	for i := range one {
		if !reflect.DeepEqual(one[i], two[i]) {
			b.broken("decision %d is once %+v, then %+v", i, one[i], two[i])
		}
	}
}

// chance changes the state of a random machine.
func (n *node) chance(rng *rand.Rand) {
	id := n.rows[rng.IntN(len(n.rows))].ID
	next := map[balance.State][]balance.State{
		balance.StateStopped: {balance.StateStarting}, balance.StateFailed: {balance.StateStarting}, balance.StateStarting: {balance.StateStarted, balance.StateStarted, balance.StateFailed, balance.StateStopped},
		balance.StateStarted: {balance.StateStopping, balance.StateFailed}, balance.StateStopping: {balance.StateStopped},
	}[n.row(id).State]
	if len(next) > 0 {
		n.move(id, next[rng.IntN(len(next))])
	}
}

func absurd(b *bench) {
	huge := time.Duration(math.MaxInt64)
	for _, app := range []balance.App{
		{Min: 5, Max: 2}, {Min: -3, Max: -1}, {BootHint: huge}, {BootHint: -huge}, {Limits: balance.Limits{Soft: -1, Hard: -1}},
		{Limits: balance.Limits{Soft: 1 << 40}}, {Limits: balance.Limits{Soft: 50, Hard: 2}}, {MinPerRegion: 1 << 40}, {Regions: []string{"", "x"}},
	} {
		n := b.world(app, 3, "home", "away").node()
		for _, at := range []time.Duration{0, time.Hour, -time.Hour, huge, -huge, time.Second} {
			n.now = epoch0.Add(at)
			for _, demand := range []int{0, 1, -5, math.MaxInt32} {
				d := n.plan(demand, demand, -1, demand)
				n.carry(d)
				if at == time.Hour {
					for i := range n.rows {
						n.move(n.rows[i].ID, balance.StateStarted)
					}
				}
			}
		}
		empty := b.world(app, 0).node()
		if d := empty.plan(1, 1); d.Acts() {
			b.broken("without machines %q is started", names(d.Start))
		}
	}
}

func faults(b *bench)   { b.chaos(false) }
func progress(b *bench) { b.chaos(true) }

// chaos runs worlds with a static demand in which commands are lost and rows come late.
func (b *bench) chaos(end bool) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 7))
		truth := b.world(soft(1+rng.IntN(4)), 1+rng.IntN(6))
		demand := 1 + rng.IntN(12)
		want := min(len(truth.rows), (demand+truth.app.Limits.Soft-1)/truth.app.Limits.Soft)
		heard := *truth // what the node sees
		heard.rows = slices.Clone(truth.rows)
		n := &node{world: &heard, policy: policy.Bounded(b.newPolicy())}
		var out []balance.Machine
		for step := range 300 {
			d := n.plan(0, demand)
			out = append(out, d.Start...)
			well := end && step > 150
			for len(out) > 0 && (well || rng.IntN(2) == 0) {
				m := out[0]
				out = out[1:]
				if now := truth.row(m.ID); !well && rng.IntN(5) == 0 && now.Epoch == m.Epoch {
					n.answers = append(n.answers, policy.Answer{At: n.now, Machine: m, Err: errNoRoute})
					continue
				}
				t := node{world: truth}
				t.carry(policy.Decision{Start: []balance.Machine{m}})
				for _, a := range t.answers {
					a.At = n.now
					n.answers = append(n.answers, a)
				}
			}
			for _, m := range truth.rows {
				if m.State == balance.StateStarting && (well || rng.IntN(20) == 0) {
					truth.move(m.ID, balance.StateStarted)
				}
			}
			for i, m := range truth.rows {
				if well || rng.IntN(3) == 0 {
					heard.rows[i] = m
				}
			}
			if k := truth.count(balance.StateStarting, balance.StateStarted); k > want {
				b.broken("%d machines run and start, %d are wanted (seed %d)", k, want, seed)
			}
			n.now = n.now.Add(time.Duration(rng.IntN(2000)) * time.Millisecond)
		}
		if k := truth.count(balance.StateStarted); end && k != want {
			b.broken("%d machines run at the end, %d are wanted (seed %d)", k, want, seed)
		}
	}
}
