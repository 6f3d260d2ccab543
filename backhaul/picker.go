package backhaul

import (
	"context"

	"github.com/ebbkit/ebb/balance"
)

// Picker finds a machine for a request and counts the request in; [*autostart.Autostart] is one, and so is what [NoWait]
// returns. It may wait, until ctx ends or its own patience does. It must be safe for concurrent use.
//
// A Picker that waits forgets r.Tried, by setting it to nil, before it does so: once nothing else is left, a machine that
// was tried may be the one that gets free. The Transport takes that for the beginning of a new round.
//
// The errors are passed on to the client's side in an [*UnavailableError]. Where they have a method RetryAfter()
// time.Duration it becomes the Retry-After of the answer; where they have a method Cause() string, its cause.
//
// A Picker with a method Fleet() *[balance.Fleet], as both have, is asked for it: what the rows of
// apps say of their requests then holds, see [balance.App].BodyPause and the fields behind it. For
// others the defaults hold.
type Picker interface {
	Acquire(ctx context.Context, r *balance.Request) (balance.Reservation, error)
}

// NoWait returns a [Picker] that picks and never waits: a fleet without a waiting room and without
// autostart. Its requests insist, see [balance.Request].
func NoWait(b *balance.Balancer) Picker { return noWait{b} }

type noWait struct{ b *balance.Balancer }

func (p noWait) Acquire(_ context.Context, r *balance.Request) (balance.Reservation, error) {
	now := *r
	now.Insist = true
	return p.b.Pick(now)
}

// Fleet returns the fleet that is picked from.
func (p noWait) Fleet() *balance.Fleet { return p.b.Fleet() }
