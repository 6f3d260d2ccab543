package downscale

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale/cordon"
	"github.com/ebbkit/ebb/downscale/policy"
	"github.com/ebbkit/ebb/internal/scaledown"
)

// lookEvery is the longest time between looks at machines that are being stopped. When a request
// comes to such a machine, it is uncordoned within that time and others no longer avoid it.
const lookEvery = 100 * time.Millisecond

// run is the state of one Run; only its goroutine touches it.
type run struct {
	*Downscaler
	ctx     context.Context // of driver calls: they outlive Run's, but not their timeout
	apps    map[balance.AppID]*appRun
	leaving []*machine // those that are not at rest
	pending int        // driver calls under way
	answers chan answer
	over    chan struct{} // closed when nobody listens to answers any longer
}

// appRun is one app in the loop.
type appRun struct {
	core     *scaledown.App
	snap     *balance.Snapshot
	machines []*machine // in canonical order, of all owners
	byID     map[balance.MachineID]*machine
	seen     []policy.Seen
	// the policy was asked while something moved, and must be told once that nothing does
	asked bool
	rests bool // nothing of it runs: looked at again when a row changes, or an order comes
}

// tick looks at everything and decides.
func (r *run) tick(now time.Time) {
	ids := r.fleet.Apps()
	for id := range r.apps {
		if _, ok := slices.BinarySearch(ids, id); !ok {
			delete(r.apps, id)
		}
	}
	r.look(now)
	for _, id := range ids {
		snap, ok := r.fleet.App(id)
		if !ok {
			continue
		}
		a := r.app(id, snap)
		if a.rests {
			continue
		}
		mine := 0
		for _, m := range a.machines {
			if m.gate == nil {
				continue
			}
			mine++
			if !m.listed {
				m.observe(now)
			}
		}
		if mine > 0 && r.draining.Load() == 0 {
			moves := slices.ContainsFunc(a.machines, (*machine).moves)
			if moves || a.asked {
				r.decide(a, now)
			}
			if a.rests, a.asked = !moves, moves; a.rests {
				a.seen = nil
				a.core.Rest()
			}
		}
	}
}

// policyOf makes the policy of an app.
func (r *run) policyOf(id balance.AppID) *policy.Bounded {
	if r.config.Policy != nil {
		if p := r.config.Policy(id); p != nil {
			return &policy.Bounded{Policy: p}
		}
	}
	p, err := policy.NewDecider(r.config.decider())
	if err != nil {
		panic(err) // Config.resolve has looked at all of it
	}
	return &policy.Bounded{Policy: p}
}

// look looks at the machines that are being stopped.
func (r *run) look(now time.Time) {
	for _, m := range r.leaving {
		m.observe(now)
	}
	r.leaving = slices.DeleteFunc(r.leaving, func(m *machine) bool {
		m.listed = !m.core.Cordon.Resting()
		return !m.listed
	})
}

func (r *run) app(id balance.AppID, snap *balance.Snapshot) *appRun {
	a, ok := r.apps[id]
	if !ok {
		a = &appRun{core: scaledown.NewApp(r.policyOf(id)), byID: map[balance.MachineID]*machine{}}
		r.apps[id] = a
	}
	if a.snap == snap {
		return a
	}
	a.rests = false
	a.snap, a.machines = snap, a.machines[:0]
	old := a.byID
	a.byID = make(map[balance.MachineID]*machine, len(old))
	for row := range snap.All() {
		var gate *balance.Gate
		if row.Owner == r.fleet.Node() {
			gate = r.fleet.Gate(id, row.ID)
		}
		m, ok := old[row.ID]
		if !ok || m.gate != gate {
			m = &machine{run: r, rank: row.Key().Rank(), gate: gate}
			m.core.Cordon = cordon.Machine{Config: r.config.cordon()}
		}
		m.row = *row
		a.byID[row.ID] = m
		a.machines = append(a.machines, m)
	}
	for id, m := range old {
		if a.byID[id] != m {
			if m.gate != nil {
				m.dismiss(nil) // what has not ended is not removed
				continue
			}
			m.dismiss(fmt.Errorf("%w: %v has left the fleet", ErrBusy, m.row.Key()))
		}
	}
	slices.SortFunc(a.machines, func(x, y *machine) int { return x.row.Compare(&y.row) })
	return a
}

// decide asks the app's policy and carries out what it says.
func (r *run) decide(a *appRun, now time.Time) {
	s := policy.Situation{App: a.snap.App(), Machines: a.seen[:0]}
	for _, m := range a.machines {
		s.Machines = append(s.Machines, m.see(s.App, now))
	}
	a.seen = s.Machines
	if r.config.Views != nil {
		n, fresh := r.config.Views.Parked(s.App.ID)
		s.Parked, s.Stale = n, !fresh
	}
	r.habits(a, now, &s)
	decided, refused := a.core.Decide(now, s)
	for _, d := range refused {
		if r.config.Trace.Vetoed != nil {
			r.config.Trace.Vetoed(d)
		}
	}
	for _, d := range decided {
		if d.Verdict == policy.VerdictHold {
			if r.config.Trace.Held != nil {
				r.config.Trace.Held(d)
			}
		} else if m := a.byID[d.Machine]; m != nil && m.gate != nil {
			m.follow(now, m.core.Act(now, d, &s))
		}
	}
}

// habits reports a pause of the app, and asks how long the app is kept.
func (r *run) habits(a *appRun, now time.Time, s *policy.Situation) {
	h := r.config.Habits
	if h == nil {
		return
	}
	if gap, ended := a.core.Pause(now, s); ended {
		h.Gap(s.App.ID, gap)
	}
	if s.App.KeepAlive == 0 && r.config.KeepAlive > 0 {
		s.KeepAlive = h.KeepAlive(s.App.ID, r.config.KeepAlive)
	}
}

// end releases all cordons and waits for the driver.
func (r *run) end() error {
	for _, w := range r.orders.end() {
		w.done <- errEnded
	}
	for _, a := range r.apps {
		for _, m := range a.machines {
			m.dismiss(errEnded)
		}
	}
	for _, m := range r.leaving {
		m.dismiss(errEnded)
		now := time.Now()
		m.follow(now, m.core.Cordon.Withdraw(now))
		m.follow(now, m.core.Cordon.Needed(now, "the downscaler ends"))
	}
	patience := time.NewTimer(2 * r.config.StopTimeout)
	defer patience.Stop()
	for r.pending > 0 {
		select {
		case a := <-r.answers:
			r.answered(a)
			continue
		case <-patience.C:
		}
		break
	}
	var silent []string
	for _, m := range r.leaving {
		now := time.Now()
		if m.follow(now, m.core.Cordon.End(now)); !m.core.Cordon.Resting() {
			silent = append(silent, m.row.Key().String())
		}
	}
	if len(silent) > 0 {
		return fmt.Errorf(
			"downscale: the driver has left %s in doubt: the gates stay closed until Drain, or another "+
				"downscaler, has stopped the machines",
			strings.Join(silent, ", "),
		)
	}
	return nil
}

// answered handles the end of a driver call.
func (r *run) answered(a answer) {
	r.pending--
	if a.err != nil && !errors.Is(a.err, errors.ErrUnsupported) {
		call(r.config.Trace.Failed, a.m.row, a.err)
	}
	now := time.Now()
	switch {
	case a.err == nil:
		a.m.follow(now, a.m.core.Cordon.Done(now, a.cmd, 0))
	case a.doubt:
		a.m.follow(now, a.m.core.Cordon.Unknown(now, a.cmd))
	default:
		a.m.follow(now, a.m.core.Cordon.Failed(now, a.cmd))
	}
}

// accept hands new orders to their machines, which the preceding tick has found.
func (r *run) accept(list []*stopRequest) {
	for _, w := range list {
		var m *machine
		if a := r.apps[w.app]; a != nil {
			m = a.byID[w.id]
		}
		if m == nil || m.gate == nil {
			w.done <- fmt.Errorf("%w: %s has left the fleet", ErrBusy, w.id)
			continue
		}
		m.orders = append(m.orders, w)
	}
}

// hear looks at machines with orders at once instead of on the next tick.
func (r *run) hear(now time.Time) {
	for _, a := range r.apps {
		for _, m := range a.machines {
			if len(m.orders) > 0 && !m.obeying {
				m.observe(now)
			}
		}
	}
}
