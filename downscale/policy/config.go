package policy

import (
	"cmp"
	"fmt"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// Config configures a [Decider]. The zero value is valid: with it, a machine is hardly ever stopped
// only to be started again. If machines cost more than starts, a window of 2 min, a headroom of
// 0.9, a keep-alive of 1 min and a settle time of 15 s make machines sleep early and run full. To
// keep room for a load that comes back, use 15 min, 0.7, 30 min and 1 min.
type Config struct {
	// Window is how far back the load counts for the head-room rule. 0 means 5 min: with that,
	// under a load that varies over the day with noise on top, a machine is hardly ever stopped
	// only to be started again. Negative turns the rule off: only the keep-alive stops machines.
	Window time.Duration
	// Headroom is the fraction of the remaining machines' limits that the largest load of the
	// window may take. 0 means 0.8; at most 1.
	Headroom float64
	// KeepAlive is how long an app without requests keeps its machines if both
	// [balance.App].KeepAlive and [Situation].KeepAlive are 0. 0 means 5 min. Negative turns the
	// rule off: an app's last machine then runs for ever, unless the app's own KeepAlive says
	// otherwise.
	KeepAlive time.Duration
	// Settle is how long after a start the head-room rule leaves a region alone. 0 means 30 s, or
	// Window where that is shorter. Negative means not at all.
	Settle time.Duration
	// Every is how often the decider is asked. 0 means 1 s.
	Every time.Duration
	// Notify holds the classes of long connections that do not keep a machine running: they may be
	// told to end.
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
