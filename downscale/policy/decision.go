package policy

import (
	"fmt"
	"strings"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/internal/enum"
)

// Verdict is what a [Decision] is for.
type Verdict uint8

// The verdicts.
const (
	VerdictHold   Verdict = iota // no machine of the region is stopped now
	VerdictSpare                 // the machine is surplus: stop it
	VerdictRecall                // the machine was surplus and is no longer
)

var verdictNames = [...]string{"hold", "spare", "recall"}

// String returns the verdict's name.
func (v Verdict) String() string { return enum.String(verdictNames[:], uint8(v), "verdict") }

// MarshalText returns the verdict's name; a value without one is an error.
func (v Verdict) MarshalText() ([]byte, error) {
	return enum.Marshal("policy: verdict", verdictNames[:], uint8(v))
}

// UnmarshalText is the inverse of [Verdict.MarshalText]; the error lists the names.
func (v *Verdict) UnmarshalText(text []byte) error {
	return enum.Unmarshal(v, "policy: verdict", verdictNames[:], text)
}

// The rules of [Decision.Rule]. The comment says which verdicts they come with.
const (
	ruleOff       = "off"        // hold, recall: App.Autostop is off
	ruleStale     = "stale"      // hold, recall: other nodes' reports are too old to stop anything
	ruleParked    = "parked"     // hold, recall: requests wait for a machine
	ruleStarting  = "starting"   // hold, recall: a machine of the region is starting
	ruleSettle    = "settle"     // hold: a machine of the region started a moment ago
	ruleUnwatched = "unwatched"  // hold, recall: the load was not observed for the whole window
	ruleNeeded    = "needed"     // hold, recall: the others would be too full without the machine
	ruleLast      = "last"       // hold, recall: the app's last machine waits for the keep-alive
	ruleMinimum   = "minimum"    // hold, recall: no more machines run than the minimum
	rulePace      = "pace"       // hold: enough machines are leaving already
	ruleBackoff   = "backoff"    // hold: the machines that could be spared were needed a moment ago
	ruleBusy      = "busy"       // hold: see Decision.Busy
	ruleTurn      = "turn"       // hold: a machine of another owner goes first
	ruleHeadroom  = "headroom"   // spare: the others have room enough
	ruleKeepAlive = "keep-alive" // spare: nothing has been used for the whole keep-alive
)

// Decision is what a [Policy] decided about one region, or about one machine of it, and why. It is
// a comparable value. A policy of your own sets Machine, Verdict and Text, and Idle if it applies.
type Decision struct {
	App     balance.AppID
	Region  string
	Machine balance.MachineID // of a hold, the one that the rule is about, if it is about one
	Verdict Verdict
	// Idle, of VerdictSpare, says that nothing of the whole app has been used for so long that the
	// app may sleep: that the machine was needed a moment ago is then no reason to wait.
	Idle bool
	// Rule is the name of the rule that applies, for people and for counting. Policies of your own
	// may leave it empty and explain themselves in Text.
	Rule string
	Text string // of policies of your own: the reason, said instead of the rule's
	// Bound is a sentence for people: what prevents the decision from being carried out, see
	// [Bounded.Refused].
	Bound string

	// Count is a number of machines that run (minimum) or are leaving (pace), or of requests
	// (parked).
	Count int
	// Open holds the long connections that keep the machine (busy), none if the machine itself says
	// that it is busy; or those of the app (last), or of a machine whose sparing was refused.
	Open balance.Class
	Peak int // headroom, needed: largest load in the window
	// headroom, needed: of the others; above balance.MaxLimit if one of them has no limit
	Capacity int
	Headroom float64       // headroom, needed: the part of Capacity that the peak may take
	For      time.Duration // keep-alive, last: idle; unwatched: watched; settle: since the last start
	Of       time.Duration // the keep-alive, window or settle time that applies
}

// Busy reports whether a machine could be spared if it had no long connections, or did not say that
// it is busy.
func (d Decision) Busy() bool { return d.Rule == ruleBusy }

// unlimited is the capacity of a set of machines of which one has neither a soft nor a hard limit.
const unlimited = balance.MaxLimit + 1

// Reason returns a sentence for people that explains the decision.
func (d Decision) Reason() string {
	if d.Text != "" {
		return d.Text
	}
	switch d.Rule {
	case ruleOff:
		return "autostop is off"
	case ruleStale:
		return "what was last reported is too old"
	case ruleParked:
		return fmt.Sprintf("%s parked", count(d.Count, "request"))
	case ruleStarting:
		if d.Verdict == VerdictRecall {
			return "another machine is starting"
		}
		return fmt.Sprintf("%s is starting", d.Machine)
	case ruleSettle:
		return fmt.Sprintf("settling: %s of %s since the last start", short(d.For), short(d.Of))
	case ruleUnwatched:
		return fmt.Sprintf("watched for %s of the window of %s", short(d.For), short(d.Of))
	case ruleNeeded:
		return d.rule(">")
	case ruleLast:
		switch {
		case d.For <= 0 && d.Open != 0:
			return fmt.Sprintf("the last machine is in use: %v open", d.Open)
		case d.For <= 0:
			return "the last machine is in use"
		case d.Of < 0:
			return "the last machine stays: keep-alive is off"
		}
		return fmt.Sprintf(
			"the last machine waits for the keep-alive: idle for %s of %s", short(d.For), short(d.Of),
		)
	case ruleMinimum:
		return fmt.Sprintf("minimum: %s running", count(d.Count, "machine"))
	case rulePace:
		return fmt.Sprintf("%s on the way already", count(d.Count, "machine"))
	case ruleBackoff:
		return "what could be spared was needed a moment ago"
	case ruleBusy:
		if d.Open != 0 {
			return fmt.Sprintf("%s could be spared but for its long connections: %v", d.Machine, d.Open)
		}
		return fmt.Sprintf("%s could be spared and is busy", d.Machine)
	case ruleTurn:
		return fmt.Sprintf("%s goes first, and is not ours", d.Machine)
	case "":
		return "by a policy that says no more"
	case ruleHeadroom:
		return d.rule("<=")
	case ruleKeepAlive:
		return fmt.Sprintf("keep-alive %s over: no request since %s", short(d.Of), short(d.For))
	}
	return d.Rule
}

func (d Decision) rule(relation string) string {
	capacity := fmt.Sprint(d.Capacity)
	if d.Capacity == unlimited {
		capacity = "unlimited"
	}
	return fmt.Sprintf(
		"window %s peak %d %s %g x %s without %s", short(d.Of), d.Peak, relation, d.Headroom, capacity,
		d.Machine,
	)
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
