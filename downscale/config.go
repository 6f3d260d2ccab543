package downscale

import (
	"cmp"
	"fmt"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale/cordon"
	"github.com/ebbkit/ebb/downscale/policy"
)

const (
	// cordonMax is how long a soft cordon lasts at most: what has not been acknowledged, or has not
	// become idle by then, will not soon, and meanwhile the others do without the machine.
	cordonMax = 30 * time.Second
	// notice is how long connections that were told may take to end: a close frame and its answer need
	// a round trip, and a client that needs longer is likely to be gone.
	notice = 5 * time.Second
	// parallel bounds the calls of the driver at once, so that a thousand idle machines are no flood.
	parallel = 64
)

// Config configures a [Downscaler], and with it its policies and soft cordons. The zero value is
// valid.
type Config struct {
	// Policy makes the policy of an app; nil means a [policy.Decider] with this
	// Window, KeepAlive, Every and Notify. To have old revisions stopped first, wrap one that fills
	// in [policy.Situation].Revision.
	Policy func(balance.AppID) policy.Policy

	// Window is how far back the load counts for the head-room rule. 0 means 5 min: with that, a
	// load that swings through the day with noise on top hardly ever has a machine stopped only
	// to be started again. Negative turns the rule off: only the keep-alive stops machines.
	Window time.Duration
	// KeepAlive is how long an app without a request keeps its machines, where
	// [balance.App.KeepAlive] is 0 and Habits know nothing better. 0 means 5 min. Negative turns
	// the rule off: an app's last machine then runs for ever, unless its own KeepAlive says
	// otherwise.
	KeepAlive time.Duration
	// Every is how often the gates are looked at and machines decided on. 0 means 1 s. Machines
	// on their way are looked at every 100 ms at least.
	Every time.Duration

	// Quiet is how long a soft-cordoned machine has to be idle, its cordon known everywhere,
	// before it is stopped. 0 means 1 s; negative not at all. It gives requests that are on their
	// way time to arrive.
	Quiet time.Duration
	// Notify are the classes of long connections that do not keep a machine: when nothing else is
	// in flight, they are told to end. What has not ended after 5 s has the stop aborted all
	// the same. Connections of other classes keep the machine, as requests do. All of them are
	// load and use: the keep-alive does not begin while one is open.
	Notify balance.Class
	// StopTimeout bounds each call of the driver. 0 means 1 min. Twice as long without an answer
	// is an alarm.
	StopTimeout time.Duration
	// Busy reports that a machine must not be stopped now though nothing is in flight: it works
	// on something that did not come as a request. Only an [Order] with Drain does not ask it.
	// nil means never. It must not block.
	Busy func(balance.Machine) bool
	// Connections tells of long connections; nil means that none is known, and each counts as a
	// request.
	Connections Connections
	// Habits learns each app's pauses and says how long it is kept: longer than KeepAlive where
	// it comes back a little later than that, shorter where it does not. An app's own KeepAlive
	// beats it. nil means that nothing is learned.
	//
	// Pauses are of what this node sees: its own machines, those whose load Views tells, and what
	// waits. Where several nodes own an app's machines and tell no loads, each learns the pauses
	// of its own; they are longer than the app's, so machines are kept longer than they need be,
	// and never for a shorter time.
	Habits *Habits
	// Views is what other nodes tell: requests that wait, cordons they know, loads of machines they
	// own. nil means that this process is the only node.
	Views Views
	// Trace observes; the zero value observes nothing.
	Trace Trace
}

// Trace is a set of functions that are called as things happen, with values. Each may be nil.
// They are called with no lock held, from the goroutine of [Downscaler.Run] and from those of
// [Downscaler.Drain], and must not block.
type Trace struct {
	// soft-cordoned: about to go, unless traffic comes
	Cordoned   func(m balance.Machine, reason string)
	Uncordoned func(m balance.Machine, reason string)    // runs on: needed after all
	Notified   func(m balance.Machine, of balance.Class) // long connections were told to end
	// the gate is closed over what is in flight, by order
	Draining func(m balance.Machine, reason string)
	Stopping func(m balance.Machine, reason string) // the gate is closed and the driver told to stop
	// the gate is closed and the driver told to suspend
	Suspending func(m balance.Machine, reason string)
	Stopped    func(m balance.Machine, took time.Duration)
	Suspended  func(m balance.Machine, took time.Duration)
	Failed     func(m balance.Machine, err error) // the driver could not
	// the driver is silent or in doubt: people should look
	Stuck func(m balance.Machine, reason string)
	Held  func(d policy.Decision) // a region's reason to stop nothing has changed
	// what a policy said is refused by a bound, and was not the time before: see [policy.Bounded]
	Vetoed func(d policy.Decision)
}

func call[T any](f func(balance.Machine, T), m balance.Machine, v T) {
	if f != nil {
		f(m, v)
	}
}

func (c Config) resolve() (Config, error) {
	bad := func(field string, v any, want string) (Config, error) {
		return Config{}, fmt.Errorf("downscale: Config.%s %v: want %s", field, v, want)
	}
	switch {
	case c.Every < 0:
		return bad("Every", c.Every, "0 (1s) or more")
	case c.Notify&^balance.ClassAll != 0:
		return bad("Notify", c.Notify, "classes of balance.ClassAll")
	case c.Notify != 0 && c.Connections == nil:
		return bad("Notify", c.Notify, "0, or Connections to tell them")
	case c.StopTimeout < 0:
		return bad("StopTimeout", c.StopTimeout, "0 (1m) or more")
	}
	c.Window = cmp.Or(c.Window, 5*time.Minute)
	c.KeepAlive = cmp.Or(c.KeepAlive, 5*time.Minute)
	c.Every = cmp.Or(c.Every, time.Second)
	c.Quiet = max(0, cmp.Or(c.Quiet, time.Second))
	c.StopTimeout = cmp.Or(c.StopTimeout, time.Minute)
	if c.Quiet >= cordonMax {
		return bad(
			"Quiet", c.Quiet,
			fmt.Sprintf("less than %v: no cordon lasts longer, so none would end in a stop", cordonMax),
		)
	}
	return c, nil
}

// cordon is the configuration of the state machines, resolved.
func (c Config) cordon() cordon.Config {
	return cordon.Config{
		Quiet: c.Quiet, CordonMax: cordonMax, Notice: notice, Backoff: max(0, c.Window/5),
		StuckAfter: 2 * c.StopTimeout,
	}
}

// decider is the configuration of the default policies, resolved.
func (c Config) decider() policy.Config {
	return policy.Config{Window: c.Window, KeepAlive: c.KeepAlive, Every: c.Every, Notify: c.Notify}
}
