package autostart

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/balance"
)

// wanted reports whether a tick has to look at the app: there is demand or a minimum, and something
// is not as it was.
func (q *queue) wanted() bool {
	in, app := q.demand()
	if in.rows == nil || in.inFlight+in.parked+in.others == 0 && app.Min == 0 && app.MinPerRegion == 0 {
		return false
	}
	return !q.quiet || in != q.last
}

// resting reports whether only news can make a difference to the app: a request or a change of its
// rows, both of which lead to a decision. Nothing of it runs, and the last decision left nothing
// under way.
func (q *queue) resting() bool {
	if q.question != nil || !q.quiet && q.last.rows != nil || q.last.inFlight+q.last.parked+q.last.others > 0 || q.last.alone {
		return false
	}
	for _, m := range q.rows {
		switch m.State {
		case balance.StateStopped, balance.StateSuspended, balance.StateFailed:
		default:
			return false
		}
	}
	return true
}

// demand reads what a decision depends on.
func (q *queue) demand() (in input, app balance.App) {
	rows, ok := q.a.balancer.Fleet().App(q.app)
	if !ok {
		return in, app
	}
	in.rows, app = rows, rows.App()
	// In flight before parked: what is handed over meanwhile is then missed, which the next look
	// repairs, and never counted twice, which would start a machine that nobody needs.
	q.outliers = q.outliers[:0]
	q.leaving.Begin()
	for m, c := range q.a.balancer.Loads(q.app) {
		if c.Tier == balance.TierFailing && m.Health != balance.HealthFailing {
			q.outliers = append(q.outliers, m.ID)
		}
		n := q.leaving.Look(m, c.Own, c.Told)
		if n == c.Own && c.SaidFull && q.a.config.Others == nil {
			n = max(n, c.Limits.Hard)
		}
		in.inFlight += n
	}
	q.leaving.End()
	in.outliers = len(q.outliers)
	in.parked, in.alone = q.counted()
	if q.a.config.Others != nil {
		if order := q.regions(rows); len(order) > 0 {
			in.others = q.leaving.Elsewhere(q.a.config.Others(q.app, order[0]))
		}
	}
	return in, app
}

// waits returns how many wait, without the one that may be in flight already.
func (q *queue) waits() int {
	given := q.given.Load() // before parked, see demand
	return max(0, int(q.parked.Load()-given))
}

// counted returns how many wait, for the planning goroutine. If it leaves one out that is being
// picked for, the dispatcher asks for another look afterwards: whoever comes alone would wait for
// the next tick otherwise. alone says that this is so.
func (q *queue) counted() (n int, alone bool) {
	q.missed.Store(true) // before given, which the dispatcher changes before it looks here
	given := q.given.Load()
	if given == 0 {
		q.missed.Store(false)
	}
	n = max(0, int(q.parked.Load()-given))
	return n, n == 0 && given > 0
}

// wantsKept bounds the particular machines that are started for: requests that insist are few, or
// of few kinds.
const wantsKept = 16

// wants returns what those who wait insist on, each once.
func (q *queue) wants() (ws []*balance.Want) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.insisting == 0 {
		return nil
	}
	for s := q.room.After(nil); s != nil && len(ws) < wantsKept; s = q.room.After(s) {
		if w := s.Value.req.Want; insists(w) && !slices.ContainsFunc(ws, func(o *balance.Want) bool { return sameWant(o, w) }) {
			ws = append(ws, w)
		}
	}
	return ws
}

// regions returns the order of the regions for this node.
func (q *queue) regions(rows *balance.Snapshot) []string {
	nearest := q.a.balancer.Fleet().Region()
	if v, ok := q.a.balancer.View(q.app); ok && v.Regions() > 0 {
		if name, _, known := v.Region(0); known {
			nearest = name
		}
	}
	return policy.RegionOrder(rows.App(), nearest, rows.Regions())
}

// rttUnknown is what a round trip is taken for that nobody has measured: few places are farther
// from each other.
const rttUnknown = 350 * time.Millisecond

// rtts returns the round trips to regions.
func (q *queue) rtts(regions []string) []time.Duration {
	rs := make([]time.Duration, len(regions))
	v, ok := q.a.balancer.View(q.app)
	for i, name := range regions {
		rs[i] = rttUnknown
		for k := 0; ok && k < v.Regions(); k++ {
			if of, rtt, known := v.Region(k); of == name && known {
				rs[i] = rtt
			}
		}
	}
	return rs
}

// plan decides for the present state; ok is false while the policy has not answered.
func (q *queue) plan(now time.Time) (d policy.Decision, ok bool) {
	if q.question != nil {
		return q.poll(now)
	}
	in, app := q.demand()
	if in.rows == nil {
		return policy.Decision{}, true
	}
	q.rows = q.rows[:0]
	for m := range in.rows.All() {
		q.rows = append(q.rows, m)
	}
	input := policy.Input{App: app, Machines: q.rows, InFlight: in.inFlight, Parked: in.parked, Wants: q.wants(), Outliers: slices.Clone(q.outliers), Rand: rand.Uint64()}
	input.Unserved = q.unserved.Swap(false)
	if !q.a.decides() {
		input.App.Autostart = false // rows teach how long boots take all the same
	} else {
		input.Regions = q.regions(in.rows)
		input.RTT = q.rtts(input.Regions)
	}
	if others := q.a.config.Others; others != nil {
		for i, r := range input.Regions {
			n := others(q.app, r)
			if i == 0 {
				n = q.leaving.Elsewhere(n)
			}
			input.Others = append(input.Others, n)
		}
	}
	q.last, q.quiet = in, false
	return q.decide(now, &question{since: now, in: in, off: !input.App.Autostart}, input)
}

// insists reports whether a request has to go to particular machines. A preference is no reason to
// wait.
func insists(w *balance.Want) bool {
	return w != nil && (w.Revision != "" || !w.Force.Empty())
}

// sameWant reports whether a and b insist on the same machines.
func sameWant(a, b *balance.Want) bool {
	if a == b {
		return true
	}
	return a != nil && b != nil && a.Revision == b.Revision && slices.Equal(a.Force.Machines, b.Force.Machines) && slices.Equal(a.Force.Regions, b.Force.Regions)
}
