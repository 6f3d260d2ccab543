package policy

import (
	"cmp"
	"fmt"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Config configures a [Decider]. The zero value is valid: it hardly ever has a machine stopped
// only to be started again. For machines that cost more than a start, a window of 2 min, a
// headroom of 0.9, a keep-alive of 1 min and 15 s to settle sleep early and run full; to keep
// room for a load that comes back, 15 min, 0.7, 30 min and 1 min.
type Config struct {
	// Window is how far back the load counts for the head-room rule. 0 means 5 min: with that, a load
	// that swings through the day with noise on top hardly ever has a machine stopped only to be
	// started again. Negative turns the rule off: only the keep-alive stops machines.
	Window time.Duration
	// Headroom is the part of the remaining machines' limits that the largest load of the window may
	// take. 0 means 0.8; at most 1.
	Headroom float64
	// KeepAlive is how long an app without a request keeps its machines, where [balance.App].KeepAlive
	// is 0 and [Situation].KeepAlive is too. 0 means 5 min. Negative turns the rule off: an app's last
	// machine then runs for ever, unless its own KeepAlive says otherwise.
	KeepAlive time.Duration
	// Settle is how long after a start the head-room rule leaves a region alone. 0 means 30 s, or
	// Window where that is shorter. Negative means not at all.
	Settle time.Duration
	// Every is how often the decider is asked. 0 means 1 s.
	Every time.Duration
	// Notify are the classes of long connections that do not keep a machine: they may be told to end.
	Notify balance.Class
}

func (c Config) resolve() (Config, error) {
	bad := func(field string, v any, want string) (Config, error) {
		return Config{}, fmt.Errorf("policy: Config.%s %v: want %s", field, v, want)
	}
	switch {
	case c.Headroom < 0 || c.Headroom > 1 || c.Headroom != c.Headroom:
		return bad("Headroom", c.Headroom, "0 (0.8) or more, at most 1")
	case c.Every < 0:
		return bad("Every", c.Every, "0 (1s) or more")
	case c.Notify&^balance.ClassAll != 0:
		return bad("Notify", c.Notify, "classes of balance.ClassAll")
	}
	c.Window = cmp.Or(c.Window, 5*time.Minute)
	c.Headroom = cmp.Or(c.Headroom, 0.8)
	c.KeepAlive = cmp.Or(c.KeepAlive, 5*time.Minute)
	c.Every = cmp.Or(c.Every, time.Second)
	if c.Settle == 0 {
		c.Settle = min(30*time.Second, max(0, c.Window))
	}
	return c, nil
}
