package policytest_test

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/balance"
)

// covering is an example of a user's policy: it starts as many machines as the demand fills, in the
// order that all nodes share. It need not keep the bounds, since Bounded does.
type covering struct {
	// machines that did not start, and until when others go first
	avoid map[balance.MachineID]time.Time
}

// Plan implements [policy.Policy].
func (c *covering) Plan(now time.Time, in policy.Input) policy.Decision {
	for _, a := range in.Answers {
		if !a.Recall && (a.Err != nil || a.Start == balance.StartRefused) {
			c.avoid[a.Machine.ID] = now.Add(time.Second)
		}
	}
	class := func(m *balance.Machine) int {
		switch {
		case m.State == balance.StateStarting || m.State == balance.StateStarted && m.Cordon == balance.CordonNone:
			return 0
		case m.State == balance.StateStarted:
			return 1 // to be recalled
		case !m.State.Startable(), m.State == balance.StateFailed, now.Before(c.avoid[m.ID]):
			return 3 // the last resort
		}
		return 2
	}
	machines := slices.SortedFunc(slices.Values(in.Machines), func(a, b *balance.Machine) int {
		home := cmp.Compare(slices.Index(in.Regions, a.Region), slices.Index(in.Regions, b.Region))
		return cmp.Or(cmp.Compare(class(a), class(b)), home, a.Compare(b))
	})
	d := policy.Decision{App: in.App.ID, Demand: in.InFlight + in.Parked, Wait: 3 * time.Minute}
	left, least := d.Demand, in.App.Min
	for _, m := range machines {
		switch {
		case class(m) > 0 && left <= 0 && least <= 0:
			continue
		case class(m) == 1:
			d.Recall = append(d.Recall, *m)
		case class(m) > 1:
			d.Start = append(d.Start, *m)
		}
		left, least = left-cmp.Or(in.App.LimitsOf(*m).Soft, d.Demand), least-1
	}
	if d.Acts() {
		d.Reason = fmt.Sprintf("demand %d", d.Demand)
	}
	return d
}

func newCovering(balance.AppID) policy.Policy {
	return &covering{avoid: map[balance.MachineID]time.Time{}}
}

// Config.Policy makes a policy of your own for each app. Bounded keeps the bounds for it.
func ExampleBounded() {
	config := autostart.Config{Policy: newCovering} // for autostart.New

	covers := policy.Bounded(config.Policy("web")) // as an Autostart wraps it
	app := balance.App{ID: "web", Autostart: true, Max: 2, Limits: balance.Limits{Soft: 10}}
	in := policy.Input{App: app, Regions: []string{"nrt"}, Parked: 45} // enough for five machines
	for _, id := range []balance.MachineID{"web-1", "web-2", "web-3", "web-4"} {
		in.Machines = append(in.Machines, &balance.Machine{ID: id, App: "web", Region: "nrt"})
	}
	now := time.Unix(0, 0)
	fmt.Println("starts:", len(covers.Plan(now, in).Start))
	fmt.Println("and again, before they show:", len(covers.Plan(now.Add(time.Second), in).Start))
	// Output:
	// starts: 2
	// and again, before they show: 0
}
