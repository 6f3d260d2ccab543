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
// each machine, and should end with their context. A start may arrive while a recall of the same
// machine is under way: a row update may arrive before the call returns.
type Owner interface {
	// Start starts m from the epoch of its row and returns when the start is accepted, not when m is
	// ready.
	Start(ctx context.Context, m balance.Machine) (balance.StartAnswer, error)
	// Recall ends the soft cordon of m's cordon generation. It is not an error if that cordon has
	// already ended.
	Recall(ctx context.Context, m balance.Machine) error
}

// Config configures an [Autostart].
type Config struct {
	// MaxParked bounds the waiting requests of one app; one more is rejected with [ErrCrowded]. If the
	// service rate is known, the bound is lower: as many as are served before their patience ends, but
	// at least 16. Requests that return to an old place do not count. 0 means 10,000, and 1000 while
	// the rate is not known; negative: nobody waits.
	//
	// Their memory is bounded too, at 32 KiB for each of MaxParked, or of 1000 if that is 0: 1 KiB a
	// request, plus the bytes read of its body. Over all apps, ten times as many may wait. Beyond
	// that, an app with less than its equal share is still admitted, and the youngest request of the
	// app with most is rejected instead, so that a flood for one app starves no other.
	MaxParked int
	// MaxParkedTenant bounds the waiting requests of one tenant of an app, see
	// [balance.Request.Tenant]; requests without a tenant count as one. 0 means only the app's bound:
	// when that is reached, a tenant with less than its equal share is still admitted, and the
	// youngest request of the tenant with most is rejected instead.
	MaxParkedTenant int
	// MaxWait bounds a wait. 0 means as long as a start in flight may take, see
	// [policy.Decision.Wait], and 10 s without one; in all no longer than 5 min, or twice what one
	// start may take. Negative: only the request's own context bounds it. Unless it is negative, a
	// request that has waited for 5 s is rejected, with the reason, while all starts are doubtful, see
	// [policy.Decision.Doubt].
	MaxWait time.Duration
	// Policy returns the policy of an app; Run calls it once for each, before the first decision, and
	// again when an app has been removed and returns. nil, or a nil policy, means the default, a
	// [policy.Planner]; see also [policytest.NewSynchronous] and [policytest.NewAsynchronous]. All
	// apps wait for one policy: neither it nor this func may block. Their panics are not recovered.
	Policy func(balance.AppID) policy.Policy
	// DryRun decides and traces, but starts and recalls nothing. Requests wait as if that had been
	// done: somebody else starts the machines. A decision that nobody carries out is made again every
	// 5 s.
	DryRun bool
	// Others returns the demand of other nodes for an app and this home region. nil: there are none,
	// or they do not report it; then a machine whose owner reports it full is assumed to be full of
	// others' requests.
	Others func(app balance.AppID, region string) int
	Trace  Trace
}

// startTimeout bounds one call of the owner: a round trip between continents takes a thirtieth of
// it, and no request waits for less.
const startTimeout = 10 * time.Second

func (c Config) validate() error {
	if c.MaxParkedTenant < 0 {
		return fmt.Errorf(
			"autostart: Config.MaxParkedTenant %d: want 0 (no bound but the app's) or more", c.MaxParkedTenant)
	}
	return nil
}
