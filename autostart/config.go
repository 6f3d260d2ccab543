package autostart

import (
	"context"
	"fmt"
	"time"

	"github.com/ebbkit/ebb/autostart/policy"
	"github.com/ebbkit/ebb/balance"
)

// Owner is how an edge reaches the owner of a machine, in the same process or over the hop. m is
// the row as the caller sees it. Its methods are called from several goroutines, one at a time for
// each machine, and should end with their context. A start may come while a recall of the same
// machine is under way: a row update may arrive before the call returns.
type Owner interface {
	// Start starts m from the epoch of its row and returns when that is accepted, not when m is ready.
	Start(ctx context.Context, m balance.Machine) (balance.StartAnswer, error)
	// Recall ends the soft cordon of m's cordon generation. When that cordon has ended by itself it is
	// no error.
	Recall(ctx context.Context, m balance.Machine) error
}

// Config configures an [Autostart].
type Config struct {
	// MaxParked bounds the requests of one app that wait; one more is rejected with [ErrCrowded].
	// Fewer wait where it is known how many are served in a second: as many as are served before
	// their patience ends, but at least 16. Requests that return to an old place do not count. 0
	// means 10,000, and 1000 while that is not known; negative: nobody waits.
	//
	// What they hold in memory is bounded too, at 32 KiB for each of MaxParked, or of 1000 where that
	// is 0: 1 KiB a request, and what has been read of its body. Over all apps, ten times as many
	// wait. When that is reached, an app with less than its equal share gets in all the same, and the
	// youngest request of the app with most is rejected instead: a flood of one starves no other.
	MaxParked int
	// MaxParkedTenant bounds the requests of one tenant of an app that wait, see
	// [balance.Request.Tenant]; those without one are one. 0 means no bound but the app's: when
	// that is reached, a request of a tenant with less than its equal share gets in all the same,
	// and the youngest of the tenant with most is rejected instead.
	MaxParkedTenant int
	// MaxWait bounds a wait. 0 means as long as a start that is in flight may take, see
	// [policy.Decision.Wait], and 10 s where there is none; whatever is started, no longer than 5 min,
	// or twice what one start may take. Negative: only the request's own context does. Unless it is
	// negative, who has waited for 5 s is turned away, with the reason, while all that starts is
	// doubtful, see [policy.Decision.Doubt].
	MaxWait time.Duration
	// Policy returns the policy of an app; Run calls it once for each, before the first decision, and
	// again when an app has been removed and comes back. nil, or a nil policy, means our own, a
	// [policy.Planner]; see also [policytest.NewSynchronous] and [policytest.NewAsynchronous]. All
	// apps wait for one policy: neither it nor this func may block. A panic of theirs is not
	// recovered.
	Policy func(balance.AppID) policy.Policy
	// DryRun decides and traces, and asks nobody to start or recall anything. Requests wait as if that
	// had been done: somebody else starts the machines. A decision that nobody carries out is made
	// again every 5 s.
	DryRun bool
	// Others returns the demand that other nodes have for an app and this home region. nil: there are
	// none, or they do not tell; then a machine whose owner says that it is full is taken to be full
	// of others' requests.
	Others func(app balance.AppID, region string) int
	Trace  Trace
}

// startTimeout bounds one call of the owner: a round trip between continents takes a thirtieth of
// it, and requests wait for no shorter time.
const startTimeout = 10 * time.Second

func (c Config) validate() error {
	if c.MaxParkedTenant < 0 {
		return fmt.Errorf(
			"autostart: Config.MaxParkedTenant %d: want 0 (no bound but the app's) or more", c.MaxParkedTenant)
	}
	return nil
}
