// Package downscale puts machines to sleep that nobody needs, without losing a request.
//
// A machine's owner runs it, for the machines it hosts. Two cores decide and a shell acts:
//
//   - a [policy.Policy] per app says which machines are surplus. The default is [policy.Decider]: an app that nobody uses goes to its
//     minimum when its keep-alive is over, a busy one gives up what the largest load of the last minutes does not justify;
//   - a [cordon.Machine] per machine makes the stop safe. The machine is soft-cordoned first, so that requests go elsewhere, and
//     every node acknowledges that. A request that knew of it and came all the same had nothing better: the stop is
//     aborted. Then the gate closes by compare-and-swap at zero in flight, and only behind a closed gate is the driver told;
//   - a [Downscaler] looks at the gates, steps the cores, and calls the driver.
//
// Deploys, maintenance and rules from elsewhere stop machines by the same protocol, through [Downscaler.Stop]. They proceed
// without the acknowledgement of every node, since the gate protects whoever does not know; how much they wait for what is
// in flight their [Order] says.
//
// Long connections (WebSockets, streams, raw TCP) are load, and keep their machine: [Trace].Held says which, once. Where
// [Config.Notify] says so they are told first, by whoever forwards them ([Connections]; package backhaul has one), have [Config.Notice] to end, and only then does the gate close. No machine is ever suspended under a connection.
// A long connection that has carried no data for [balance.App].IdleAfter keeps no machine, the last one of its app neither: it
// is told as those of Notify are. Data counts, not sockets: servers ping to keep connections alive.
//
// Safety depends on no timer and on no report being fresh. What is late makes a machine sleep
// later, never a request fail: whatever is in doubt (a missing acknowledgement, an old report, a
// silent driver) ends in the machine running on, or in a closed gate that sends callers elsewhere.
// A start that somebody wants during a stop is remembered by the gate, and done afterwards by
// whoever starts this node's machines: a machine.Starter, or another [balance.Keeper]. Several
// downscalers, each for its own machines, need not agree on anything: each vetoes for its machines,
// and the order that all share keeps the minimum. With [Loads] they also stop together what one of
// them would.
//
// Nothing that the package remembers has to survive: a Downscaler that starts anew finds leftovers of an earlier one in the
// gates and releases them.
package downscale

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale/cordon"
	"github.com/ebbkit/ebb/downscale/policy"
)

// Driver ends machines. It is called from several goroutines, for one machine only once at a time.
type Driver interface {
	// Stop ends m and returns when it is gone. Stopping a machine that does not run is no error.
	// After any error but ctx's the machine is taken as running still; after ctx's as in doubt, and
	// Stop is called again. An error that has a method RetryAfter() time.Duration, as
	// autostart.TryAgain has, passes by itself: the machine runs, and the call is made again, not
	// before that time, as long as [Config].StopTimeout lasts and nobody wants the machine.
	Stop(ctx context.Context, m balance.Machine) error
	// Suspend freezes m so that a start resumes it. Errors that pass by themselves are tried again
	// as those of Stop are. After any other the machine is stopped instead; where the driver cannot
	// suspend, the error matches [errors.ErrUnsupported].
	Suspend(ctx context.Context, m balance.Machine) error
}

// Demand tells how many requests wait for an app's machines, on all edges.
type Demand interface {
	// Parked returns the number as last reported; fresh is false when some edge's report is missing or too old. It must not
	// block.
	Parked(app balance.AppID) (n int, fresh bool)
}

// Acks tells what other nodes know.
type Acks interface {
	// Acked reports whether every live node picks by that generation of the machine's cordon, or a later one. Live is a node
	// that may still send something: one that is silent counts until it cannot any longer, say since its lease has ended, and
	// one that has begun anew has acknowledged nothing. It must not block.
	Acked(app balance.AppID, id balance.MachineID, gen uint64) bool
}

// Loads tells the load of machines that other nodes own, as their owners reported it. [Reports] is one.
type Loads interface {
	// Load returns what is in flight on the machine, and how much of that are long connections that
	// have carried no data for App.IdleAfter; fresh is false when the report is missing or too old. It
	// must not block.
	Load(app balance.AppID, id balance.MachineID) (inFlight, idle int, fresh bool)
}

// Habits learns from an app's own pauses how long its machines are worth keeping. [Idles] is one.
type Habits interface {
	// Gap tells of a pause of the app that has just ended, as long as the keep-alive sees it: from the last look that found it
	// in use, and idle after that, to the first that found it in use again. It must not block.
	Gap(app balance.AppID, d time.Duration)
	// KeepAlive returns how long the app keeps its machines without a request, or otherwise, which is what holds where nothing
	// has been learned. It must not block.
	KeepAlive(app balance.AppID, otherwise time.Duration) time.Duration
}

// Config configures a [Downscaler], and with it its deciders and protocols. The zero value is valid.
type Config struct {
	// Policy makes the policy of an app; nil means a [policy.Decider] with this
	// Window, KeepAlive, Every and Notify.
	Policy func(balance.AppID) policy.Policy

	// Window is how far back the load counts for the head-room rule. 0 means 5 min: with that, a load that swings through the
	// day with noise on top hardly ever has a machine stopped only to be started again. Negative turns the rule off: only the
	// keep-alive stops machines.
	Window time.Duration
	// KeepAlive is how long an app without a request keeps its machines, where [balance.App.KeepAlive] is 0 and Habits know
	// nothing better. 0 means 5 min. Negative turns the rule off: an app's last machine then runs for ever, unless its own
	// KeepAlive says otherwise.
	KeepAlive time.Duration
	// Every is how often the gates are looked at and machines decided on. 0 means 1 s. Machines on their way are looked at
	// every 100 ms at least.
	Every time.Duration

	// Quiet is how long a soft-cordoned machine has to be idle, its cordon known everywhere, before it is stopped. 0 means
	// 1 s; negative not at all. It gives requests that are on their way time to arrive.
	Quiet time.Duration
	// CordonMax is how long a soft cordon lasts at most. What has not been acknowledged or has not become idle by then is
	// aborted. 0 means 30 s.
	CordonMax time.Duration
	// Backoff is how long a machine whose stop was aborted is left alone. It doubles with each abort in a row, up to 16 times
	// this. 0 means a fifth of Window: 1 min; negative not at all. When the whole app is idle it is waited for only after a
	// failure (of the driver, or a node that acknowledged nothing), not after a request.
	Backoff time.Duration
	// Notify are the classes of long connections that do not keep a machine: when nothing else is in flight, they are told
	// to end. What has not ended after Notice has the stop aborted all the same. Connections of other classes keep the
	// machine, as requests do. All of them are load and use: the keep-alive does not begin while one is open.
	Notify Class
	// Notice is how long connections that were told may take to end. 0 means 5 s.
	Notice time.Duration
	// StopTimeout bounds each call of the driver. 0 means 1 min. Twice as long without an answer is an alarm.
	StopTimeout time.Duration
	// Parallel bounds the calls of the driver at once. 0 means 64.
	Parallel int

	// Revision tells which revision of an app is the present one: machines of any other are stopped first. nil, or an empty
	// answer, means that all are equal. It must not block.
	Revision func(balance.AppID) string
	// Busy reports that a machine must not be stopped now though nothing is in flight: it works on something that did not
	// come as a request. Only an [Order] with Drain does not ask it. nil means never. It must not block.
	Busy func(balance.Machine) bool
	// Connections tells of long connections; nil means that none is known, and each counts as a request.
	Connections Connections
	// Loads tells the load of machines that other nodes own. With nil the head-room rule looks at this node's machines only,
	// which is right where a region has one owner.
	Loads Loads
	// Habits learns each app's pauses and says how long it is kept: longer than KeepAlive where it comes back a little later
	// than that, shorter where it does not. An app's own KeepAlive beats it. nil means that nothing is learned.
	//
	// Pauses are of what this node sees: its own machines, those whose Loads it knows, and what waits. Where several nodes own
	// an app's machines and tell no loads, each learns the pauses of its own; they are longer than the app's, so machines are
	// kept longer than they need be, and never for a shorter time.
	Habits Habits
	// Demand tells of waiting requests; nil means that there are none.
	Demand Demand
	// Acks tells when other nodes know a cordon; nil means at once, which is right when this process is the only node.
	Acks Acks
	// Trace observes; the zero value observes nothing.
	Trace Trace
}

// Trace is a set of functions that are called as things happen, with values. Each may be nil. They are called with no lock
// held, from the goroutine of [Downscaler.Run] and from those of [Downscaler.Drain], and must not block.
type Trace struct {
	Cordoned   func(m balance.Machine, reason string) // soft-cordoned: about to go, unless traffic comes
	Uncordoned func(m balance.Machine, reason string) // runs on: needed after all
	Notified   func(m balance.Machine, of Class)      // long connections were told to end
	Draining   func(m balance.Machine, reason string) // the gate is closed over what is in flight, by order
	Stopping   func(m balance.Machine, reason string) // the gate is closed and the driver told to stop
	Suspending func(m balance.Machine, reason string) // the gate is closed and the driver told to suspend
	Stopped    func(m balance.Machine, took time.Duration)
	Suspended  func(m balance.Machine, took time.Duration)
	Failed     func(m balance.Machine, err error)     // the driver could not
	Stuck      func(m balance.Machine, reason string) // the driver is silent or in doubt: people should look
	Held       func(d policy.Decision)                // a region's reason to stop nothing has changed
	Vetoed     func(d policy.Decision)                // what a policy said was not carried out, and not said and refused the time before: see Policy
}

func (c Config) resolve() (Config, error) {
	bad := func(field string, v any, want string) (Config, error) {
		return Config{}, fmt.Errorf("downscale: Config.%s %v: want %s", field, v, want)
	}
	switch {
	case c.Every < 0:
		return bad("Every", c.Every, "0 (1s) or more")
	case c.CordonMax < 0:
		return bad("CordonMax", c.CordonMax, "0 (30s) or more")
	case c.Notify&^AllClasses != 0:
		return bad("Notify", c.Notify, "classes of AllClasses")
	case c.Notify != 0 && c.Connections == nil:
		return bad("Notify", c.Notify, "0, or Connections to tell them")
	case c.Notice < 0:
		return bad("Notice", c.Notice, "0 (5s) or more")
	case c.StopTimeout < 0:
		return bad("StopTimeout", c.StopTimeout, "0 (1m) or more")
	case c.Parallel < 0:
		return bad("Parallel", c.Parallel, "0 (64) or more")
	}
	c.Window = cmp.Or(c.Window, 5*time.Minute)
	c.KeepAlive = cmp.Or(c.KeepAlive, 5*time.Minute)
	c.Every = cmp.Or(c.Every, time.Second)
	c.Quiet = max(0, cmp.Or(c.Quiet, time.Second))
	c.CordonMax = cmp.Or(c.CordonMax, 30*time.Second)
	if c.Backoff == 0 {
		c.Backoff = c.Window / 5
	}
	c.Backoff = max(0, c.Backoff)
	c.Notice = cmp.Or(c.Notice, 5*time.Second)
	c.StopTimeout = cmp.Or(c.StopTimeout, time.Minute)
	c.Parallel = cmp.Or(c.Parallel, 64)
	if c.Quiet >= c.CordonMax {
		return bad("Quiet", c.Quiet, fmt.Sprintf("less than CordonMax, which is %v: no cordon would ever end in a stop", c.CordonMax))
	}
	return c, nil
}

// cordon is the configuration of the state machines, resolved.
func (c Config) cordon() cordon.Config {
	return cordon.Config{Quiet: c.Quiet, CordonMax: c.CordonMax, Notice: c.Notice, Backoff: c.Backoff, StuckAfter: 2 * c.StopTimeout}
}

// decider is the configuration of the default policies, resolved.
func (c Config) decider() policy.Config {
	return policy.Config{Window: c.Window, KeepAlive: c.KeepAlive, Every: c.Every, Notify: c.Notify}
}
