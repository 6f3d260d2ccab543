package downscale

import (
	"fmt"
	"strings"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Verdict is what a [Decision] is for.
type Verdict uint8

// The verdicts.
const (
	Hold   Verdict = iota // no machine of the region is stopped now
	Spare                 // the machine is surplus: stop it
	Recall                // the machine was surplus and is so no longer
)

var verdictNames = [...]string{"hold", "spare", "recall"}

// String returns the verdict's name.
func (v Verdict) String() string { return name(verdictNames[:], uint8(v), "verdict") }

// Why is the rule that a [Decision] follows.
type Why uint8

// The rules. The comment says which verdicts they come with.
const (
	RuleOff       Why = iota // hold, recall: App.Autostop is off
	RuleStale                // hold, recall: what others report is too old to stop anything on
	RuleParked               // hold, recall: requests wait for a machine
	RuleStarting             // hold, recall: a machine of the region is starting
	RuleSettle               // hold: one was, a moment ago
	RuleUnwatched            // hold, recall: the load has not been watched for the whole window
	RuleNeeded               // hold, recall: the others would be too full without the machine
	RuleLast                 // hold, recall: the app's last machine waits for the keep-alive
	RuleMinimum              // hold, recall: no more machines run than the minimum
	RulePace                 // hold: enough machines are on their way already
	RuleBackoff              // hold: the machines that could be spared were needed a moment ago
	RuleBusy                 // hold: the machine that could be spared has long connections, or says that it is busy
	RuleTurn                 // hold: a machine of another owner goes first
	RuleExcess               // hold, spare: see Excess
	RuleOther                // of your own policy: see Decision.Text
	RuleHeadroom             // spare: the others have room enough
	RuleKeepAlive            // spare: nothing has been used for the whole keep-alive
)

var whyNames = [...]string{"off", "stale", "parked", "starting", "settle", "unwatched", "needed", "last", "minimum", "pace", "backoff", "busy", "turn",
	"excess", "other", "headroom", "keep-alive"}

// String returns the rule's name.
func (w Why) String() string { return name(whyNames[:], uint8(w), "rule") }

// Decision is what a [Decider] decided about one region, or about one machine of it, and why. It is a comparable value;
// fields that the rule does not name are zero.
type Decision struct {
	App     balance.AppID
	Region  string
	Machine balance.MachineID // the one to spare or recall; of a Hold, the one that the rule is about, if it is about one
	Verdict Verdict
	Why     Why

	Text string // of policies of your own: the reason, said instead of the rule's
	// of Trace.Vetoed: what keeps the decision from being carried out, a sentence for people
	Bound string

	Count    int           // RuleParked: requests; RuleMinimum, RuleExcess: machines that run; RulePace: on their way
	Open     Class         // RuleBusy: long connections that keep it, none if it says so itself; RuleLast: of the app; when vetoed: of the machine
	Over     int           // RuleExcess: machines at or above their soft limit
	Peak     int           // RuleHeadroom, RuleNeeded: largest load in the window
	Capacity int           // RuleHeadroom, RuleNeeded: of the others; Unlimited if one of them has no limit
	Headroom float64       // RuleHeadroom, RuleNeeded: the part of Capacity that the peak may take
	For      time.Duration // RuleKeepAlive, RuleLast: idle; RuleUnwatched: watched; RuleSettle: since the last start
	Of       time.Duration // the keep-alive, window or settle time that applies
}

// Unlimited is the capacity of machines of which one has neither a soft nor a hard limit.
const Unlimited = balance.MaxLimit + 1

// Reason says in a sentence for people why it was decided so.
func (d Decision) Reason() string {
	if d.Text != "" {
		return d.Text
	}
	switch d.Why {
	case RuleOff:
		return "autostop is off"
	case RuleStale:
		return "what was last reported is too old"
	case RuleParked:
		return fmt.Sprintf("%s parked", count(d.Count, "request"))
	case RuleStarting:
		if d.Verdict == Recall {
			return "another machine is starting"
		}
		return fmt.Sprintf("%s is starting", d.Machine)
	case RuleSettle:
		return fmt.Sprintf("settling: %s of %s since the last start", short(d.For), short(d.Of))
	case RuleUnwatched:
		return fmt.Sprintf("watched for %s of the window of %s", short(d.For), short(d.Of))
	case RuleNeeded:
		return d.rule(">")
	case RuleLast:
		switch {
		case d.For <= 0 && d.Open != 0:
			return fmt.Sprintf("the last machine is in use: %v open", d.Open)
		case d.For <= 0:
			return "the last machine is in use"
		case d.Of < 0:
			return "the last machine stays: keep-alive is off"
		}
		return fmt.Sprintf("the last machine waits for the keep-alive: idle for %s of %s", short(d.For), short(d.Of))
	case RuleMinimum:
		return fmt.Sprintf("minimum: %s running", count(d.Count, "machine"))
	case RulePace:
		return fmt.Sprintf("%s on the way already", count(d.Count, "machine"))
	case RuleBackoff:
		return "what could be spared was needed a moment ago"
	case RuleBusy:
		if d.Open != 0 {
			return fmt.Sprintf("%s could be spared but for its long connections: %v", d.Machine, d.Open)
		}
		return fmt.Sprintf("%s could be spared and is busy", d.Machine)
	case RuleTurn:
		return fmt.Sprintf("%s goes first, and is not ours", d.Machine)
	case RuleExcess:
		return fmt.Sprintf("%s running, %d at the soft limit", count(d.Count, "machine"), d.Over)
	case RuleOther:
		return "by a policy that says no more"
	case RuleHeadroom:
		return d.rule("<=")
	case RuleKeepAlive:
		return fmt.Sprintf("keep-alive %s over: no request since %s", short(d.Of), short(d.For))
	}
	return fmt.Sprintf("rule(%d)", uint8(d.Why))
}

func (d Decision) rule(relation string) string {
	capacity := fmt.Sprint(d.Capacity)
	if d.Capacity == Unlimited {
		capacity = "unlimited"
	}
	return fmt.Sprintf("window %s peak %d %s %g x %s without %s", short(d.Of), d.Peak, relation, d.Headroom, capacity, d.Machine)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// short is a duration as people write it: 5m, not 5m0s; below a minute in tenths of a second.
func short(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	s := d.Round(time.Second).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
