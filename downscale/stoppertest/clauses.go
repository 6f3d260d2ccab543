package stoppertest

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ebbkit/ebb/balance"
)

// clauses are the contract: a name for the subtest, the sentence that a failure quotes, and the
// check.
var clauses = []struct {
	name  string
	text  string
	check func(*bench)
}{
	{"Stop/gone", "Stop ends a machine and returns when it is gone", stopGone},
	{"Stop/idle", "stopping a machine that does not run is no error", stopIdle},
	{"Stop/unknown", "stopping a machine that the driver has never heard of is no error", stopUnknown},
	{"Stop/ended", "Stop with a context that has ended returns, with an error where the machine may still run; Stop can then be called again", stopEnded},
	{"Stop/cut", "Stop returns when its context ends, and Stop can then be called again", stopCut},
	{"Stop/passing", "an error that passes by itself has a method RetryAfter() time.Duration; the machine runs as before, and the call can be made again", passing},
	{"Suspend/freezes", "Suspend freezes a machine and returns when it is frozen", suspendFreezes},
	{"Suspend/resumes", "a machine that was suspended can be resumed", suspendResumes},
	{"Suspend/unsupported", "after an error of Suspend that matches errors.ErrUnsupported the machine runs as before", suspendUnsupported},
	{"Suspend/idle", "Suspend of a machine that does not run is an error, which does not match errors.ErrUnsupported unless nothing can be suspended", suspendIdle},
	{"Suspend/stop", "Stop ends a suspended machine", suspendStop},
	{"Machines/apart", "operations on different machines may run at once, and do not touch others", apart},
}

func stopGone(b *bench) {
	for range 3 {
		m := b.boot()
		b.stop(m)
		b.silent(m)
	}
}

func stopIdle(b *bench) {
	m := b.boot()
	b.stop(m)
	b.stop(m)
	b.silent(m)
}

func stopUnknown(b *bench) {
	m := b.boot()
	ghost := m
	ghost.ID += "-that-never-was"
	b.stop(ghost)
	b.runs(m)
	ghost = m // of another app: a machine is known by its app and its ID
	ghost.App += "-that-never-was"
	b.stop(ghost)
	b.runs(m)
	b.stop(m)
}

func stopEnded(b *bench) {
	m := b.boot()
	ctx, cancel := context.WithCancel(b.ctx)
	cancel()
	switch err := b.tryStop(ctx, m); {
	case errors.Is(err, errBlocks):
		b.broken("Stop(%s) with a context that has ended: %v", m.ID, err)
	case err == nil:
		b.silent(m)
	}
	b.stop(m)
	b.silent(m)
}

// stopCut cancels a stop at whatever point it has reached.
func stopCut(b *bench) {
	for range 5 {
		m := b.boot()
		ctx, cancel := context.WithCancel(b.ctx)
		done := make(chan error, 1)
		go func() { done <- b.Driver.Stop(ctx, m) }()
		b.Runs(m) // some time
		cancel()
		select {
		case err := <-done:
			if err == nil {
				b.silent(m)
			}
		case <-b.ctx.Done():
			b.broken("Stop(%s) goes on after its context has ended", m.ID)
		}
		b.stop(m)
		b.silent(m)
	}
}

func passing(b *bench) {
	if b.Throttle == nil {
		b.Skip("Subject.Throttle is not set")
	}
	m := b.boot()
	b.Throttle(true)
	err := b.tryStop(b.ctx, m)
	var later interface{ RetryAfter() time.Duration }
	switch {
	case err == nil:
		b.broken("Stop(%s) returned no error", m.ID)
	case !errors.As(err, &later):
		b.broken("Stop(%s): %v", m.ID, err)
	case later.RetryAfter() < 0:
		b.broken("Stop(%s): %v, which is to be tried again in the past", m.ID, err)
	}
	b.runs(m)
	b.Throttle(false)
	b.stop(m)
	b.silent(m)
}

func suspendFreezes(b *bench) {
	m := b.boot()
	b.suspend(m)
	b.silent(m)
	b.stop(m)
}

func suspendResumes(b *bench) {
	if b.Resume == nil {
		b.Skip("Subject.Resume is not set")
	}
	m := b.boot()
	b.suspend(m)
	m.Epoch++
	if err := b.bound(func() error { return b.Resume(m) }); err != nil {
		b.broken("Resume(%s): %v", m.ID, err)
	}
	b.runs(m)
	b.stop(m)
	b.silent(m)
}

func suspendUnsupported(b *bench) {
	m := b.boot()
	if err := b.trySuspend(m); !errors.Is(err, errors.ErrUnsupported) {
		b.stop(m)
		b.Skip("the driver suspends")
	}
	b.runs(m)
	b.stop(m)
	b.silent(m)
}

func suspendIdle(b *bench) {
	m := b.boot()
	b.stop(m)
	if err := b.trySuspend(m); err == nil {
		b.broken("Suspend(%s) of a machine that had been stopped returned no error", m.ID)
	}
	other := b.boot()
	can := b.trySuspend(other) == nil
	b.stop(other)
	if err := b.trySuspend(m); can && errors.Is(err, errors.ErrUnsupported) {
		b.broken("Suspend(%s) of a machine that had been stopped: %v", m.ID, err)
	}
}

func suspendStop(b *bench) {
	m := b.boot()
	b.suspend(m)
	b.stop(m)
	b.silent(m)
	if b.Resume != nil { // a cold boot, or a refusal, but never the frozen machine
		b.stop(m)
	}
}

func apart(b *bench) {
	stays := b.boot()
	var all sync.WaitGroup
	machines := make([]balance.Machine, 6)
	errs := make([]error, len(machines))
	for i := range machines {
		machines[i] = b.boot()
	}
	for i, m := range machines {
		all.Go(func() {
			if i%2 == 0 {
				if errs[i] = b.trySuspend(m); errs[i] != nil && !errors.Is(errs[i], errors.ErrUnsupported) {
					return
				}
			}
			errs[i] = b.tryStop(b.ctx, m)
		})
	}
	all.Wait()
	for i, m := range machines {
		if errs[i] != nil {
			b.broken("%s: %v", m.ID, errs[i])
		}
		b.silent(m)
	}
	b.runs(stays)
	b.stop(stays)
}
