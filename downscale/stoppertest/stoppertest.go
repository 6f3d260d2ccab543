// Package stoppertest checks that a [downscale.Driver] keeps the contract which the rest of the
// library relies on: what a driver says of a machine decides whether requests are sent to it.
//
//	func TestMyDriver(t *testing.T) {
//		stoppertest.TestDriver(t, func(t *testing.T) stoppertest.Subject {
//			return stoppertest.Subject{Driver: mydriver.New(…), Boot: …, Runs: …}
//		})
//	}
//
// Each clause of the contract is a subtest of its own. The suite sleeps nowhere: it asks machines
// whether they run, up to a timeout that only a failing driver reaches. A driver that starts
// machines too is checked by package machinetest as well.
package stoppertest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/ebbkit/ebb/balance"
	"github.com/ebbkit/ebb/downscale"
)

// Subject is a driver under test and what the suite has to know about it.
type Subject struct {
	// Driver is the driver. Each clause gets a new Subject and leaves no machine of it running,
	// unless it fails.
	Driver downscale.Driver
	// Boot returns the row of a machine that runs, with an ID of its own.
	Boot func() balance.Machine
	// Runs reports whether the machine answers now. It may be wrong only by saying that it does
	// not, and must not take long.
	Runs func(m balance.Machine) bool
	// Resume starts a suspended machine again. Nil skips the clause about it.
	Resume func(m balance.Machine) error
	// Throttle makes the driver's calls fail with a transient error, or stop failing: the API that
	// the driver uses rejects calls for a while. Nil skips the clause about it.
	Throttle func(on bool)
	// Timeout bounds each wait; 0 means one minute. It may be long: a correct driver does not reach
	// it.
	Timeout time.Duration
}

// TestDriver runs all clauses against the drivers that newSubject returns, one for each.
func TestDriver(t *testing.T, newSubject func(t *testing.T) Subject) {
	for _, c := range clauses {
		t.Run(c.name, func(t *testing.T) {
			s := newSubject(t)
			if s.Driver == nil || s.Boot == nil || s.Runs == nil {
				t.Fatal("stoppertest: Subject.Driver, Subject.Boot and Subject.Runs must be set")
			}
			// not t's context: cleanups use it
			ctx, cancel := context.WithTimeout(context.Background(), cmp.Or(s.Timeout, time.Minute))
			t.Cleanup(cancel)
			c.check(&bench{T: t, Subject: s, ctx: ctx, clause: c.text})
		})
	}
}

// bench is what a clause works with.
type bench struct {
	*testing.T
	Subject
	ctx    context.Context // ends with the timeout
	clause string
}

// broken ends the test with the clause and what happened instead.
func (b *bench) broken(format string, args ...any) {
	b.Helper()
	b.Fatalf("the contract says: %s\nbut: %s", b.clause, fmt.Sprintf(format, args...))
}

var errBlocks = errors.New("it has not returned within the timeout")

// bound lets a call of the driver take until the timeout, so that a call which blocks for ever
// fails the clause instead of hanging the test.
func (b *bench) bound(call func() error) error {
	answered := make(chan error, 1)
	go func() { answered <- call() }()
	select {
	case err := <-answered:
		return err
	case <-b.ctx.Done():
		return errBlocks
	}
}

func (b *bench) tryStop(ctx context.Context, m balance.Machine) error {
	return b.bound(func() error { return b.Driver.Stop(ctx, m) })
}

// stop stops m, which must succeed.
func (b *bench) stop(m balance.Machine) {
	b.Helper()
	if err := b.tryStop(b.ctx, m); err != nil {
		b.broken("Stop(%s): %v", m.ID, err)
	}
}

func (b *bench) trySuspend(m balance.Machine) error {
	return b.bound(func() error { return b.Driver.Suspend(b.ctx, m) })
}

// suspend suspends m, or skips the clause if the driver cannot.
func (b *bench) suspend(m balance.Machine) {
	b.Helper()
	switch err := b.trySuspend(m); {
	case errors.Is(err, errors.ErrUnsupported):
		b.stop(m)
		b.Skip("the driver does not suspend")
	case err != nil:
		b.broken("Suspend(%s): %v", m.ID, err)
	}
}

// boot boots a machine and waits until it runs.
func (b *bench) boot() balance.Machine {
	b.Helper()
	m := b.Boot()
	b.runs(m)
	return m
}

// runs waits until m runs.
func (b *bench) runs(m balance.Machine) {
	b.Helper()
	for !b.Runs(m) {
		tick := time.NewTimer(2 * time.Millisecond)
		select {
		case <-tick.C:
		case <-b.ctx.Done():
			b.broken("%s does not run", m.ID)
		}
	}
}

// silent checks that m does not run.
func (b *bench) silent(m balance.Machine) {
	b.Helper()
	if b.Runs(m) {
		b.broken("%s still runs", m.ID)
	}
}
