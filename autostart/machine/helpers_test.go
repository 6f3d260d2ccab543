package machine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ebbkit/ebb/autostart"
	"github.com/ebbkit/ebb/balance"
)

const sec = time.Second

// canonical returns m0, m1... in the order in which they are started.
func canonical(app balance.AppID, n int) []balance.MachineID {
	ids := make([]balance.MachineID, n)
	for i := range ids {
		ids[i] = balance.MachineID(fmt.Sprintf("m%d", i))
	}
	slices.SortFunc(ids, func(a, b balance.MachineID) int {
		return (&balance.Machine{App: app, ID: a}).Compare(&balance.Machine{App: app, ID: b})
	})
	return ids
}

// class fails the test unless err is of that class and, if after is set, says when to come back.
func class(t *testing.T, err, want error, after bool) {
	t.Helper()
	e, ok := errors.AsType[*autostart.Error](err)
	if !ok || !errors.Is(err, want) || after != (e.RetryAfter() > 0) {
		t.Errorf("error %v, retry after %v; want %v", err, e.RetryAfter(), want)
	}
}

// pause returns after d, or when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
