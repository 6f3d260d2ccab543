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
	// cordonMax is how long a soft cordon lasts at most. A machine that is not acknowledged or idle
	// by then is unlikely to become so soon, and meanwhile the other machines carry its load.
	cordonMax = 30 * time.Second
	// notice is how long notified connections may take to end: a close frame and its answer need
	// one round trip, and a client that needs longer is probably gone.
	notice = 5 * time.Second
	// parallel bounds the concurrent calls of the driver, so that a thousand idle machines do not
	// flood it.
	parallel = 64
)

// Config configures a [Downscaler], and with it its policies and soft cordons. The zero value is
// valid.
type Config struct {
	// Policy makes the policy of an app; nil means a [policy.Decider] with this Window, KeepAlive,
	// Every and Notify. To have old revisions stopped first, wrap a Decider and fill in
	// [policy.Situation].Revision.
	Policy func(balance.AppID) policy.Policy

	// Window is how far back the load counts for the head-room rule. 0 means 5 min: with that, a
	// load that swings through the day with noise on top hardly ever has a machine stopped only
	// to be started again. Negative turns the rule off: only the keep-alive stops machines.
	Window time.Duration
	// KeepAlive is how long an app without requests keeps its machines if [balance.App.KeepAlive]
	// is 0 and Habits has learned nothing. 0 means 5 min. Negative turns the rule off: an app's
	// last machine then runs for ever, unless the app's own KeepAlive says otherwise.
	KeepAlive time.Duration
	// Every is how often the gates are read and machines decided on. 0 means 1 s. Machines that are
	// being stopped are looked at at least every 100 ms.
	Every time.Duration

	// Quiet is how long a soft-cordoned machine must be idle, with its cordon acknowledged by every
	// node, before it is stopped. 0 means 1 s; negative means no wait. It gives requests that are
	// already under way time to arrive.
	Quiet time.Duration
	// Notify holds the classes of long connections that do not keep a machine running: when nothing
	// else is in flight, they are told to end. If some have not ended after 5 s, the stop is
	// aborted. Connections of other classes keep the machine running, as requests do. All of them
	// count as load and use: the keep-alive does not begin while one is open.
	Notify balance.Class
	// StopTimeout bounds each call of the driver. 0 means 1 min. Twice as long without an answer
	// raises an alarm.
	StopTimeout time.Duration
	// Busy reports that a machine must not be stopped now although nothing is in flight, because it
	// works on something that did not come as a request. An [Order] with Drain does not ask it. nil
	// means never. It must not block.
	Busy func(balance.Machine) bool
	// Connections reports long connections; nil means that none is known, and each counts as a
	// request.
	Connections Connections
	// Habits learns each app's pauses and how long it is worth keeping: longer than KeepAlive if
	// its requests come back a little later than that, shorter if they do not. An app's own
	// KeepAlive takes precedence. nil means that nothing is learned.
	//
	// The pauses are those that this node sees: in its own machines, in those whose load Views
	// reports, and in waiting requests. Where several nodes own an app's machines and do not share
	// their loads, each learns the pauses of its own machines. Those are longer than the app's, so
	// machines are kept longer than necessary, never shorter.
	Habits *Habits
	// Views holds what other nodes report: waiting requests, acknowledged cordons and loads of the
	// machines they own. nil means that this process is the only node.
	Views Views
	// Trace observes; the zero value observes nothing.
	Trace Trace
}

// Trace is a set of functions that are called with values as things happen. Each may be nil. They
// are called with no lock held, from the goroutines of [Downscaler.Run] and [Downscaler.Drain], and
// must not block.
type Trace struct {
	// soft-cordoned: about to stop, unless traffic comes
	Cordoned   func(m balance.Machine, reason string)
	Uncordoned func(m balance.Machine, reason string)    // runs on: it is needed after all
	Notified   func(m balance.Machine, of balance.Class) // long connections were told to end
	// an order closed the gate while requests were in flight
	Draining func(m balance.Machine, reason string)
	Stopping func(m balance.Machine, reason string) // the gate is closed and the driver told to stop
	// the gate is closed and the driver told to suspend
	Suspending func(m balance.Machine, reason string)
	Stopped    func(m balance.Machine, took time.Duration)
	Suspended  func(m balance.Machine, took time.Duration)
	Failed     func(m balance.Machine, err error) // the driver failed
	// the driver does not answer or is in doubt: someone should look at the machine
	Stuck func(m balance.Machine, reason string)
	Held  func(d policy.Decision) // the reason why a region stops nothing has changed
	// a bound refuses what a policy said, and did not refuse it the time before: see
	// [policy.Bounded]
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
